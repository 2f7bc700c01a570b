//! How much one scope may leave open, and how large an answer may be.

/// The bounds of a store. At each of them a call is refused before its effect; a record is never
/// removed to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreLimits {
    /// The largest answer that is recorded, in bytes, at most [`ANSWER_BYTES_LIMIT`]. Default
    /// 1 MiB: the size of a request body that servers take by default. A larger one ends in
    /// [`StoreError::AnswerTooLarge`](crate::StoreError::AnswerTooLarge), its key in doubt.
    pub answer_bytes_max: usize,
    /// How many calls of one scope may be in progress. Default 10,000: more than one server's
    /// handlers run at once, and few enough that one tenant cannot fill a store.
    pub in_progress_max: usize,
    /// How many calls of one scope may be in doubt. Default 100,000: an hour of an outage at
    /// thirty doubts a second, which an operator notices.
    pub in_doubt_max: usize,
}

// === impl StoreLimits ===

impl StoreLimits {
    /// Records answers of up to `bytes` bytes, or [`ANSWER_BYTES_LIMIT`] where that is less.
    #[must_use]
    pub const fn answer_bytes_max(mut self, bytes: usize) -> Self {
        self.answer_bytes_max = if bytes < ANSWER_BYTES_LIMIT {
            bytes
        } else {
            ANSWER_BYTES_LIMIT
        };
        self
    }

    /// Lets one scope have `calls` calls in progress.
    #[must_use]
    pub const fn in_progress_max(mut self, calls: usize) -> Self {
        self.in_progress_max = calls;
        self
    }

    /// Lets one scope have `calls` calls in doubt.
    #[must_use]
    pub const fn in_doubt_max(mut self, calls: usize) -> Self {
        self.in_doubt_max = calls;
        self
    }
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            answer_bytes_max: 1024 * 1024,
            in_progress_max: 10_000,
            in_doubt_max: 100_000,
        }
    }
}

/// No store records a larger answer, whatever it is told: the codec decodes no more than this.
pub const ANSWER_BYTES_LIMIT: usize = 16 * 1024 * 1024;
