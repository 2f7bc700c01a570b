//! The contract of what keeps an outbox.

use std::fmt;

use bytes::Bytes;

use super::{NewCall, OutboxChange, OutboxEntry, OutboxError};
use crate::{IdempotencyKey, StoreFuture};

/// Whatever keeps the calls of one client.
///
/// What a method says is done is durable: it outlives the process, the machine and a power cut. The
/// changes of one call take effect in the order in which they were asked for. Only one process, and
/// one value in it, may have an outbox open.
///
/// # Cancellation
///
/// Dropping a future leaves it open whether the change was made; it is made whole or not at all.
///
/// # Errors
///
/// An [`OutboxError`]. After a write has failed every later change fails as well, or is decided by what
/// is there, read anew: so that nothing is sent of which nobody would know later.
pub trait OutboxStore: fmt::Debug + Send + Sync + 'static {
    /// Keeps a call, unless a bound is met or its key belongs to another.
    fn write(&self, call: NewCall) -> StoreFuture<'_, Written, OutboxError>;

    /// Changes a call.
    fn change(
        &self,
        key: &IdempotencyKey,
        change: OutboxChange,
    ) -> StoreFuture<'_, (), OutboxError>;

    /// A call with its bytes.
    fn load(&self, key: &IdempotencyKey) -> StoreFuture<'_, OutboxCall, OutboxError>;

    /// All calls, the oldest first.
    fn list(&self) -> StoreFuture<'_, Vec<OutboxEntry>, OutboxError>;
}

/// What became of a call that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is kept.
    New,
    /// It was already: the same key, method and bytes.
    There,
}

/// A call with its bytes.
#[derive(Clone)]
#[non_exhaustive]
pub struct OutboxCall {
    /// What is kept of it.
    pub entry: OutboxEntry,
    /// The exact bytes of the request.
    pub request: Bytes,
    /// The exact bytes of the answer, where the call has one.
    pub answer: Option<Bytes>,
}

// === impl OutboxCall ===

impl OutboxCall {
    /// A call with its bytes, for whoever keeps an outbox of their own.
    #[must_use]
    pub const fn new(entry: OutboxEntry, request: Bytes, answer: Option<Bytes>) -> Self {
        Self {
            entry,
            request,
            answer,
        }
    }
}

/// Without the bytes.
impl fmt::Debug for OutboxCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxCall")
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}
