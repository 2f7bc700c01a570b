//! What a store can fail with.

use std::time::Duration;

/// A store could not do what it was asked. The call must fail closed: no handler runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The answer is larger than the store records.
    #[error("answer of {size} bytes is larger than the {limit} bytes that the store records")]
    AnswerTooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The store was closed.
    #[error("store is closed")]
    Closed,
    /// A record cannot be believed. Its key is refused, never treated as absent.
    #[error("record is corrupt: {0}")]
    Corrupt(String),
    /// The record's fingerprint was made by an algorithm that this program does not compute.
    #[error("record has a fingerprint of unknown algorithm {0}; run the version that wrote it")]
    IncomparableFingerprint(u16),
    /// The journal of a call is larger than the store keeps. Its request is, where this answers a
    /// claim: nothing was written.
    #[error("journal of {size} bytes is larger than the {limit} bytes that the store keeps of one")]
    JournalTooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The store failed and acknowledges nothing more until it is opened again.
    #[error("store is poisoned since a write failed: {0}; open it again")]
    Poisoned(String),
    /// The store cannot be reached or did not answer in time.
    #[error("store is unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
        /// How long to wait before asking again.
        retry_after: Duration,
    },
    /// The record was written by a version that this one does not read.
    #[error("record has format {found}, this version reads up to {supported}; upgrade first")]
    UnknownFormat {
        /// The record's format.
        found: u8,
        /// The newest format that this version reads.
        supported: u8,
    },
}

/// Why a claim could not be renewed or spent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// The record belongs to a newer claim or is settled: it was left untouched.
    #[error("claim is superseded: its record was settled or taken over")]
    Fenced,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreError {
    /// How long a client should wait before it asks again, where that makes sense.
    #[must_use]
    pub const fn retry_after(&self) -> Duration {
        match self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => RETRY_AFTER,
        }
    }
}

/// A poisoned or closed store comes back when a supervisor restarts its process: about a second.
const RETRY_AFTER: Duration = Duration::from_secs(1);
