//! The half beside the client.

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

use super::config::{Egress, KeepAlive, ProxyConfig, Upstream};
use super::forward::EGRESS;
use super::outbox::Calling;
use super::problem::{after, not_executed, problem};
use super::stream::Timed;
use super::{ConfigError, hop, upstream};
use crate::http::client::{Client, TransportError, stack};
use crate::http::{Body, Read, Status, names, read_key};
use crate::middleware::client::{
    Backoff, BackoffOptions, CallError, Last, Outcome, RetryBudget, RetryBudgetOptions, Stopped,
};
use crate::storage::IdempotencyKey;
use std::num::NonZeroU32;
use std::time::Duration;

/// Makes a key for each request, and sends it until it is answered.
pub(super) struct EgressProxy {
    client: Client,
    /// Asks whether the other side dedupes, once each time, and not out of the calls' budget.
    asking: Client,
    outbox: Option<Calling>,
    upstream: Upstream,
    keep_alive: KeepAlive,
    body_bytes_max: usize,
    client_timeout: Duration,
    timeout: Duration,
}

/// What is known of a call without an answer.
pub(super) struct Untold {
    pub(super) outcome: Outcome,
    /// Names the call; none where it has none yet.
    pub(super) key: Option<IdempotencyKey>,
    pub(super) attempts: u32,
    /// Another attempt would have met the same.
    pub(super) is_final: bool,
    /// What the other side, or somebody in between, said last.
    pub(super) response: Option<Box<Response<Body>>>,
}

// === impl EgressProxy ===

impl EgressProxy {
    pub(super) fn new(config: &ProxyConfig, egress: &Egress) -> Result<Self, ConfigError> {
        let limits = config.limits;
        let transport = upstream::transport(&config.upstream, &limits)?;
        let backoff = BackoffOptions {
            base: Duration::from_millis(50),
            factor: 2,
            cap: PAUSE_MAX,
        };
        // OK because these numbers make one.
        let backoff = Backoff::new(backoff).unwrap_or_default();
        let reserve = egress.retries_per_second;
        let attempts_max = egress.attempts_max;
        let asking = stack(transport.clone())
            .with_call_timeout(READY_WITHIN)
            .with_attempts_max(NonZeroU32::MIN)
            .build();
        let client = stack(transport)
            .with_call_timeout(limits.timeout)
            .with_attempt_timeout(egress.attempt_timeout)
            .with_retry(move |retry| retry.with_attempts_max(attempts_max).with_backoff(backoff))
            .with_budget(move || {
                RetryBudget::new(RetryBudgetOptions {
                    reserve_per_second: reserve,
                    ..RetryBudgetOptions::default()
                })
            })
            // What cannot be kept cannot be sent again: the larger ones are refused below.
            .with_request_bytes_max(limits.body_bytes_max)
            .with_answer_bytes_max(limits.answer_bytes_max)
            .require_dedupe()
            .build();
        Ok(Self {
            client,
            asking,
            outbox: None,
            upstream: config.upstream.clone(),
            keep_alive: egress.keep_alive,
            body_bytes_max: limits.body_bytes_max,
            client_timeout: limits.client_timeout,
            timeout: limits.timeout,
        })
    }

    /// What makes the calls.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Makes calls by `outbox` from now on.
    pub(super) fn keep_calls_in(&mut self, outbox: Calling) {
        self.outbox = Some(outbox);
    }

    pub(super) const fn keep_alive(&self) -> KeepAlive {
        self.keep_alive
    }

    pub(super) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let mut response = match self.readied(request).await {
            Ok(request) => {
                // Who brings a key has the call in hand. An outbox knows no principals: of two with the
                // same key it would take the one's call for the other's.
                let brings_key = request.headers().contains_key(names::KEY);
                let answered = match &self.outbox {
                    Some(outbox) if !request.method().is_safe() && !brings_key => {
                        outbox.call(request).await
                    }
                    _ => self.client.send(request).await.map_err(Untold::from),
                };
                answered.unwrap_or_else(Untold::told)
            }
            Err(refused) => refused,
        };
        hop::strip(response.headers_mut());
        response.map(|body| {
            // What is in memory came in time.
            if body.contents().is_some() {
                body
            } else {
                Body::stream(Timed::idle(body, self.timeout))
            }
        })
    }

    /// Whether calls would be made: the other side says that it dedupes, and the outbox keeps them. What
    /// is missing, otherwise.
    pub(super) async fn ready(&self) -> Result<(), &'static str> {
        if let Some(outbox) = &self.outbox {
            let able = tokio::time::timeout(READY_WITHIN, outbox.is_able()).await;
            if !matches!(able, Ok(true)) {
                return Err("the outbox does not keep calls: start this anew\n");
            }
        }
        if self.other_side_dedupes().await {
            Ok(())
        } else {
            Err("the other side does not say that it dedupes\n")
        }
    }

    async fn other_side_dedupes(&self) -> bool {
        let mut question = Request::new(Body::default());
        *question.method_mut() = Method::OPTIONS;
        question
            .headers_mut()
            .insert(EGRESS, HeaderValue::from_static("1"));
        if upstream::readdress(&mut question, &self.upstream).is_err() {
            return false;
        }
        let asked = tokio::time::timeout(READY_WITHIN, self.asking.send(question));
        matches!(asked.await, Ok(Ok(response)) if response.headers().contains_key(names::STORE))
    }

    /// The request as it goes on: whole, and with nothing that only this half may say.
    async fn readied(&self, request: Request<Body>) -> Result<Request<Body>, Response<Body>> {
        hop::check(request.headers(), None).map_err(|error| {
            let code = StatusCode::BAD_REQUEST;
            not_executed(code, "request-unreadable", &error.to_string())
        })?;
        read_key(request.headers()).map_err(|error| {
            let code = StatusCode::BAD_REQUEST;
            not_executed(code, "key-malformed", &error.to_string())
        })?;
        let (head, body) = request.into_parts();
        let reading = body.read(self.body_bytes_max);
        let body = match tokio::time::timeout(self.client_timeout, reading).await {
            Ok(Ok(Read::Whole(contents))) => Body::from(contents),
            Ok(Ok(Read::TooLarge(_))) => {
                let detail = "the body is longer than what can be sent again";
                let code = StatusCode::PAYLOAD_TOO_LARGE;
                return Err(not_executed(code, "too-large", detail));
            }
            Ok(Err(_)) => {
                let detail = "the request's body cannot be read to its end";
                let code = StatusCode::BAD_REQUEST;
                return Err(not_executed(code, "request-unreadable", detail));
            }
            Err(_elapsed) => {
                let detail = "the request's body did not come in time";
                let code = StatusCode::REQUEST_TIMEOUT;
                return Err(not_executed(code, "too-slow", detail));
            }
        };
        let mut request = Request::from_parts(head, body);
        upstream::readdress(&mut request, &self.upstream).map_err(|_| {
            let detail = "the address of the request cannot be used behind the upstream's";
            not_executed(StatusCode::BAD_REQUEST, "address", detail)
        })?;
        let safe = request.method().is_safe();
        let headers = request.headers_mut();
        hop::strip_words(headers);
        // Said in questions too: the client's own OPTIONS are the service's to answer.
        headers.remove(&EGRESS);
        if !safe {
            headers.insert(EGRESS, HeaderValue::from_static("1"));
        }
        Ok(request)
    }
}

// === impl Untold ===

impl Untold {
    /// Nobody knows.
    pub(super) fn unknown(key: Option<&IdempotencyKey>) -> Self {
        Self {
            outcome: Outcome::Unknown,
            key: key.cloned(),
            attempts: 0,
            is_final: false,
            response: None,
        }
    }

    /// The key is another call's.
    pub(super) fn mismatch() -> Self {
        let detail = "another request with this key is being sent";
        let mut response = problem(StatusCode::UNPROCESSABLE_ENTITY, "mismatch", detail);
        let status = Status::Mismatch.header_value();
        response.headers_mut().insert(names::STATUS, status);
        Self::refused(response)
    }

    pub(super) fn too_large(detail: &str) -> Self {
        let code = StatusCode::PAYLOAD_TOO_LARGE;
        Self::refused(not_executed(code, "too-large", detail))
    }

    /// As many calls are being made as may be, some of them for clients that have gone.
    pub(super) fn busy() -> Self {
        let detail = "this proxy is making as many calls as it may";
        let code = StatusCode::SERVICE_UNAVAILABLE;
        let response = not_executed(code, "too-many-requests", detail);
        Self::refused(after(response, PAUSE_MAX))
    }

    /// The outbox is full, or has failed before. One that fails may have written it: that is unknown.
    pub(super) fn not_kept(detail: &str) -> Self {
        let code = StatusCode::SERVICE_UNAVAILABLE;
        Self::refused(after(not_executed(code, "not-kept", detail), PAUSE_MAX))
    }

    pub(super) fn unwritable(detail: &str) -> Self {
        let code = StatusCode::BAD_REQUEST;
        Self::refused(not_executed(code, "request-unreadable", detail))
    }

    fn refused(response: Response<Body>) -> Self {
        Self {
            outcome: Outcome::NotExecuted,
            response: Some(Box::new(response)),
            ..Self::unknown(None)
        }
    }

    /// What a client is told. Nothing that sounds as if it could be tried again where it could have
    /// been executed.
    fn told(self) -> Response<Body> {
        let key = self.key.as_ref();
        match (self.outcome, self.response) {
            // The other side's own words are better than any of these.
            (Outcome::InDoubt | Outcome::NotExecuted, Some(response)) => *response,
            // It speaks of all that was sent from here. What a client has sent before under a key of
            // its own, it knows itself.
            (Outcome::Unknown, Some(response)) if self.attempts == 1 && is_refusal(&response) => {
                *response
            }
            (Outcome::NotExecuted, None) => {
                let detail = if self.is_final {
                    "the other side does not say that it dedupes; nothing was sent"
                } else {
                    "the other side could not be reached; nothing was executed"
                };
                let code = StatusCode::SERVICE_UNAVAILABLE;
                after(not_executed(code, "not-sent", detail), PAUSE_MAX)
            }
            (Outcome::InDoubt, None) => {
                let mut response =
                    problem(StatusCode::CONFLICT, "in-doubt", "the call is in doubt");
                let status = Status::InDoubt.header_value();
                response.headers_mut().insert(names::STATUS, status);
                with_key(response, key)
            }
            (Outcome::Unknown, _) => {
                let detail = "the outcome is unknown: the call may or may not have been executed. \
                              Its key is in the header idempotency-key; ask with it, never anew";
                let code = StatusCode::GATEWAY_TIMEOUT;
                with_key(problem(code, "outcome-unknown", detail), key)
            }
        }
    }
}

impl From<CallError<Response<Body>, TransportError>> for Untold {
    fn from(error: CallError<Response<Body>, TransportError>) -> Self {
        Self {
            outcome: error.outcome,
            key: Some(error.ticket.key),
            attempts: error.attempts,
            is_final: error.stopped == Stopped::Final,
            response: match error.last {
                Last::Response(response) => Some(Box::new(response)),
                Last::Elapsed | Last::Error(_) | Last::Nothing => None,
            },
        }
    }
}

/// Whether an answer says that this attempt was not executed. A 502, 503 or 504 of somebody in between
/// says nothing of the kind.
fn is_refusal(response: &Response<Body>) -> bool {
    let (code, headers) = (response.status(), response.headers());
    if headers.contains_key(names::STATUS) {
        return matches!(
            Status::of(headers),
            Some(Status::Mismatch | Status::NotExecuted | Status::Stale)
        );
    }
    let in_progress = code == StatusCode::CONFLICT && headers.contains_key(header::RETRY_AFTER);
    code.is_client_error() && code != StatusCode::REQUEST_TIMEOUT && !in_progress
}

/// For whoever finds out what became of it.
fn with_key(mut response: Response<Body>, key: Option<&IdempotencyKey>) -> Response<Body> {
    let Some(key) = key else { return response };
    let escaped = key.as_str().replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(value) = HeaderValue::try_from(format!("\"{escaped}\"")) {
        let name: HeaderName = names::KEY;
        response.headers_mut().insert(name, value);
    }
    response
}

/// Pauses between attempts are no longer than this: a service that is started anew is up again
/// within some of them.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A probe that takes longer is as good as none.
const READY_WITHIN: Duration = Duration::from_secs(2);
