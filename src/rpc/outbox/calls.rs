//! What an outbox tells of its calls.

use std::time::Duration;

use onlyonce_middleware::client::Ticket;
use onlyonce_middleware::client::outbox::policy;
use onlyonce_storage::IdempotencyKey;
use onlyonce_storage::outbox::{OutboxEntry, OutboxState};

use super::Unfinished;

/// A reply, and the key under which it is kept until it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a reply is kept until its key is acknowledged"]
pub struct Kept<R> {
    /// The key, for [`Outbox::acknowledge`](super::Outbox::acknowledge).
    pub key: IdempotencyKey,
    /// The reply.
    pub reply: R,
}

/// A call that is in an outbox: for its answer, for somebody to take its answer, or for somebody's
/// word.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pending {
    /// How long ago it was written, on this machine's clock; zero where that was set back. Nothing
    /// is decided by it.
    pub age: Duration,
    /// The call: its key, its method, its state.
    pub call: OutboxEntry,
}

/// How a call that was resumed with all others has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Resumed {
    /// Its key.
    pub key: IdempotencyKey,
    /// Its method.
    pub method: String,
    /// What is known of it now. With [`OutboxState::Answered`] its answer can be fetched.
    pub state: OutboxState,
    /// Why it has no answer.
    pub unfinished: Option<Unfinished>,
}

// === impl Pending ===

impl Pending {
    /// Names the call, to [`peek`](crate::rpc::Client::peek) at it or
    /// [`seal`](crate::rpc::Client::seal) it.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        policy::ticket(&self.call)
    }
}
