//! How the server layers speak HTTP.

use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use onlyonce_storage::journal::AbandonedCall;
use onlyonce_storage::transaction::Transaction;
use onlyonce_storage::{
    Answer, AnswerFormat, Fingerprints, KeyDigest, KeyState, Scope, ScopedKey, Store, StoreId,
};
use tokio::time::Instant;

use super::answer::Recorded;
use super::fidelity::kept;
use super::handler::{EVENT_STREAM, Failure, FromRecord, Keep, Keeping, Kept};
use super::intake::hear_out;
use super::journal::{ALWAYS, revived, say_why, scope_outside};
use super::outcome::{applies_nothing, meaning};
use super::problem;
use super::recording::{
    answered, encode, in_transaction, nothing, outcome, say_as_kept, with_steps,
};
use super::rules::{KeyRule, Rules};
use super::stored::Protocol;
use super::words::{Asked, Words};
use crate::http::{Body, Contents, ServingStore, Status, key, names};
use crate::server::{
    Adapter, Admission, Execution, Guarantee, Intent, Recording, Refusal, Served, Steps,
};

/// Adapts the server layers to HTTP, for one route.
#[derive(Clone, Debug)]
pub(super) struct HttpAdapter {
    pub(super) store: Arc<dyn Store>,
    pub(super) rules: Arc<Rules>,
}

/// By which store a request is deduped already, and under which key; among its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DedupedBy(StoreId, KeyDigest);

/// The bytes of a recorded HTTP answer, for who settles a doubt: the answer that
/// [`Reconciled::Applied`](crate::server::Reconciled::Applied) and an operator are asked for.
///
/// What duplicates get is status, headers and body of `response`, less the headers that are never
/// kept.
///
/// ```
/// use onlyonce_middleware::server::Reconciled;
///
/// let receipt = http::Response::builder().status(201).body("paid".into()).unwrap();
/// let found = Reconciled::Applied(onlyonce_middleware::http::answer(receipt));
/// ```
///
/// # Panics
///
/// When the body has 4 GiB or more.
#[must_use]
pub fn answer(response: Response<Bytes>) -> Answer {
    let (parts, bytes) = response.into_parts();
    let contents = Contents {
        bytes,
        trailers: None,
    };
    let recorded = Recorded {
        status: parts.status,
        headers: kept(&parts.headers, &super::fidelity::CREDENTIALS),
        contents,
    };
    let bytes = recorded.encode().expect("the body has less than 4 GiB");
    Answer::new(ANSWER, bytes)
}

// === impl HttpAdapter ===

impl Adapter for HttpAdapter {
    type Request = Request<Body>;
    type Response = Response<Body>;
    type Error = Failure;

    fn admit(
        &self,
        request: Request<Body>,
    ) -> impl Future<Output = Admission<Request<Body>>> + Send {
        let (parts, body) = request.into_parts();
        let examined = self.examine(&parts);
        async move {
            match examined {
                Err(refusal) => {
                    // Boxed, since it happens seldom.
                    Box::pin(hear_out(&parts.headers, body)).await;
                    Admission::Refused(refusal)
                }
                Ok(None) => Admission::Unprotected(Request::from_parts(parts, body)),
                Ok(Some(asked)) => match self.rules.intake.read(body, asked.deadline).await {
                    Ok(contents) => self.protect(parts, contents, asked),
                    Err(refusal) => Admission::Refused(refusal),
                },
            }
        }
    }

    fn executing(&self, mut request: Request<Body>, execution: Execution) -> Request<Body> {
        request.extensions_mut().insert(execution);
        request
    }

    fn transacting(
        &self,
        request: &Request<Body>,
        execution: Execution,
        transaction: &Transaction,
    ) -> Option<Request<Body>> {
        in_transaction(request, execution, transaction)
    }

    fn journaling(
        &self,
        request: Request<Body>,
        execution: Execution,
        steps: &Steps,
    ) -> Option<Request<Body>> {
        Some(with_steps(request, execution, steps))
    }

    fn revive(&self, call: &AbandonedCall) -> Option<(Intent, Request<Body>)> {
        let revived = revived(&self.rules, call);
        let revived = revived.map_err(|why| say_why(call, why)).ok()?;
        let fingerprints = Fingerprints::new(call.fingerprint);
        let mut intent = Intent::new(call.key.clone(), fingerprints);
        intent.guarantee = Guarantee::Journaled;
        intent.first_sent = call.first_sent;
        intent.stored_request = Some(call.request.clone());
        intent.goes_on_from = Some(call.token);
        let request = self.request(revived.parts, revived.contents, &call.key);
        Some((intent, request))
    }

    fn record(
        &self,
        result: Result<Response<Body>, Failure>,
    ) -> impl Future<Output = Recording<Response<Body>>> + Send {
        ready(self.recording(result))
    }

    fn replay(&self, answer: &Answer, served: Served) -> Result<Response<Body>, Refusal> {
        let mut response = Recorded::read(answer, ANSWER)?.into_response();
        if self.rules.on_replay.is_some() {
            response.extensions_mut().insert(FromRecord);
        }
        self.mark_headers(response.headers_mut(), status(served));
        Ok(response)
    }

    fn mark(&self, mut response: Response<Body>, served: Served) -> Response<Body> {
        let headers = response.headers_mut();
        // What another server said of a call that it did not execute keeps its name.
        let said = Status::of(headers).filter(|said| {
            let refused = matches!(
                said,
                Status::InDoubt
                    | Status::InProgress
                    | Status::Mismatch
                    | Status::NotExecuted
                    | Status::Stale
            );
            refused && matches!(served, Served::NotExecuted | Served::Unprotected)
        });
        headers.remove(names::REPLAYED);
        self.mark_headers(headers, said.unwrap_or_else(|| status(served)));
        response
    }

    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        let mut response = problem::response(refusal);
        let headers = response.headers_mut();
        self.name_store(headers);
        self.expose(headers);
        response
    }

    fn tell(&self, _: &KeyState) -> Response<Body> {
        // OK because `admit` asks no questions.
        self.refuse(&Refusal::Unreadable {
            reason: "questions about keys are not answered here".to_owned(),
        })
    }
}

impl HttpAdapter {
    /// Says that the caller may not see the answer that is kept.
    pub(super) fn withhold(&self, kept: &HeaderMap) -> Response<Body> {
        let mut response = problem::not_authorised();
        let headers = response.headers_mut();
        say_as_kept(headers, kept);
        self.name_store(headers);
        self.expose(headers);
        response
    }

    /// What the head of a request asks for; nothing where it passes unprotected.
    fn examine(&self, parts: &Parts) -> Result<Option<Asked>, Refusal> {
        let rules = &*self.rules;
        let now = Instant::now();
        if parts.method.is_safe() {
            return Ok(None);
        }
        let key = match key::read(&parts.headers).map_err(Refusal::KeyMalformed)? {
            None if rules.requires_key(&parts.method) => return Err(Refusal::KeyMissing),
            None => return Ok(None),
            Some(_) if rules.key == KeyRule::Refused => {
                return Err(Refusal::Unreadable {
                    reason: BATCH.to_owned(),
                });
            }
            Some(key) => key,
        };
        let scope = rules.scope_of(parts).ok_or(Refusal::ScopeMissing)?;
        let words = Words::read(&parts.headers, now)?;
        let key = ScopedKey::new(scope, key);
        if parts.extensions.get() == Some(&DedupedBy::of(&*self.store, &key)) {
            return Err(deduped_twice());
        }
        if rules.keep == Keep::Whole && wants_only_events(&parts.headers) {
            return Err(Refusal::NotRecordable { reason: EVENTS });
        }
        let own = rules.deadline_max.and_then(|max| now.checked_add(max));
        Ok(Some(Asked {
            key,
            deadline: words.deadline.into_iter().chain(own).min(),
            words,
        }))
    }

    /// What the handler's result, whose body is read, means.
    fn recording(&self, result: Result<Response<Body>, Failure>) -> Recording<Response<Body>> {
        let Some((parts, body, kept)) = answered(result) else {
            return nothing();
        };
        let answer = || match (kept, body.contents()) {
            (Kept::Head, _) => self.encode(&parts, None),
            (Kept::Whole, Some(contents)) => self.encode(&parts, Some(contents)),
            _ => None,
        };
        Recording {
            outcome: outcome(meaning(&parts, self.rules.releases_503), answer),
            response: Some(Response::from_parts(parts, body)),
        }
    }

    /// Says what the call is.
    fn protect(
        &self,
        mut parts: Parts,
        contents: Contents,
        asked: Asked,
    ) -> Admission<Request<Body>> {
        let rules = &*self.rules;
        let sent_to = original_uri(&parts);
        let fingerprints = rules.fingerprint.of(&parts, sent_to, &contents);
        let mut stored = None;
        if rules.guarantee == Guarantee::Journaled {
            let names = ALWAYS.iter().chain(rules.fingerprint.headers());
            let request = (&parts, &contents);
            let kept = rules.journal.kept(Protocol::Http, request, sent_to, names);
            match kept {
                Ok(kept) => stored = Some(kept),
                Err(refusal) => return Admission::Refused(refusal),
            }
            // The same in each run of the call, whoever asks.
            if parts.extensions.get::<Scope>().is_none() {
                let scope = scope_outside(rules, &asked.key);
                parts.extensions.insert(scope);
            }
        }
        let (key, attempt) = (asked.key.clone(), asked.words.attempt);
        let mut intent = asked.into_intent(fingerprints);
        intent.guarantee = rules.guarantee;
        intent.stored_request = stored;
        intent.caller_retries = attempt.is_some();
        Admission::Protected(intent, self.request(parts, contents, &key))
    }

    /// The request as the handler gets it.
    fn request(&self, mut parts: Parts, contents: Contents, key: &ScopedKey) -> Request<Body> {
        parts.extensions.insert(key.key().clone());
        parts.extensions.insert(DedupedBy::of(&*self.store, key));
        parts.extensions.insert(Keeping {
            keep: self.rules.keep,
            answer_bytes_max: self.rules.answer_bytes_max,
            applies_nothing: |parts, _| applies_nothing(parts),
        });
        Request::from_parts(parts, Body::from(contents))
    }

    fn encode(&self, parts: &http::response::Parts, contents: Option<&Contents>) -> Option<Answer> {
        let Rules {
            withheld,
            answer_bytes_max,
            ..
        } = &*self.rules;
        encode(ANSWER, parts, contents, withheld, *answer_bytes_max)
    }

    fn mark_headers(&self, headers: &mut HeaderMap, status: Status) {
        headers.insert(names::STATUS, status.header_value());
        self.name_store(headers);
        if matches!(status, Status::Attached | Status::Replayed) {
            headers.insert(names::REPLAYED, HeaderValue::from_static("true"));
        }
        self.expose(headers);
    }

    /// Says which store dedupes here, where one does: a client may retry by it.
    fn name_store(&self, headers: &mut HeaderMap) {
        if self.rules.key == KeyRule::Refused {
            headers.remove(names::STORE);
            return;
        }
        let serving = ServingStore {
            id: self.store.id(),
            now: Some(self.store.now()),
        };
        headers.insert(names::STORE, serving.header_value());
    }

    /// Lets scripts of other origins read what is said here.
    fn expose(&self, headers: &mut HeaderMap) {
        if self.rules.exposes_to_cors {
            let names = HeaderValue::from_static(EXPOSED);
            headers.append(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
        }
    }
}

pub(crate) const fn status(served: Served) -> Status {
    match served {
        Served::Attached => Status::Attached,
        Served::Executed => Status::Executed,
        Served::ExecutedUnrecorded => Status::ExecutedUnrecorded,
        Served::InDoubt => Status::InDoubt,
        Served::NotExecuted => Status::NotExecuted,
        Served::Replayed => Status::Replayed,
        Served::Unprotected => Status::Unprotected,
    }
}

/// Why a layer refuses what another one of the same store dedupes already under the same key.
/// Waiting for its own call it would end in doubt.
pub(crate) fn deduped_twice() -> Refusal {
    Refusal::Unavailable {
        reason: TWICE.to_owned(),
        retry_after: TWICE_PAUSE,
    }
}

impl DedupedBy {
    /// What marks a call under `key` that is deduped by `store`.
    pub(crate) fn of(store: &dyn Store, key: &ScopedKey) -> Self {
        Self(store.id(), key.digest())
    }
}

/// The address as the client sent it: axum takes the prefix of nested routers away, and two of them
/// must not share a key because what is left is the same.
fn original_uri(request: &Parts) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = request.extensions.get::<::axum::extract::OriginalUri>() {
        return &original.0;
    }
    &request.uri
}

/// Whether the caller takes nothing but events, which no record can keep.
fn wants_only_events(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter();
    let mut ranges = values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|range| range.split(|byte| *byte == b';').next().unwrap_or_default())
        .map(<[u8]>::trim_ascii)
        .peekable();
    ranges.peek().is_some() && ranges.all(|range| range.eq_ignore_ascii_case(EVENT_STREAM))
}

/// Numbers of formats are never used again.
const ANSWER: AnswerFormat = AnswerFormat::new(2);

const BATCH: &str = "this address takes several items at once, and one idempotency key cannot stand \
                     for them: send it without";
const TWICE: &str = "two dedupe layers of one store stand on this address: leave one of them";
/// Nothing changes before somebody changes the server.
const TWICE_PAUSE: Duration = Duration::from_secs(1);

const EVENTS: &str = "a stream of events cannot be recorded; accept another content type";

const EXPOSED: &str = "idempotency-status, idempotency-store, idempotent-replayed, retry-after, \
                       retry-after-ms";
