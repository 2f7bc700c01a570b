//! How long an attempt usually takes that ends well.

use std::time::Duration;

use parking_lot::Mutex;

/// How many attempts the median is taken over: enough that a few slow ones do not move it, few
/// enough that it follows a change within seconds.
const ATTEMPTS_KEPT: usize = 64;

/// No attempt is started with less time left than this, however fast the peer has been.
pub(super) const ATTEMPT_MIN: Duration = Duration::from_millis(1);

/// The durations of the last attempts that were answered.
///
/// Attempts that failed say nothing of how long success takes: a refused connection is quick, and a
/// timeout is as long as the timeout.
#[derive(Debug, Default)]
pub(super) struct AttemptTimes {
    last: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    durations: Vec<Duration>,
    next: usize,
}

// === impl AttemptTimes ===

impl AttemptTimes {
    /// Notes an attempt that was answered.
    pub(super) fn note(&self, duration: Duration) {
        let mut ring = self.last.lock();
        if ring.durations.len() < ATTEMPTS_KEPT {
            ring.durations.push(duration);
            return;
        }
        let next = ring.next;
        ring.durations[next] = duration;
        ring.next = (next + 1) % ATTEMPTS_KEPT;
    }

    /// The median; at least 1 ms, also when nothing is known yet.
    pub(super) fn median(&self) -> Duration {
        let mut durations = self.last.lock().durations.clone();
        if durations.is_empty() {
            return ATTEMPT_MIN;
        }
        let middle = durations.len() / 2;
        let (_, median, _) = durations.select_nth_unstable(middle);
        (*median).max(ATTEMPT_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_slow_attempts_do_not_move_the_median() {
        let times = AttemptTimes::default();
        assert_eq!(times.median(), ATTEMPT_MIN);
        for millis in [20, 20, 9_000, 20, 20] {
            times.note(Duration::from_millis(millis));
        }
        assert_eq!(times.median(), Duration::from_millis(20));
    }

    #[test]
    fn the_median_follows_a_lasting_change() {
        let times = AttemptTimes::default();
        (0..200).for_each(|_| times.note(Duration::from_millis(10)));
        (0..ATTEMPTS_KEPT).for_each(|_| times.note(Duration::from_secs(1)));
        assert_eq!(times.median(), Duration::from_secs(1));
    }
}
