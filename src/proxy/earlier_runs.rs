//! The calls that an earlier run of an egress had taken and not ended: they are driven on. Nobody waits
//! for them any more, so how each ended is said in the log, by its number in the outbox, and counted.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::{Response, StatusCode};
use metrics::{counter, gauge};
use tokio::time::sleep;

use super::figures;
use super::outbox::{is_whole, remove};
use crate::http::client::{Outbox, OutboxFailure, Pending};
use crate::http::{Body, ServingStore, names};
use crate::storage::outbox::{OutboxError, OutboxState};
use crate::storage::{Clock, IdempotencyKey, RetentionOptions, SystemClock, Timestamp};

/// What earlier runs have left.
pub(super) struct EarlierRuns {
    outbox: Outbox,
    left: Vec<Left>,
    unsent_max: Duration,
}

/// A call of an earlier run that has not ended yet.
struct Left {
    key: IdempotencyKey,
    /// It was said that it stays.
    said: bool,
}

/// How a call of an earlier run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// With this answer.
    Answered(StatusCode),
    /// With this answer, which was too large to be kept.
    AnsweredAtLength(StatusCode),
    /// The other side says that it cannot know.
    InDoubt,
    /// Nothing of it was executed.
    Refused(&'static str),
    /// Nobody can tell any more.
    Unknown(&'static str),
}

// === impl EarlierRuns ===

impl EarlierRuns {
    /// All that is in `outbox`. What was never sent is not made any more once it is older than
    /// `unsent_max`.
    pub(super) fn new(outbox: Outbox, pending: Vec<Pending>, unsent_max: Duration) -> Self {
        let left = |pending: Pending| Left {
            key: pending.call.key,
            said: false,
        };
        Self {
            outbox,
            left: pending.into_iter().map(left).collect(),
            unsent_max,
        }
    }

    /// Drives on until each call has ended.
    pub(super) async fn drive_on(mut self) {
        if !self.left.is_empty() {
            tracing::warn!(target: "onlyonce", calls = self.left.len(), "calls that an earlier run had taken are driven on");
        }
        let mut pause = PAUSE;
        loop {
            #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
            gauge!(figures::LEFT_BY_EARLIER_RUNS).set(self.left.len() as f64);
            if self.left.is_empty() {
                return;
            }
            self.round().await;
            if !self.left.is_empty() {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// One more run of each.
    async fn round(&mut self) {
        let pending = match self.outbox.pending().await {
            Ok(pending) => pending,
            Err(error) => {
                tracing::warn!(target: "onlyonce", %error, "calls of an earlier run cannot be read from the outbox");
                return;
            }
        };
        let by_key = |pending: Pending| (pending.call.key.clone(), pending);
        let mut pending: HashMap<_, _> = pending.into_iter().map(by_key).collect();
        let left = std::mem::take(&mut self.left).into_iter();
        // What is not there any more has ended.
        let left = left.filter_map(|left| pending.remove(&left.key).map(|pending| (left, pending)));
        let (outbox, unsent_max) = (&self.outbox, self.unsent_max);
        let driving = left.map(|(left, pending)| drive(outbox, left, pending, unsent_max));
        let driven: Vec<_> = stream::iter(driving)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        self.left = driven.into_iter().flatten().collect();
    }
}

/// One more run of a call, unless it may not be made: the call, where it has not ended.
async fn drive(
    outbox: &Outbox,
    left: Left,
    pending: Pending,
    unsent_max: Duration,
) -> Option<Left> {
    let (call, age) = (pending.call, pending.age);
    let known_age = (!is_of_the_future(call.written_at, SystemClock.now())).then_some(age);
    let whole = match outbox.request(&call.key).await {
        Ok(request) => is_whole(&request),
        // What cannot be read is said to be so when it is resumed, and not sent.
        Err(_) => true,
    };
    let ended = match unmade(&call.state, known_age, whole, unsent_max) {
        Some(ended) => Ok(ended),
        None => match outbox.resume(&call.key).await {
            Ok(kept) => Ok(Ended::Answered(kept.response.status())),
            Err(OutboxFailure::Outbox {
                error: OutboxError::NotThere,
                ..
            }) => return None,
            Err(failure) => ended(&failure, &call.state, age).ok_or(failure),
        },
    };
    let number = call.number;
    let ended = match ended {
        Ok(ended) => ended,
        Err(failure) => {
            if !left.said {
                tracing::warn!(target: "onlyonce", call = number, age = ?age, "a call of an earlier run stays, and is driven on: {failure}");
            }
            return Some(Left { said: true, ..left });
        }
    };
    tracing::warn!(target: "onlyonce", call = number, age = ?age, "a call of an earlier run has ended: {ended}");
    counter!(figures::DRIVEN_ON, "ended" => ended.word()).increment(1);
    let removed = match ended {
        Ended::Answered(_) => outbox.acknowledge(&call.key).await,
        Ended::Refused(_) => outbox.cancel(&call.key).await,
        Ended::AnsweredAtLength(_) | Ended::InDoubt | Ended::Unknown(_) => {
            remove(outbox, &call.key).await
        }
    };
    if let Err(error) = removed {
        tracing::warn!(target: "onlyonce", call = number, %error, "a call that has ended stays in the outbox");
    }
    None
}

/// How a call ends that may not be made, or not be sent again. Its `age` may not be known.
fn unmade(
    state: &OutboxState,
    age: Option<Duration>,
    whole: bool,
    unsent_max: Duration,
) -> Option<Ended> {
    match state {
        OutboxState::Unsent if age.is_none() => Some(Ended::Refused(
            "it was never sent, and how old it is is not known: the clock was set back",
        )),
        OutboxState::Unsent if age.is_some_and(|age| age > unsent_max) => {
            Some(Ended::Refused("it was never sent, and is too old"))
        }
        OutboxState::Unsent if !whole => Some(Ended::Refused(
            "it was never sent, and its credentials were not kept",
        )),
        // Without them it would be another call, and the answer to that one be recorded for its key.
        OutboxState::Sent(_) | OutboxState::InDoubt(_) if !whole => {
            Some(Ended::Unknown("its credentials were not kept"))
        }
        _ => None,
    }
}

/// What a run without an answer means for a call of this age that nobody waits for; none where another
/// may fare better.
fn ended(failure: &OutboxFailure, state: &OutboxState, age: Duration) -> Option<Ended> {
    match failure {
        OutboxFailure::InDoubt(_) => Some(Ended::InDoubt),
        OutboxFailure::NotExecuted(unfinished) => {
            let refused = unfinished.response.as_deref().is_some_and(is_refusal);
            refused.then_some(Ended::Refused("the other side refuses it"))
        }
        OutboxFailure::OutcomeUnknown(unfinished) => {
            if let Some(answer) = &unfinished.answer {
                return Some(Ended::AnsweredAtLength(answer.status()));
            }
            if unfinished.cannot_tell.is_some() {
                return Some(Ended::Unknown("nobody remembers it any more"));
            }
            unknown(unfinished.response.as_deref(), state, age)
        }
        OutboxFailure::AnswerNotKept {
            error: OutboxError::AnswerTooLarge { .. },
            response,
            ..
        } => {
            let status = response.as_ref().map(|response| response.status());
            Some(Ended::AnsweredAtLength(status.unwrap_or_default()))
        }
        OutboxFailure::Unreadable { .. } => Some(Ended::Unknown("what is kept cannot be read")),
        _ => None,
    }
}

/// How a call ends that may have been executed, and whose last attempt this was the response to.
fn unknown(response: Option<&Response<Body>>, state: &OutboxState, age: Duration) -> Option<Ended> {
    let why = if response.is_some_and(|response| is_of_another_store(response, state)) {
        "the other side has another store than the one that the call met"
    } else if response.is_some_and(is_refusal) {
        "the other side refuses it now"
    } else if age > RetentionOptions::default().horizon {
        "it is older than what the other side remembers"
    } else {
        return None;
    };
    Some(Ended::Unknown(why))
}

/// Whether asking again would be refused again. Somebody in between, who says nothing of the call, may be
/// gone by then.
fn is_refusal(response: &Response<Body>) -> bool {
    response.headers().contains_key(names::STATUS) && is_for_good(response.status())
}

/// A store that the call has not met will never know it.
fn is_of_another_store(response: &Response<Body>, state: &OutboxState) -> bool {
    let here = ServingStore::of(response.headers()).map(|store| store.id);
    let met = state.sent().and_then(|sent| sent.store);
    response.status() == StatusCode::MISDIRECTED_REQUEST && here.is_some() && here != met
}

/// Whether it was written later than it is now by more than clocks differ from one start to the next.
fn is_of_the_future(written_at: Timestamp, now: Timestamp) -> bool {
    written_at.since(now) > CLOCK_SET_BACK_MAX
}

fn is_for_good(code: StatusCode) -> bool {
    code.is_client_error() && !matches!(code.as_u16(), 408 | 409 | 421 | 425 | 429)
}

// === impl Ended ===

impl Ended {
    const fn word(self) -> &'static str {
        match self {
            Self::Answered(_) | Self::AnsweredAtLength(_) => "answered",
            Self::InDoubt => "in-doubt",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(code) => write!(f, "answered with {}", code.as_u16()),
            Self::AnsweredAtLength(code) => {
                write!(f, "answered with {}, too large to be kept", code.as_u16())
            }
            Self::InDoubt => f.write_str("in doubt at the other side"),
            Self::Refused(why) => write!(f, "refused, not executed: {why}"),
            Self::Unknown(why) => write!(f, "outcome unknown: {why}"),
        }
    }
}

/// So that a service that has just come back is not met by all at once.
const AT_ONCE: usize = 16;

/// As far as the clock of a server may be ahead of a call's date.
const CLOCK_SET_BACK_MAX: Duration = Duration::from_secs(300);

/// Pauses between the rounds in which all that is left is tried.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::StoreId;
    use crate::storage::outbox::FirstSent;

    const HOUR: Duration = Duration::from_secs(3600);

    fn sent(store: u8) -> OutboxState {
        OutboxState::Sent(FirstSent {
            at: Timestamp::from_millis(1),
            store: Some(StoreId::from_bytes([store; 16])),
        })
    }

    // E3: a payment of last month is not made today.
    #[test]
    fn a_call_that_was_never_sent_is_not_made_once_it_is_older_than_the_bound() {
        let ended = |age| unmade(&OutboxState::Unsent, age, true, HOUR);
        assert_eq!(ended(Some(HOUR)), None);
        assert!(matches!(ended(Some(HOUR * 2)), Some(Ended::Refused(_))));
        // What may have been sent is asked for, however old it is.
        assert_eq!(unmade(&sent(1), Some(HOUR * 24), true, HOUR), None);
    }

    // E5: a clock that was set back makes no call of last month a new one.
    #[test]
    fn a_call_that_was_never_sent_is_not_made_where_the_clock_does_not_tell_how_old_it_is() {
        let at = |hours: u32| Timestamp::from_millis(1).plus(HOUR * hours);
        assert!(is_of_the_future(at(2), at(1)));
        assert!(!is_of_the_future(at(1), at(1)));
        assert!(!is_of_the_future(at(1), at(2)));
        // Clocks are set by a little at each start.
        assert!(!is_of_the_future(at(1).plus(HOUR / 60), at(1)));
        let ended = unmade(&OutboxState::Unsent, None, true, HOUR);
        assert!(matches!(ended, Some(Ended::Refused(_))));
        assert_eq!(unmade(&sent(1), None, true, HOUR), None);
    }

    #[test]
    fn a_call_whose_credentials_were_not_kept_is_never_sent_without_them() {
        let ended = |state| unmade(state, Some(Duration::ZERO), false, HOUR);
        assert!(matches!(
            ended(&OutboxState::Unsent),
            Some(Ended::Refused(_))
        ));
        assert!(matches!(ended(&sent(1)), Some(Ended::Unknown(_))));
    }

    // B13
    #[test]
    fn only_a_421_of_another_store_than_the_one_that_was_met_is_for_good() {
        let misdirected = |store: &str, code: u16| {
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            let value = http::HeaderValue::from_str(store).unwrap();
            let headers = response.headers_mut();
            headers.insert(crate::http::names::STORE, value);
            response
        };
        let there = format!("\"{}\"", StoreId::from_bytes([2; 16]));
        assert!(is_of_another_store(&misdirected(&there, 421), &sent(1)));
        assert!(!is_of_another_store(&misdirected(&there, 421), &sent(2)));
        assert!(!is_of_another_store(&misdirected(&there, 503), &sent(1)));
        assert!(!is_of_another_store(&misdirected("none", 421), &sent(1)));
    }

    // H10: the other side has the answer, and somebody in between is in the way for now.
    #[test]
    fn a_call_is_driven_on_until_the_other_side_refuses_it_or_has_forgotten_it() {
        let answered = |status: Option<&'static str>| {
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::FORBIDDEN;
            let value = status.map(http::HeaderValue::from_static);
            value.map(|value| response.headers_mut().insert(names::STATUS, value));
            unknown(Some(&response), &sent(1), HOUR)
        };
        assert_eq!(answered(None), None);
        let refused = answered(Some("not-executed"));
        assert!(matches!(refused, Some(Ended::Unknown(_))));
        // Nobody is there.
        assert_eq!(unknown(None, &sent(1), HOUR * 24 * 7), None);
        let forgotten = unknown(None, &sent(1), HOUR * 24 * 8);
        assert!(matches!(forgotten, Some(Ended::Unknown(_))));
    }
}
