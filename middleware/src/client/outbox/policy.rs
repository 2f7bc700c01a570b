//! How a kept call goes on, and what its end leaves behind. Pure.

use std::time::Duration;

use onlyonce_storage::Timestamp;
use onlyonce_storage::outbox::{FirstSent, OutboxChange, OutboxEntry, Unknown};

use crate::client::{Outcome, Ticket};

/// The ticket under which a kept call goes on: it says of what was sent in an earlier life all that
/// is known, so that no server takes it for a new call.
#[must_use]
pub fn ticket(entry: &OutboxEntry) -> Ticket {
    let key = entry.key.clone();
    match entry.state.sent() {
        Some(FirstSent { at, store }) => {
            let ticket = Ticket::new(key).first_sent(at);
            match store {
                Some(store) => ticket.store(store),
                None => ticket,
            }
        }
        None if entry.maybe_sent_elsewhere => Ticket::new(key),
        None => Ticket::never_sent(key),
    }
}

/// Whether a call that was first sent at `first` may still be sent, `now`, both on the server's
/// clock: a server remembers calls until its horizon, and would not tell an older one from a new
/// one if the client did not say when it was first sent.
#[must_use]
pub fn is_aged(first: Timestamp, now: Timestamp, horizon: Duration) -> bool {
    now.since(first) > horizon
}

/// What is to be noted of a call that ended without an answer. `cannot_tell` is the reason why asking
/// again is of no use, where there is one.
///
/// A call whose outcome is unknown for any other reason stays as it is: it is asked about again.
#[must_use]
pub const fn settle(outcome: Outcome, cannot_tell: Option<Unknown>) -> Option<OutboxChange> {
    match (outcome, cannot_tell) {
        (Outcome::InDoubt, _) => Some(OutboxChange::Doubt),
        (Outcome::NotExecuted, _) => Some(OutboxChange::NotExecuted),
        (Outcome::Unknown, Some(because)) => Some(OutboxChange::GiveUp(because)),
        (Outcome::Unknown, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // E1, E5
    #[test]
    fn a_call_is_aged_by_the_servers_clock_and_not_before_the_horizon_is_past() {
        let at = Timestamp::from_millis;
        let horizon = Duration::from_millis(100);
        assert!(!is_aged(at(50), at(150), horizon));
        assert!(is_aged(at(50), at(151), horizon));
        // The server's clock was set back.
        assert!(!is_aged(at(50), at(10), horizon));
    }

    #[test]
    fn what_may_yet_be_told_is_not_given_up() {
        assert_eq!(settle(Outcome::Unknown, None), None);
        let aged = settle(Outcome::Unknown, Some(Unknown::Aged));
        assert_eq!(aged, Some(OutboxChange::GiveUp(Unknown::Aged)));
        assert_eq!(settle(Outcome::InDoubt, None), Some(OutboxChange::Doubt));
        let free = settle(Outcome::NotExecuted, None);
        assert_eq!(free, Some(OutboxChange::NotExecuted));
    }
}
