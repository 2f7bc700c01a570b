//! What an outbox can fail with.

/// An outbox could not do what it was asked. What was to be sent is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The answer is larger than the outbox keeps. The call stays as it was: the server still has
    /// the answer, for as long as it keeps it.
    #[error(
        "answer of {size} bytes is larger than the {limit} bytes that the outbox keeps; raise \
         `answer_bytes_max` and resume the call"
    )]
    AnswerTooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The outbox holds as many bytes as it may.
    #[error(
        "outbox holds {held} bytes and may hold {limit}; acknowledge answers and resume or remove \
         old calls, or raise `bytes_max`"
    )]
    BytesFull {
        /// What requests and answers take.
        held: u64,
        /// The limit.
        limit: u64,
    },
    /// The outbox holds as many calls as it may.
    #[error(
        "outbox holds {limit} calls and may hold no more; acknowledge answers and resume or remove \
         old calls, or raise `calls_max`"
    )]
    CallsFull {
        /// The limit.
        limit: usize,
    },
    /// The outbox was closed.
    #[error("outbox is closed")]
    Closed,
    /// What is kept of a call is not what was written. It is never taken for absent.
    #[error("outbox is corrupt: {0}")]
    Corrupt(String),
    /// The call may have been executed, so it cannot be cancelled.
    #[error("call may have been executed; to remove it, forget it although it may have been")]
    MaybeExecuted,
    /// The key belongs to a call of another method or with other bytes.
    #[error("key belongs to another call in the outbox: another method, or other arguments")]
    Mismatch,
    /// The call is in a state in which this makes no sense.
    #[error("cannot {asked} a call that is {state}")]
    NotNow {
        /// What was asked.
        asked: &'static str,
        /// The state.
        state: &'static str,
    },
    /// No call has this key.
    #[error("no call in the outbox has this key: it was never written, or was removed")]
    NotThere,
    /// Another process has opened the outbox since, or its database is another one by now.
    #[error(
        "the outbox was opened by another process since, or its database has failed over; nothing \
         is sent from here any more; open it again"
    )]
    OwnedElsewhere,
    /// The outbox failed and takes nothing more until it is opened again.
    #[error("outbox is poisoned since a write failed: {0}; open it again")]
    Poisoned(String),
    /// The request is larger than the outbox takes.
    #[error("request of {size} bytes is larger than the {limit} bytes that the outbox takes")]
    RequestTooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// What keeps the outbox did not answer, or refused. The change may have been made or not; what is
    /// asked next is decided by what is there.
    #[error("the outbox cannot be reached: {0}; ask again once it can be")]
    Unavailable(String),
    /// A call was written by a version that this one does not read.
    #[error("a call has format {found}, this version reads up to {supported}; upgrade first")]
    UnknownFormat {
        /// The call's format.
        found: u8,
        /// The newest format that this version reads.
        supported: u8,
    },
}

// === impl OutboxError ===

impl OutboxError {
    /// Whether a call that could not be written for this reason is certainly not in the outbox, and
    /// will not be: a bound was met, or its key is another call's. After any other error it may be
    /// there although nobody was told, and must not be made under another key.
    #[must_use]
    pub const fn rules_out_writing(&self) -> bool {
        matches!(
            self,
            Self::BytesFull { .. }
                | Self::CallsFull { .. }
                | Self::Mismatch
                | Self::RequestTooLarge { .. }
        )
    }
}
