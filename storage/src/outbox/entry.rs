//! What is kept of one call.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::{IdempotencyKey, StoreId, Timestamp};

/// A call as an outbox keeps it, without its bytes.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxEntry {
    /// Its place among the calls of this outbox: rises with each, never used again.
    pub number: u64,
    /// The call's key.
    pub key: IdempotencyKey,
    /// The method, 1 to 255 bytes.
    pub method: String,
    /// Whether the key may have been sent by somebody else before it came into this outbox: true
    /// for one that the caller chose.
    pub maybe_sent_elsewhere: bool,
    /// When it was written, on the client's clock. For people; nothing is decided by it.
    pub written_at: Timestamp,
    /// How long one run of the call may take; `None` leaves that to the client that makes it.
    pub timeout: Option<Duration>,
    /// The request.
    pub request: Body,
    /// How far the call has got.
    pub state: OutboxState,
}

/// How far a call has got.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutboxState {
    /// The answer has come and is kept.
    Answered {
        /// When it was first sent, and to which store.
        sent: FirstSent,
        /// The answer.
        answer: Body,
    },
    /// The server said that it cannot know whether the effect happened. Asking again may get an
    /// answer, once somebody has resolved it there.
    InDoubt(FirstSent),
    /// It may have been sent, and executed.
    Sent(FirstSent),
    /// It may have been executed, and asking again cannot tell any more.
    Unknown {
        /// When it was first sent, and to which store.
        sent: FirstSent,
        /// Why nobody can tell.
        because: Unknown,
    },
    /// It was never sent by this outbox, or no attempt of it was executed.
    Unsent,
}

/// The first attempt of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstSent {
    /// When it was first sent, on the server's clock.
    pub at: Timestamp,
    /// The store that it met; `None` for a server that names none.
    pub store: Option<StoreId>,
}

/// Why the outcome of a call cannot be learned any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unknown {
    /// It is older than the horizon, on the server's clock.
    Aged,
    /// The server remembers nothing of calls that are as old, or the key was sealed.
    Forgotten,
}

/// Bytes that are kept beside an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// How many.
    pub bytes: u32,
    /// Their BLAKE3 digest.
    pub digest: [u8; 32],
}

/// A call that is to be kept.
#[derive(Clone)]
#[non_exhaustive]
pub struct NewCall {
    /// The call's key.
    pub key: IdempotencyKey,
    /// The method, 1 to 255 bytes.
    pub method: String,
    /// See [`OutboxEntry::maybe_sent_elsewhere`].
    pub maybe_sent_elsewhere: bool,
    /// See [`OutboxEntry::timeout`].
    pub timeout: Option<Duration>,
    /// The exact bytes of the request, which every attempt sends.
    pub request: Bytes,
}

/// A change of one call.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutboxChange {
    /// The caller has its answer, and needs it no more.
    Acknowledge,
    /// The answer has come.
    Answer(Bytes),
    /// A call that was never sent shall not be made.
    Cancel,
    /// The server said that the call is in doubt.
    Doubt,
    /// The caller gives up on a call that may have been executed.
    ForgetMaybeExecuted,
    /// Nobody can tell any more.
    GiveUp(Unknown),
    /// The first byte is about to be sent. A call that was sent before keeps its first attempt.
    MarkSent(FirstSent),
    /// It ended, and no attempt of it was executed: as if it had never been sent.
    NotExecuted,
}

// === impl OutboxEntry ===

/// Without the key.
impl fmt::Debug for OutboxEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxEntry")
            .field("number", &self.number)
            .field("method", &self.method)
            .field("written_at", &self.written_at)
            .field("request_bytes", &self.request.bytes)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

// === impl OutboxState ===

impl OutboxState {
    /// The first attempt, unless the call was never sent.
    #[must_use]
    pub const fn sent(&self) -> Option<FirstSent> {
        match self {
            Self::Answered { sent, .. }
            | Self::InDoubt(sent)
            | Self::Sent(sent)
            | Self::Unknown { sent, .. } => Some(*sent),
            Self::Unsent => None,
        }
    }

    /// Whether making the call again may get an answer.
    #[must_use]
    pub const fn is_unfinished(&self) -> bool {
        matches!(self, Self::InDoubt(_) | Self::Sent(_) | Self::Unsent)
    }

    /// The word for people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Answered { .. } => "answered",
            Self::InDoubt(_) => "in doubt",
            Self::Sent(_) => "sent",
            Self::Unknown { .. } => "outcome unknown",
            Self::Unsent => "never sent",
        }
    }
}

// === impl NewCall ===

impl NewCall {
    /// A call of `method` under a key that was made for it.
    #[must_use]
    pub fn new(key: IdempotencyKey, method: &str, request: Bytes) -> Self {
        Self {
            key,
            method: method.to_owned(),
            maybe_sent_elsewhere: false,
            timeout: None,
            request,
        }
    }

    /// The same call, under a key that somebody may have sent before.
    #[must_use]
    pub const fn maybe_sent_elsewhere(mut self) -> Self {
        self.maybe_sent_elsewhere = true;
        self
    }

    /// The same call, each run of which may take this long.
    #[must_use]
    pub const fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Without the key and what is asked.
impl fmt::Debug for NewCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewCall")
            .field("method", &self.method)
            .field("request_bytes", &self.request.len())
            .finish_non_exhaustive()
    }
}

// === impl OutboxChange ===

impl OutboxChange {
    /// The word for people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledge",
            Self::Answer(_) => "keep the answer of",
            Self::Cancel => "cancel",
            Self::Doubt => "doubt",
            Self::ForgetMaybeExecuted => "forget, as one that may have been executed,",
            Self::GiveUp(_) => "give up on",
            Self::MarkSent(_) => "send",
            Self::NotExecuted => "take back",
        }
    }
}

/// Without the answer.
impl fmt::Debug for OutboxChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
