//! The only place of this crate that makes randomness.
//!
//! Every draw comes from the generator of the thread that draws, so no two calls ever replay one
//! sequence (a generator that is cloned into every call makes all calls wait the same times, and
//! come back together).

use std::time::Duration;

/// A duration drawn uniformly from zero to `window`, both ends included.
#[must_use]
pub fn up_to(window: Duration) -> Duration {
    let nanos = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(fastrand::u64(0..=nanos))
}

/// Makes what this thread draws from here on repeatable: for tests that print their seed.
pub fn seed_this_thread(seed: u64) {
    fastrand::seed(seed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_draws_one_sequence() {
        let draw = || {
            seed_this_thread(7);
            [up_to(Duration::from_secs(1)), up_to(Duration::from_secs(1))]
        };
        let first = draw();
        assert_eq!(first, draw());
        assert_ne!(first[0], first[1]);
    }

    #[test]
    fn a_window_of_any_length_can_be_drawn_from() {
        assert_eq!(up_to(Duration::ZERO), Duration::ZERO);
        assert!(up_to(Duration::MAX) <= Duration::from_nanos(u64::MAX));
    }
}
