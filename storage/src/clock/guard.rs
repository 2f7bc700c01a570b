//! Whether a clock can be trusted to forget by.
//!
//! Forgetting cannot be undone, and a clock that is days ahead makes calls of a minute ago look
//! old. So sweeping pauses when the wall clock and the time that has passed disagree, or when the
//! store seems to have been away for longer than it remembers, until somebody says that the clock
//! is right.

use std::time::Duration;

use super::{Clock, ClockSuspicion, Timestamp};
use crate::transition::CLOCK_DIFFERENCE_MAX;

/// Compares the two clocks since an opening.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockGuard {
    wall: Timestamp,
    elapsed: Duration,
    away: Option<ClockSuspicion>,
}

// === impl ClockGuard ===

impl ClockGuard {
    /// Begins now. `last_used` is when the store was last in use, on its clock then.
    pub(crate) fn start(
        clock: &dyn Clock,
        last_used: Option<Timestamp>,
        horizon: Duration,
    ) -> Self {
        let opened = clock.now();
        let away = last_used.filter(|&last_used| {
            let ahead = opened.plus(CLOCK_DIFFERENCE_MAX) < last_used;
            ahead || opened.since(last_used) > horizon.max(CLOCK_DIFFERENCE_MAX)
        });
        Self {
            wall: opened,
            elapsed: clock.elapsed(),
            away: away.map(|last_used| ClockSuspicion::LongAway { last_used, opened }),
        }
    }

    /// Why the clock is not trusted, if it is not.
    pub(crate) fn suspicion(&self, clock: &dyn Clock) -> Option<ClockSuspicion> {
        let passed = clock.elapsed().saturating_sub(self.elapsed);
        let now = clock.now();
        let expected = self.wall.plus(passed);
        let by = now.since(expected).max(expected.since(now));
        let jumped = (by > CLOCK_DIFFERENCE_MAX).then_some(ClockSuspicion::Jumped { by });
        jumped.or(self.away)
    }

    /// Somebody has looked at the clock and found it right.
    pub(crate) fn confirm(&mut self, clock: &dyn Clock) {
        *self = Self {
            wall: clock.now(),
            elapsed: clock.elapsed(),
            away: None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn is_away(last_used: Timestamp, clock: &ManualClock) -> bool {
        let guard = ClockGuard::start(clock, Some(last_used), DAY * 7);
        guard.suspicion(clock).is_some()
    }

    #[test]
    fn time_that_passes_is_trusted_and_a_clock_that_is_set_is_not_until_confirmed() {
        let clock = ManualClock::default();
        let mut guard = ClockGuard::start(&clock, None, DAY * 7);
        clock.advance(DAY * 400);
        assert_eq!(guard.suspicion(&clock), None);
        for (by, suspected) in [
            (CLOCK_DIFFERENCE_MAX, false),
            (CLOCK_DIFFERENCE_MAX + Duration::from_millis(1), true),
        ] {
            let right = clock.now();
            for wrong in [right.plus(by), right.minus(by)] {
                clock.set(wrong);
                let expected = suspected.then_some(ClockSuspicion::Jumped { by });
                assert_eq!(guard.suspicion(&clock), expected);
            }
            clock.set(right);
            assert_eq!(guard.suspicion(&clock), None);
        }
        clock.set(clock.now().plus(DAY));
        guard.confirm(&clock);
        assert_eq!(guard.suspicion(&clock), None);
    }

    #[test]
    fn a_store_that_was_away_for_longer_than_it_remembers_waits_for_a_confirmation() {
        let clock = ManualClock::default();
        let now = clock.now();
        assert!(!is_away(now, &clock));
        assert!(!is_away(now.minus(DAY * 7), &clock));
        assert!(is_away(now.minus(DAY * 8), &clock));
        assert!(is_away(now.plus(DAY), &clock), "used in the future");
        let mut guard = ClockGuard::start(&clock, Some(now.minus(DAY * 8)), DAY * 7);
        guard.confirm(&clock);
        assert_eq!(guard.suspicion(&clock), None);
    }
}
