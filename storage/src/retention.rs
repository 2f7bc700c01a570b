//! How long answers are kept, and how long the trace that outlives them.

use std::time::Duration;

/// How long a store remembers a finished call.
///
/// An answer is replayed for `answer` after it was recorded. Then a tombstone stays at least until
/// `horizon`, so that a late duplicate is refused as stale and never executed. Stores forget by the
/// day: the bytes of an answer, and a tombstone, may stay up to a day longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionOptions {
    /// How long an answer is kept after it was recorded. Default 24 h: what Stripe keeps, and long
    /// enough for a client that is repaired the next morning.
    pub answer: Duration,
    /// How long the tombstone is kept after the answer was recorded. Default 7 days: longer than
    /// the retries of every queue that we know of.
    pub horizon: Duration,
}

/// A horizon shorter than the retention would forget answers that are promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("horizon of {horizon:?} is shorter than the retention of {answer:?}")]
pub struct HorizonTooShort {
    answer: Duration,
    horizon: Duration,
}

impl RetentionOptions {
    /// Answers kept for `answer`, tombstones until `horizon`.
    ///
    /// # Errors
    ///
    /// When `horizon` is shorter than `answer`.
    pub fn new(answer: Duration, horizon: Duration) -> Result<Self, HorizonTooShort> {
        if horizon < answer {
            return Err(HorizonTooShort { answer, horizon });
        }
        Ok(Self { answer, horizon })
    }
}

impl Default for RetentionOptions {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(24 * 60 * 60),
            horizon: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}
