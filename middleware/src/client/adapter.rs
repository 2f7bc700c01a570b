//! How the client layers speak a protocol.

use onlyonce_storage::IdempotencyKey;
use tokio::time::Instant;

use super::{Keyed, Ticket, Verdict};

/// What the client layers need to know of a protocol.
///
/// Only an adapter names headers, metadata or frame fields; every layer goes through it. It is
/// cheap to clone.
pub trait Adapter<Req>: Clone + Send + Sync + 'static {
    /// What the peer answers.
    type Response: Send + 'static;

    /// What the transport fails with.
    type Error: Send + 'static;

    /// The key that the caller has put on the request, or the whole ticket of a call that is
    /// resumed. `None` lets `AttachKey` choose one.
    fn ticket(&self, request: &Req) -> Option<Ticket>;

    /// When the caller wants the call to have ended, if that is said on the request. A deadline of the
    /// layers that is sooner holds.
    fn deadline(&self, _: &Req) -> Option<Instant> {
        None
    }

    /// Makes the request that goes over the wire: with the key, the attempt, the time left, and
    /// what the call is bound to.
    fn stamp(&self, keyed: Keyed<Req>) -> Req;

    /// A copy for another attempt, or `None` when the request can only be sent once (a body that
    /// streams, or one that is larger than is worth keeping).
    fn try_clone(&self, request: &Req) -> Option<Req>;

    /// What the result of the attempt `keyed` means. Binds the call to the store that the
    /// result names, if it names one.
    fn classify(
        &self,
        call: &super::Call,
        result: Result<&Self::Response, &Self::Error>,
    ) -> Verdict;
}

/// Chooses the key of a request that has none yet: usually from its own business identifier, so
/// that a client that lost its memory still names the same intent.
///
/// Implemented by closures and by [`UniqueKey`].
pub trait ChooseKey<Req>: Clone + Send + Sync + 'static {
    /// The key of this request.
    fn choose_key(&self, request: &Req) -> IdempotencyKey;

    /// The ticket of this request: its key, and whether anybody may have sent it before. A key that
    /// is not made for this call may have been.
    fn choose_ticket(&self, request: &Req) -> Ticket {
        Ticket::new(self.choose_key(request))
    }
}

/// A new UUIDv7 for every call: right where the caller's own code holds the call until it ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct UniqueKey;

impl<Req> ChooseKey<Req> for UniqueKey {
    fn choose_key(&self, _: &Req) -> IdempotencyKey {
        IdempotencyKey::unique()
    }

    fn choose_ticket(&self, request: &Req) -> Ticket {
        Ticket::never_sent(self.choose_key(request))
    }
}

impl<Req, F> ChooseKey<Req> for F
where
    F: Fn(&Req) -> IdempotencyKey + Clone + Send + Sync + 'static,
{
    fn choose_key(&self, request: &Req) -> IdempotencyKey {
        self(request)
    }
}
