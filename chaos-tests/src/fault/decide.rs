//! Whether a fault strikes: a pure function.

use std::time::Duration;

use super::words::{Fault, Phase, When};
use crate::seed::{Draw, Seed, digest};

/// One moment of one attempt of one call, which a fault strikes or leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The call's ordinal within the run; the first one is 1. Not what the client calls its key:
    /// keys are random in every run, ordinals are not.
    pub call: u64,
    /// The attempt's ordinal within the call; the first one is 1.
    pub attempt: u32,
    /// The moment.
    pub phase: Phase,
    /// How long the run has lasted. Only faults that are bound to a time look at it.
    pub at: Duration,
}

// === impl Fault ===

impl Fault {
    /// What this fault draws its numbers from if it strikes this subject; `None` if it does not.
    ///
    /// A subject that is struck at one share is struck at every higher one. The byte of
    /// [`When::after_bytes`] is not looked at: who moves bytes knows where they are.
    #[must_use]
    pub fn strikes(&self, seed: Seed, subject: Subject) -> Option<Draw> {
        let seed = seed.derive(&[
            digest(self.name.as_bytes()),
            subject.call,
            u64::from(subject.attempt),
            subject.phase.ordinal(),
        ]);
        let share = self.when.share.unwrap_or(1.0);
        let strikes = self.when.is_about(subject) && seed.draw(&[STRIKES]).happens(share);
        strikes.then(|| seed.draw(&[NUMBERS]))
    }
}

// === impl When ===

impl When {
    fn is_about(&self, subject: Subject) -> bool {
        let at_ms = subject.at.as_millis();
        // A moment of an attempt is no point of the code.
        self.point.is_none()
            && self.phase.is_none_or(|phase| phase == subject.phase)
            && self.call.is_none_or(|call| call == subject.call)
            && self
                .attempt
                .is_none_or(|attempt| attempt == subject.attempt)
            && self
                .first_attempts
                .is_none_or(|first| subject.attempt <= first)
            && self.from_ms.is_none_or(|from| at_ms >= u128::from(from))
            && self.until_ms.is_none_or(|until| at_ms < u128::from(until))
    }
}

// Which decision of a fault is drawn.
const STRIKES: u64 = 1;
const NUMBERS: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Place, What};

    fn subject(call: u64, attempt: u32) -> Subject {
        Subject {
            call,
            attempt,
            phase: Phase::ReplySent,
            at: Duration::ZERO,
        }
    }

    fn lost_answers(share: f64) -> Fault {
        Fault::new("lost answers", Place::Wire, What::Drop)
            .when(When::phase(Phase::ReplySent).share(share))
    }

    #[test]
    fn a_fault_at_a_point_of_the_code_strikes_no_attempt() {
        let when = When {
            point: Some("a point".into()),
            ..When::default()
        };
        let fault = Fault::new("kill", Place::Server, What::Crash { back_after_ms: 1 }).when(when);
        assert!(fault.strikes(Seed::new(7), subject(1, 1)).is_none());
    }

    #[test]
    fn what_is_struck_at_one_share_is_struck_at_every_higher_one() {
        let struck = |share| -> Vec<u64> {
            (1..=1_000)
                .filter(|&call| {
                    lost_answers(share)
                        .strikes(Seed::new(7), subject(call, 1))
                        .is_some()
                })
                .collect()
        };
        let (few, many) = (struck(0.1), struck(0.4));
        assert!(
            (60..140).contains(&few.len()),
            "{} of 1000 at 0.1",
            few.len()
        );
        assert!(few.iter().all(|call| many.contains(call)));
        assert!(struck(0.0).is_empty());
        assert_eq!(struck(1.0).len(), 1_000);
    }

    #[test]
    fn another_attempt_phase_name_or_seed_is_another_decision() {
        let pattern = |fault: &Fault, seed, attempt, phase| -> Vec<bool> {
            (1..=200)
                .map(|call| {
                    let subject = Subject {
                        phase,
                        ..subject(call, attempt)
                    };
                    fault.strikes(Seed::new(seed), subject).is_some()
                })
                .collect()
        };
        let fault = Fault {
            when: When::default().share(0.5),
            ..lost_answers(0.5)
        };
        let named = Fault {
            name: "others".into(),
            ..fault.clone()
        };
        let first = pattern(&fault, 1, 1, Phase::ReplySent);
        assert_eq!(first, pattern(&fault, 1, 1, Phase::ReplySent));
        for other in [
            pattern(&fault, 2, 1, Phase::ReplySent),
            pattern(&fault, 1, 2, Phase::ReplySent),
            pattern(&fault, 1, 1, Phase::RequestSent),
            pattern(&named, 1, 1, Phase::ReplySent),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn all_that_is_said_of_the_moment_must_be_so() {
        let strikes = |when: When, subject| {
            let fault = Fault::new("f", Place::Wire, What::Drop).when(when);
            fault.strikes(Seed::new(1), subject).is_some()
        };
        assert!(strikes(When::default(), subject(3, 2)));
        assert!(strikes(
            When::phase(Phase::ReplySent).call(3).attempt(2),
            subject(3, 2)
        ));
        assert!(!strikes(When::phase(Phase::RequestSent), subject(3, 2)));
        assert!(!strikes(When::default().call(4), subject(3, 2)));
        assert!(!strikes(When::default().attempt(1), subject(3, 2)));
        let twice = || When {
            first_attempts: Some(2),
            ..When::default()
        };
        assert!(strikes(twice(), subject(3, 2)));
        assert!(!strikes(twice(), subject(3, 3)));
        let window = || When {
            from_ms: Some(10),
            until_ms: Some(20),
            ..When::default()
        };
        let at = |ms| Subject {
            at: Duration::from_millis(ms),
            ..subject(3, 2)
        };
        assert!(strikes(window(), at(10)));
        assert!(!strikes(window(), at(9)) && !strikes(window(), at(20)));
    }
}
