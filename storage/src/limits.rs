//! How much one scope may leave open, and how large an answer may be.

use std::time::Duration;

use crate::journal::JournalLimits;

/// The bounds of a store. At each of them a call is refused before its effect; a record is never
/// removed to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreLimits {
    /// The largest answer that is recorded, in bytes, at most [`ANSWER_BYTES_LIMIT`]. Default
    /// 1 MiB: the size of a request body that servers take by default. A larger one ends in
    /// [`StoreError::AnswerTooLarge`](crate::StoreError::AnswerTooLarge), its key in doubt.
    pub answer_bytes_max: usize,
    /// How large the journal of a call may be, in bytes: its request, and the names and results of
    /// its steps. Default 1 MiB: it is written anew with each step, and there are as many as there
    /// are calls in progress. At most [`JOURNAL_BYTES_LIMIT`].
    pub journal_bytes_max: usize,
    /// How large the journals of all open calls may be together, in bytes. Default 256 MiB: a store
    /// that is embedded keeps them in memory, with what else a server needs. Beyond it no further call
    /// that keeps a journal is begun until some are settled
    /// ([`StoreError::Unavailable`](crate::StoreError::Unavailable)). Those that are there go on and
    /// note their steps all the same, since only so do they come to an end and give their room back:
    /// together they may be larger by what their steps bring, at most
    /// [`journal_bytes_max`](Self::journal_bytes_max) each. Stores on servers have room, and no such
    /// bound.
    pub journals_bytes_max: usize,
    /// How many steps a journaled call may have. Default 256: far more than anybody names, and a
    /// handler that loops is stopped. At most [`STEPS_LIMIT`].
    pub steps_max: usize,
    /// How many calls of one scope may be in progress. Default 10,000: more than one server's
    /// handlers run at once, and few enough that one tenant cannot fill a store.
    pub in_progress_max: usize,
    /// How many calls of one scope may be in doubt. Default 100,000: an hour of an outage at
    /// thirty doubts a second, which an operator notices.
    pub in_doubt_max: usize,
    /// How long a session lives without being used, on the store's clock. Default an hour: longer
    /// than a deployment or a pause of its client, and what an unacknowledged call holds up is
    /// bounded meanwhile. An expired session only costs a client a new one.
    pub session_idle: Duration,
    /// How many sessions one principal may have. Default 1,000: more than it has processes, with
    /// room for an hour of those that were restarted. Without one its calls are remembered as calls
    /// without a session are.
    pub sessions_max: usize,
    /// How many sessions a store may have. Default 10,000: some megabytes of memory.
    pub sessions_in_all_max: usize,
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

    /// Keeps journals of up to `bytes` bytes, or [`JOURNAL_BYTES_LIMIT`] where that is less.
    #[must_use]
    pub const fn journal_bytes_max(mut self, bytes: usize) -> Self {
        self.journal_bytes_max = if bytes < JOURNAL_BYTES_LIMIT {
            bytes
        } else {
            JOURNAL_BYTES_LIMIT
        };
        self
    }

    /// Keeps journals of up to `bytes` bytes together.
    #[must_use]
    pub const fn journals_bytes_max(mut self, bytes: usize) -> Self {
        self.journals_bytes_max = bytes;
        self
    }

    /// Lets a journaled call have `steps` steps, or [`STEPS_LIMIT`] where that is less.
    #[must_use]
    pub const fn steps_max(mut self, steps: usize) -> Self {
        self.steps_max = if steps < STEPS_LIMIT {
            steps
        } else {
            STEPS_LIMIT
        };
        self
    }

    /// The bounds of one journal.
    #[must_use]
    pub const fn journal(&self) -> JournalLimits {
        let bytes_max = if self.journal_bytes_max < JOURNAL_BYTES_LIMIT {
            self.journal_bytes_max
        } else {
            JOURNAL_BYTES_LIMIT
        };
        let steps_max = if self.steps_max < STEPS_LIMIT {
            self.steps_max
        } else {
            STEPS_LIMIT
        };
        JournalLimits {
            bytes_max,
            steps_max,
        }
    }

    /// Lets one scope have `calls` calls in progress.
    #[must_use]
    pub const fn in_progress_max(mut self, calls: usize) -> Self {
        self.in_progress_max = calls;
        self
    }

    /// Lets sessions live for `idle` without being used.
    #[must_use]
    pub const fn session_idle(mut self, idle: Duration) -> Self {
        self.session_idle = idle;
        self
    }

    /// Lets one principal have `sessions` sessions.
    #[must_use]
    pub const fn sessions_max(mut self, sessions: usize) -> Self {
        self.sessions_max = sessions;
        self
    }

    /// Lets the store have `sessions` sessions.
    #[must_use]
    pub const fn sessions_in_all_max(mut self, sessions: usize) -> Self {
        self.sessions_in_all_max = sessions;
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
            journal_bytes_max: 1024 * 1024,
            journals_bytes_max: 256 * 1024 * 1024,
            steps_max: 256,
            in_progress_max: 10_000,
            in_doubt_max: 100_000,
            session_idle: Duration::from_secs(60 * 60),
            sessions_max: 1_000,
            sessions_in_all_max: 10_000,
        }
    }
}

/// No store records a larger answer, whatever it is told: the codec decodes no more than this.
pub const ANSWER_BYTES_LIMIT: usize = 16 * 1024 * 1024;

/// No store keeps a larger journal, whatever it is told, for the same reason.
pub const JOURNAL_BYTES_LIMIT: usize = 8 * 1024 * 1024;

/// No call has more steps, whatever its store is told: each note looks through them.
pub const STEPS_LIMIT: usize = 4_096;
