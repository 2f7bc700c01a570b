//! How the server layers speak gRPC.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use onlyonce_storage::journal::AbandonedCall;
use onlyonce_storage::transaction::Transaction;
use onlyonce_storage::{
    Answer, AnswerFormat, Comparison, Fingerprints, KeyState, Scope, ScopedKey, Store,
};
use tokio::time::Instant;

use super::declaration::{Entering, NeverEntered};
use super::outcome::{applies_nothing, meaning};
use super::rules::Rules;
use super::{fingerprint, refusal};
use crate::grpc::message::{Message, PREFIX_BYTES};
use crate::grpc::methods::Protection;
use crate::grpc::{names as grpc, timeout};
use crate::http::server::adapter::{DedupedBy, deduped_twice, status};
use crate::http::server::answer::Recorded;
use crate::http::server::fidelity::{CREDENTIALS, kept};
use crate::http::server::handler::{Failure, FromRecord, Keep, Keeping, Kept};
use crate::http::server::intake::hear_out;
use crate::http::server::journal::{NotRevived, Revived, say_why};
use crate::http::server::outcome::Meaning;
use crate::http::server::recording::{
    answered, encode, in_transaction, nothing, outcome, say_as_kept, with_steps,
};
use crate::http::server::stored::Protocol;
use crate::http::server::words::{Asked, Words};
use crate::http::{Body, Contents, NotExecuted, ServingStore, Status, key, names};
use crate::server::{
    Adapter, Admission, Execution, Guarantee, Intent, Recording, Refusal, Served, Steps,
};

/// Adapts the server layers to gRPC.
#[derive(Clone, Debug)]
pub(super) struct GrpcAdapter {
    pub(super) store: Arc<dyn Store>,
    pub(super) rules: Arc<Rules>,
}

/// Marks a response of which a layer like this one has said how its caller got it; among its
/// extensions, which no server of others can set.
#[derive(Clone, Copy, Debug)]
struct Marked;

/// The bytes of a recorded gRPC answer, for who settles a doubt: the answer that
/// [`Reconciled::Applied`](crate::server::Reconciled::Applied) and an operator are asked for.
///
/// What duplicates get is a success with this message, which is the encoded one, not compressed.
///
/// ```
/// use onlyonce_middleware::server::Reconciled;
///
/// let receipt = b"\x0a\x04paid".to_vec();
/// let found = Reconciled::Applied(onlyonce_middleware::grpc::answer(receipt));
/// ```
///
/// # Panics
///
/// When the message has 4 GiB or more.
#[must_use]
pub fn answer(message: impl Into<Bytes>) -> Answer {
    let message = message.into();
    let length = u32::try_from(message.len()).expect("the message has less than 4 GiB");
    let mut framed = Vec::with_capacity(PREFIX_BYTES + message.len());
    framed.push(0);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message);
    let mut headers = HeaderMap::new();
    let content_type = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, content_type);
    let mut trailers = HeaderMap::new();
    trailers.insert(grpc::STATUS, HeaderValue::from_static("0"));
    let recorded = Recorded {
        status: StatusCode::OK,
        headers: kept(&headers, &CREDENTIALS),
        contents: Contents {
            bytes: framed.into(),
            trailers: Some(trailers),
        },
    };
    let bytes = recorded.encode().expect("the message has less than 4 GiB");
    Answer::new(ANSWER, bytes)
}

// === impl GrpcAdapter ===

impl Adapter for GrpcAdapter {
    type Request = Request<Body>;
    type Response = Response<Body>;
    type Error = Failure;

    async fn admit(&self, request: Request<Body>) -> Admission<Request<Body>> {
        if !self.rules.methods.protects(request.uri().path()) {
            return Admission::Unprotected(request);
        }
        let (parts, body) = request.into_parts();
        match self.examine(&parts) {
            Err(refusal) => {
                hear_out(&parts.headers, body).await;
                Admission::Refused(refusal)
            }
            Ok(asked) => {
                let protected = self.protect(parts, body, asked).await;
                protected.unwrap_or_else(Admission::Refused)
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
        let revived = self.revived(call);
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

    async fn record(&self, result: Result<Response<Body>, Failure>) -> Recording<Response<Body>> {
        let Some((mut parts, body, kept)) = answered(result) else {
            return nothing();
        };
        let contents = body.contents().filter(|_| kept == Kept::Whole);
        if self.rules.entry_forgotten.load(Ordering::Acquire) {
            parts.extensions.remove::<NeverEntered>();
        }
        let meaning = meaning(&parts, contents, &self.rules.releases);
        let never_entered = parts.extensions.remove::<NeverEntered>().is_some();
        if never_entered && meaning == Meaning::Final {
            self.rules.entry_forgotten.store(true, Ordering::Release);
            tracing::error!(
                target: "onlyonce",
                "a method whose handler is said to enter has succeeded without: from now on what was \
                 not entered is taken for what may have been executed"
            );
        }
        let outcome = outcome(meaning, || self.encode(&parts, contents?));
        // What the handler's own callees said of their calls is not so of this one.
        remove_ours(&mut parts.headers);
        let body = match body.contents().cloned() {
            None => body,
            Some(mut contents) => {
                contents.trailers.iter_mut().for_each(remove_ours);
                Body::from(contents)
            }
        };
        Recording {
            outcome,
            response: Some(Response::from_parts(parts, body)),
        }
    }

    fn replay(&self, answer: &Answer, served: Served) -> Result<Response<Body>, Refusal> {
        let mut response = Recorded::read(answer, ANSWER)?.into_response();
        response.extensions_mut().insert(FromRecord);
        Ok(self.say(response, status(served)))
    }

    fn mark(&self, response: Response<Body>, served: Served) -> Response<Body> {
        let marked = response.extensions().get::<Marked>().is_some();
        if served == Served::Unprotected && marked {
            // By another layer, whose methods these are.
            return response;
        }
        self.say(response, status(served))
    }

    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        let mut response = self.put_store(refusal::response(refusal));
        if *refusal == deduped_twice() {
            // For the other layer, around this one: no code says so by itself.
            response.extensions_mut().insert(NotExecuted);
        }
        response
    }

    fn tell(&self, _: &KeyState) -> Response<Body> {
        // OK because `admit` asks no questions.
        self.refuse(&Refusal::Unreadable {
            reason: "questions about keys are not answered here".to_owned(),
        })
    }
}

impl GrpcAdapter {
    /// The answer to `request` if it asks whether a method is protected, which it is: with `OPTIONS`,
    /// as over HTTP. It never comes to a handler, since those of tonic look at the path alone.
    pub(super) fn answer_question<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let asks = request.method() == Method::OPTIONS;
        let protected = asks && self.rules.methods.protects(request.uri().path());
        protected.then(|| self.put_store(refusal::told()))
    }

    /// Says that the caller may not see the answer that is kept.
    pub(super) fn withhold(&self, kept: &HeaderMap) -> Response<Body> {
        let mut response = refusal::not_authorised();
        say_as_kept(response.headers_mut(), kept);
        self.put_store(response)
    }

    /// What the head of a request to a protected method asks for.
    fn examine(&self, parts: &Parts) -> Result<Asked, Refusal> {
        let now = Instant::now();
        if parts.method != Method::POST || !is_grpc(&parts.headers) {
            return Err(unreadable(NOT_GRPC));
        }
        let key = key::read(&parts.headers).map_err(Refusal::KeyMalformed)?;
        let key = key.ok_or(Refusal::KeyMissing)?;
        let scope = self.rules.scope_of(parts).ok_or(Refusal::ScopeMissing)?;
        let key = ScopedKey::new(scope, key);
        if parts.extensions.get() == Some(&DedupedBy::of(&*self.store, &key)) {
            return Err(deduped_twice());
        }
        let words = Words::read(&parts.headers, now)?;
        let left = timeout::read(&parts.headers).map_err(|error| unreadable(&error.to_string()))?;
        let deadlines = [left, self.rules.deadline_max].into_iter().flatten();
        let deadlines = deadlines.filter_map(|left| now.checked_add(left));
        Ok(Asked {
            key,
            deadline: deadlines.chain(words.deadline).min(),
            words,
        })
    }

    /// Reads the message, and says what the call is.
    async fn protect(
        &self,
        mut parts: Parts,
        body: Body,
        asked: Asked,
    ) -> Result<Admission<Request<Body>>, Refusal> {
        let contents = self.rules.intake.read(body, asked.deadline).await?;
        let message = Message::only_one_of(&contents.bytes).map_err(unreadable)?;
        let fingerprints = fingerprint::of(&parts, &message);
        let mut stored = None;
        if self.rules.guarantee == Guarantee::Journaled {
            let request = (&parts, &contents);
            let kept = self
                .rules
                .journal
                .kept(Protocol::Grpc, request, &parts.uri, KEPT.iter())?;
            stored = Some(kept);
            // The same in each run of the call, whoever asks.
            if parts.extensions.get::<Scope>().is_none() {
                parts.extensions.insert(asked.key.scope().clone());
            }
        }
        let (key, attempt) = (asked.key.clone(), asked.words.attempt);
        let mut intent = asked.into_intent(fingerprints);
        intent.guarantee = self.rules.guarantee;
        intent.stored_request = stored;
        let repeated = parts.headers.contains_key(grpc::PREVIOUS_ATTEMPTS);
        intent.caller_retries = attempt.is_some() || repeated;
        // A duplicate may come from a client that takes another compression, or none.
        parts.headers.remove(grpc::ACCEPT_ENCODING);
        let request = self.request(parts, contents, &key);
        Ok(Admission::Protected(intent, request))
    }

    /// The request as the handler gets it.
    fn request(&self, mut parts: Parts, contents: Contents, key: &ScopedKey) -> Request<Body> {
        let said_of_method = self.rules.methods.protection(parts.uri.path());
        if said_of_method == Some(Protection::ProtectedEntered) {
            parts.extensions.insert(Entering);
        }
        parts.extensions.insert(key.key().clone());
        parts.extensions.insert(DedupedBy::of(&*self.store, key));
        parts.extensions.insert(Keeping {
            keep: Keep::Whole,
            answer_bytes_max: self.rules.answer_bytes_max,
            applies_nothing,
        });
        Request::from_parts(parts, Body::from(contents))
    }

    /// The request of a call that stands still, with what a layer outside would have put there.
    fn revived(&self, call: &AbandonedCall) -> Result<Revived, NotRevived> {
        let rules = &*self.rules;
        if rules.guarantee != Guarantee::Journaled {
            return Err(NotRevived::Elsewhere);
        }
        let mut revived = rules.journal.revived(Protocol::Grpc, call)?;
        let message = Message::only_one_of(&revived.contents.bytes);
        let message = message.map_err(|_| NotRevived::OtherRequest)?;
        let fingerprints = fingerprint::of(&revived.parts, &message);
        let same = fingerprints.compare(&call.fingerprint) == Comparison::Same;
        if !same || revived.parts.method != Method::POST {
            return Err(NotRevived::OtherRequest);
        }
        // Each of two layers has methods of its own.
        if !rules.methods.protects(revived.parts.uri.path()) {
            return Err(NotRevived::Elsewhere);
        }
        let scope = call.key.scope().clone();
        revived.parts.extensions.insert(scope);
        Ok(revived)
    }

    fn encode(&self, parts: &http::response::Parts, contents: &Contents) -> Option<Answer> {
        let Rules {
            withheld,
            answer_bytes_max,
            ..
        } = &*self.rules;
        encode(ANSWER, parts, Some(contents), withheld, *answer_bytes_max)
    }

    /// Says how the caller got this answer, in place of whatever was said.
    fn say(&self, mut response: Response<Body>, status: Status) -> Response<Body> {
        response.extensions_mut().insert(Marked);
        let headers = response.headers_mut();
        remove_ours(headers);
        headers.insert(names::STATUS, status.header_value());
        if matches!(status, Status::Attached | Status::Replayed) {
            headers.insert(names::REPLAYED, HeaderValue::from_static("true"));
        }
        self.put_store(response)
    }

    fn put_store(&self, mut response: Response<Body>) -> Response<Body> {
        let store = ServingStore {
            id: self.store.id(),
            now: Some(self.store.now()),
        };
        response.extensions_mut().insert(Marked);
        let headers = response.headers_mut();
        headers.insert(names::STORE, store.header_value());
        response
    }
}

/// Whether it is gRPC itself: gRPC-Web says in its body how a call ended, and is translated outside.
fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&[][..], |value| value.as_bytes());
    let Some((essence, rest)) = content_type.split_at_checked(GRPC.len()) else {
        return false;
    };
    essence.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';'))
}

fn remove_ours(lines: &mut HeaderMap) {
    for name in OURS {
        lines.remove(name);
    }
}

fn unreadable(reason: &str) -> Refusal {
    Refusal::Unreadable {
        reason: reason.to_owned(),
    }
}

/// Numbers of formats are never used again.
const ANSWER: AnswerFormat = AnswerFormat::new(3);

/// How to read the message.
const KEPT: [HeaderName; 2] = [header::CONTENT_TYPE, grpc::ENCODING];

const GRPC: &[u8] = b"application/grpc";
const NOT_GRPC: &str = "a protected method takes gRPC: POST, and content type application/grpc";

/// What is said of a call, and only by the layer that it went through.
const OURS: [HeaderName; 3] = [names::REPLAYED, names::STATUS, names::STORE];

#[cfg(test)]
mod tests {
    use super::*;

    // Golden bytes: as the manual has them for operators.
    #[test]
    fn the_bytes_of_an_answer_are_those_that_are_recorded() {
        let golden = b"\x01\x00\xc8\x00\x00\x00\x01\
            \x00\x0ccontent-type\x00\x00\x00\x10application/grpc\
            \x00\x00\x00\x09\x00\x00\x00\x00\x04paid\
            \x01\x00\x00\x00\x01\x00\x0bgrpc-status\x00\x00\x00\x010";
        let answer = answer(b"paid".as_slice());
        assert_eq!(answer.body(), golden.as_slice());
        assert_eq!(answer.format().number(), 3);
    }
}
