//! What an answer means for the call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use onlyonce_storage::{Clock, SystemClock};

use super::{BodyVerdict, TransportError, retry_after};
use crate::client::{Advice, Call, Cost, Executed, Pushback, Verdict};
use crate::http::{Body, Contents, ServingStore, Status, names};

type ReadBody = dyn Fn(&Response<Body>, &Contents) -> BodyVerdict + Send + Sync;
type ReadAnswer = dyn Fn(&Call, &Response<Body>) -> Verdict + Send + Sync;

/// What an answer means for the call.
///
/// `Idempotency-Status` is read before the code, since the code may be the application's:
///
/// | status | verdict |
/// | --- | --- |
/// | `executed`, `executed; unrecorded`, `replayed`, `attached` | the answer, whatever its code |
/// | `in-progress` | with 409 asked for again, at the cost of time only; otherwise another attempt |
/// | `in-doubt` | in doubt, never retried |
/// | `mismatch`, `stale` | refused, never retried |
/// | `not-executed` | another attempt after 408, 425, 429, 500 and 502 to 504, and after 400 with `Retry-After` (the request was cut off on its way); otherwise refused |
/// | `unprotected` | as without a status, but never retried |
///
/// Without a status it is the code that speaks, and less is proven:
///
/// | code | verdict |
/// | --- | --- |
/// | 425, 429 | another attempt; this one was not executed |
/// | 408, 502, 503, 504 | another attempt, towards a peer that is known to dedupe |
/// | 409 with `Retry-After`, from a peer that is known to dedupe | in progress: asked for again |
/// | 409, 412, 422 | the answer, if no earlier attempt may have been executed; otherwise refused |
/// | 400, 401, 407, 413, 421 | refused |
/// | other 5xx | refused, and the outcome is unknown |
/// | all others | the answer |
///
/// A 409, 412 or 422 may be what a server says that finds the effect there already: of a request that
/// something in between has sent twice, too. So it proves nothing, and is what the server answered.
///
/// With a status that this version does not know, or two of them, the code proves nothing of
/// execution.
///
/// What is refused is given to the caller as it came, unless an attempt may have been executed: then
/// it is not the answer to that one, and the call ends with its outcome unknown and the response
/// beside it.
///
/// The call is bound to the store that the first answer names. A later answer of another store proves
/// nothing of what the first one did, and ends the call.
#[derive(Clone)]
pub struct Classification {
    read: Reading,
}

#[derive(Clone)]
enum Reading {
    Custom(Arc<ReadAnswer>),
    Http {
        clock: Arc<dyn Clock>,
        body: Option<Arc<ReadBody>>,
    },
}

// === impl Classification ===

impl Classification {
    /// As the tables above have it.
    #[must_use]
    pub fn http() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// As the tables above have it. `clock` is asked where `Retry-After` is a date and the answer has
    /// none of its own.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            read: Reading::Http { clock, body: None },
        }
    }

    /// Looks into the bodies of answers too: see [`ErrorCodes`](super::ErrorCodes). `read` is asked only
    /// where all else says that this is the
    /// answer, and only for bodies that are in memory. A custom classification looks for itself.
    #[must_use]
    pub fn with_body<F>(mut self, read: F) -> Self
    where
        F: Fn(&Response<Body>, &Contents) -> BodyVerdict + Send + Sync + 'static,
    {
        if let Reading::Http { body, .. } = &mut self.read {
            *body = Some(Arc::new(read));
        }
        self
    }

    /// Asks `read` alone: for protocols on top of HTTP. It has to bind the call to the store that an
    /// answer names ([`Call::bind`]), or ask [`classify`](Self::classify) of [`http`](Self::http) first.
    #[must_use]
    pub fn custom<F>(read: F) -> Self
    where
        F: Fn(&Call, &Response<Body>) -> Verdict + Send + Sync + 'static,
    {
        Self {
            read: Reading::Custom(Arc::new(read)),
        }
    }

    /// What the result of an attempt means. Binds the call to the store that an answer names.
    #[must_use]
    pub fn classify(
        &self,
        call: &Call,
        result: Result<&Response<Body>, &TransportError>,
    ) -> Verdict {
        let response = match result {
            Ok(response) => response,
            Err(error) if error.is_final() => return Verdict::Refuse(error.executed()),
            Err(error) => {
                return retry(error.executed(), Pushback::Silent, Cost::Attempt);
            }
        };
        match &self.read {
            Reading::Custom(read) => read(call, response),
            Reading::Http { clock, body } => {
                let verdict = read_head(call, response, &**clock);
                match (verdict, body, response.body().contents()) {
                    (Verdict::Accept, Some(read), Some(contents)) => {
                        look_into(response, read(response, contents))
                    }
                    _ => verdict,
                }
            }
        }
    }
}

impl Default for Classification {
    fn default() -> Self {
        Self::http()
    }
}

impl fmt::Debug for Classification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classification").finish_non_exhaustive()
    }
}

fn read_head(call: &Call, response: &Response<Body>, clock: &dyn Clock) -> Verdict {
    let (headers, code) = (response.headers(), response.status());
    let status = Status::of(headers);
    let (bound, earlier) = (call.store().is_some(), call.maybe_executed_earlier());
    // What a route without protection says of a store is said of other routes.
    let store = ServingStore::of(headers).filter(|_| status != Some(Status::Unprotected));
    let elsewhere = store.is_some_and(|store| call.bind(store.id) != store.id);
    if elsewhere {
        return of_another_store(status);
    }
    let hint = retry_after::read(headers, clock);
    match status {
        Some(Status::Unprotected) => match of_code(code, hint, false, earlier) {
            Verdict::Retry(advice) => Verdict::Refuse(advice.executed),
            verdict => verdict,
        },
        Some(status) => of_status(status, code, hint, bound),
        // It says something that this version does not know, and that counts before the code.
        None if headers.contains_key(names::STATUS) => match of_code(code, hint, bound, true) {
            Verdict::Retry(advice) => Verdict::Retry(Advice {
                executed: Executed::Unknown,
                ..advice
            }),
            Verdict::Refuse(_) => Verdict::Refuse(Executed::Unknown),
            verdict => verdict,
        },
        None => match of_code(code, hint, bound, earlier) {
            // Whoever dedupes says so on each answer: this one is somebody else's, and the call has
            // another, or none.
            Verdict::Accept if may_be_answered_elsewhere(call) => {
                Verdict::Refuse(Executed::Unknown)
            }
            verdict => verdict,
        },
    }
}

/// Whether an earlier attempt may have been executed by a peer that dedupes, so that what says nothing
/// of the call cannot be its answer.
pub(crate) fn may_be_answered_elsewhere(call: &Call) -> bool {
    call.store().is_some() && (call.attempts() > 1 || call.sent_before())
}

/// What it says of a call whose earlier attempts met another store.
pub(crate) const fn of_another_store(status: Option<Status>) -> Verdict {
    match status {
        Some(Status::InDoubt) => Verdict::InDoubt,
        Some(Status::Mismatch | Status::NotExecuted | Status::Stale) => {
            Verdict::Refuse(Executed::NotThisAttempt)
        }
        _ => Verdict::Refuse(Executed::Unknown),
    }
}

fn of_status(status: Status, code: StatusCode, hint: Option<Duration>, bound: bool) -> Verdict {
    let pushback = |otherwise| hint.map_or(otherwise, Pushback::After);
    match status {
        Status::Attached | Status::Executed | Status::ExecutedUnrecorded | Status::Replayed => {
            Verdict::Accept
        }
        Status::InDoubt => Verdict::InDoubt,
        Status::InProgress => {
            let cost = if code == StatusCode::CONFLICT {
                Cost::OnlyTime
            } else {
                Cost::Attempt
            };
            retry(Executed::Unknown, pushback(Pushback::Silent), cost)
        }
        // The key belongs to another request now. That one may come to nothing and leave the key to
        // an earlier attempt of this one that is still on its way.
        Status::Mismatch => Verdict::Refuse(Executed::NotThisAttempt),
        Status::NotExecuted => match code.as_u16() {
            // A request that was cut off on its way is told so by 400, and to come again.
            400 if hint.is_none() => Verdict::Refuse(Executed::NotThisAttempt),
            400 | 408 | 425 | 500 | 502 | 504 => retry(
                Executed::NotThisAttempt,
                pushback(Pushback::Silent),
                Cost::Attempt,
            ),
            429 | 503 => retry(
                Executed::NotThisAttempt,
                pushback(Pushback::Overloaded),
                Cost::Attempt,
            ),
            // The store that was known is there no more, and the call met no other: it goes on with
            // the one that this answer names.
            421 if !bound => retry(Executed::NotThisAttempt, Pushback::Silent, Cost::Attempt),
            _ => Verdict::Refuse(Executed::NotThisAttempt),
        },
        Status::Stale => Verdict::Refuse(Executed::NotThisAttempt),
        // Has no table of its own.
        Status::Unprotected => Verdict::Refuse(Executed::Unknown),
    }
}

/// `earlier` says whether an earlier attempt may have been executed.
fn of_code(code: StatusCode, hint: Option<Duration>, bound: bool, earlier: bool) -> Verdict {
    let pushback = |otherwise| hint.map_or(otherwise, Pushback::After);
    match code.as_u16() {
        425 => retry(
            Executed::NotThisAttempt,
            pushback(Pushback::Silent),
            Cost::Attempt,
        ),
        429 => retry(
            Executed::NotThisAttempt,
            pushback(Pushback::Overloaded),
            Cost::Attempt,
        ),
        408 | 502 | 504 => retry(Executed::Unknown, pushback(Pushback::Silent), Cost::Attempt),
        503 => retry(
            Executed::Unknown,
            pushback(Pushback::Overloaded),
            Cost::Attempt,
        ),
        409 if bound && hint.is_some() => retry(
            Executed::Unknown,
            pushback(Pushback::Silent),
            Cost::OnlyTime,
        ),
        409 | 412 | 422 if !earlier => Verdict::Accept,
        400 | 401 | 407 | 409 | 412 | 413 | 421 | 422 => Verdict::Refuse(Executed::NotThisAttempt),
        500..=599 => Verdict::Refuse(Executed::Unknown),
        _ => Verdict::Accept,
    }
}

fn look_into(response: &Response<Body>, verdict: BodyVerdict) -> Verdict {
    let on_record = matches!(
        Status::of(response.headers()),
        Some(Status::Attached | Status::Executed | Status::ExecutedUnrecorded | Status::Replayed)
    );
    match verdict {
        BodyVerdict::InDoubt => Verdict::InDoubt,
        BodyVerdict::Retry(executed) if !on_record => {
            retry(executed, Pushback::Silent, Cost::Attempt)
        }
        BodyVerdict::Answer | BodyVerdict::Retry(_) => Verdict::Accept,
    }
}

pub(crate) const fn retry(executed: Executed, pushback: Pushback, cost: Cost) -> Verdict {
    Verdict::Retry(Advice {
        executed,
        pushback,
        cost,
    })
}
