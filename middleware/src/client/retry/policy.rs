//! Whether to make another attempt, and when. Pure: no clock, no I/O.

use std::num::NonZeroU32;
use std::time::Duration;

use super::attempt_times::ATTEMPT_MIN;
use super::schedule::{Schedule, Wait};
use crate::client::{Advice, Cost, Executed, Pushback, Stopped};

/// By how much a peer can lengthen a delay. Longer ones are its way of saying "not within this
/// call"; bounded, so that a wrong or hostile hint cannot park a caller that set no deadline.
const HINT_MAX: Duration = Duration::from_secs(5);

/// The numbers of the decision.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPolicy {
    pub(super) attempts_max: NonZeroU32,
    /// Retry although a result says nothing of execution and the peer never named its store.
    pub(super) assume_dedupe: bool,
    /// Retry also within a handler whose caller retries.
    pub(super) within_calls: bool,
    /// How long a call without a deadline waits for an answer that is being made.
    pub(super) wait_max: Duration,
}

/// Where a call stands after an attempt that may be retried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// The attempts made that cost one, with the one just made if it does.
    pub(super) attempts: u32,
    /// How often the answer was asked for at no cost, with the attempt just made if it was so.
    pub(super) asks: u32,
    /// Since the call began.
    pub(super) elapsed: Duration,
    /// Until the deadline, if there is one.
    pub(super) left: Option<Duration>,
    /// How long an attempt usually takes.
    pub(super) attempt_takes: Duration,
    /// The shortest pause before the answer is asked for once more. Asking costs nothing else,
    /// so this is what bounds how often it is done.
    pub(super) ask_pause_min: Duration,
    /// Whether an attempt's peer has named its store.
    pub(super) peer_dedupes: bool,
}

/// What is left of the request after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept<R> {
    /// A copy.
    Copy(R),
    /// Nothing: it cannot be copied.
    OneShot,
    /// Nothing: the attempt was the last, and took the request with it.
    Taken,
}

/// Another attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Again<R, P> {
    /// What is sent.
    pub(super) request: R,
    /// Not before this has passed.
    pub(super) floor: Duration,
    /// And this on top.
    pub(super) wait: Wait,
    /// What the budget gave for it; nothing if it costs nothing.
    pub(super) paid: Option<P>,
}

// === impl RetryPolicy ===

impl RetryPolicy {
    /// The policy for a call, which may be made within another one whose caller retries.
    pub(super) const fn within(mut self, caller_retries: bool) -> Self {
        if caller_retries && !self.within_calls {
            self.attempts_max = NonZeroU32::MIN;
        }
        self
    }

    /// Whether a copy of the request has to be kept for after the attempt that follows `attempts`
    /// others. The last attempt takes the request itself, unless the peer may answer "in
    /// progress", which asks for one more at no cost.
    pub(super) const fn keeps_request(&self, attempts: u32, peer_dedupes: bool) -> bool {
        attempts + 1 < self.attempts_max.get() || peer_dedupes || self.assume_dedupe
    }

    /// Whether the call goes on after an attempt that `advice` speaks of. Asks `withdraw` last, so
    /// that nothing is taken from the budget for an attempt that is not made for another reason.
    pub(super) fn decide<R, P>(
        &self,
        advice: Advice,
        at: &Situation,
        request: Kept<R>,
        schedule: &mut Schedule,
        withdraw: impl FnOnce() -> Option<P>,
    ) -> Result<Again<R, P>, Stopped> {
        if advice.pushback == Pushback::Stop {
            return Err(Stopped::Pushback);
        }
        // Also for "in progress": without the store's id the next attempt might meet another
        // store, which knows nothing of the one that is executing.
        if advice.executed == Executed::Unknown && !at.peer_dedupes && !self.assume_dedupe {
            return Err(Stopped::PeerNotKnownToDedupe);
        }
        if advice.cost == Cost::Attempt && at.attempts >= self.attempts_max.get() {
            return Err(Stopped::Attempts);
        }
        let request = match request {
            Kept::Copy(request) => request,
            Kept::OneShot => return Err(Stopped::OneShot),
            Kept::Taken => return Err(Stopped::Attempts),
        };

        let overloaded = advice.pushback == Pushback::Overloaded;
        let hint = match advice.pushback {
            Pushback::After(hint) => hint,
            Pushback::Silent | Pushback::Stop | Pushback::Overloaded => Duration::ZERO,
        };
        let (wait, hint, left, takes) = match advice.cost {
            Cost::Attempt => (
                schedule
                    .retry(at.attempts, overloaded)
                    .ok_or(Stopped::Schedule)?,
                hint,
                at.left,
                at.attempt_takes,
            ),
            Cost::OnlyTime => (
                schedule.ask(at.asks),
                hint.max(at.ask_pause_min),
                at.left
                    .or_else(|| Some(self.wait_max.saturating_sub(at.elapsed))),
                ATTEMPT_MIN,
            ),
        };
        let room = left.map_or(Some(Duration::MAX), |left| {
            left.checked_sub(hint.saturating_add(takes))
        });
        let Some(room) = room else {
            return Err(Stopped::Deadline);
        };
        let paid = match advice.cost {
            Cost::Attempt => Some(withdraw().ok_or(Stopped::Budget)?),
            Cost::OnlyTime => None,
        };
        Ok(Again {
            request,
            floor: hint.min(HINT_MAX),
            wait: wait.at_most(room),
            paid,
        })
    }
}
