//! One call: what all of its attempts share.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use onlyonce_storage::{IdempotencyKey, StoreId, Timestamp};
use tokio::time::Instant;

/// What names a call for as long as anybody cares: enough to resume, peek at or seal it later,
/// from another task or process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ticket {
    /// The call's key.
    pub key: IdempotencyKey,
    /// When the call was first sent, on the server's clock; `None` if it never was.
    pub first_sent: Option<Timestamp>,
    /// The store that the first attempt met; `None` if no attempt met one.
    pub store: Option<StoreId>,
    /// Whether the call may have been executed already. Also true where no attempt was answered,
    /// so that neither of the other two is known.
    pub maybe_executed: bool,
}

/// The state that all attempts of one call share.
///
/// The key never changes. When the call was first sent, and towards which store, is noted once, by
/// the first attempt that learns it, and stays.
pub struct Call {
    key: IdempotencyKey,
    first_sent: OnceLock<Timestamp>,
    store: OnceLock<StoreId>,
    attempts: AtomicU32,
    /// What the ticket brought: no attempt of ours can prove anything about it.
    sent_before: bool,
    maybe_executed: AtomicBool,
    /// What `maybe_executed` was before the attempt that was begun last.
    maybe_executed_earlier: AtomicBool,
}

/// A request that has its key. Retry and hedge take nothing else, so a request cannot be sent a
/// second time without the key of the first.
#[derive(Debug)]
pub struct Keyed<Req> {
    request: Req,
    call: Arc<Call>,
    deadline: Option<Instant>,
    attempt: NonZeroU32,
}

// === impl Ticket ===

impl Ticket {
    /// The call under a key that somebody wrote down, or derives from a business identifier: it may
    /// have been sent before, and executed.
    #[must_use]
    pub const fn new(key: IdempotencyKey) -> Self {
        Self {
            key,
            first_sent: None,
            store: None,
            maybe_executed: true,
        }
    }

    /// The call under a key that was never sent, for whoever knows: a call that then fails before it
    /// is sent was not executed.
    #[must_use]
    pub const fn never_sent(key: IdempotencyKey) -> Self {
        let mut ticket = Self::new(key);
        ticket.maybe_executed = false;
        ticket
    }

    /// What was sent may have been executed, whatever else is known.
    #[must_use]
    pub const fn maybe_executed(mut self) -> Self {
        self.maybe_executed = true;
        self
    }

    /// The same call, first sent at this time on the server's clock.
    #[must_use]
    pub const fn first_sent(mut self, at: Timestamp) -> Self {
        self.first_sent = Some(at);
        self
    }

    /// The same call, whose first attempt met this store.
    #[must_use]
    pub const fn store(mut self, id: StoreId) -> Self {
        self.store = Some(id);
        self
    }
}

impl From<IdempotencyKey> for Ticket {
    fn from(key: IdempotencyKey) -> Self {
        Self::new(key)
    }
}

// === impl Call ===

impl Call {
    /// The call that `ticket` names. One whose ticket has a first-sent time or a store may have been
    /// executed before, as one whose ticket says so.
    #[must_use]
    pub fn new(ticket: Ticket) -> Self {
        let sent_before =
            ticket.maybe_executed || ticket.first_sent.is_some() || ticket.store.is_some();
        Self {
            key: ticket.key,
            first_sent: ticket.first_sent.map(OnceLock::from).unwrap_or_default(),
            store: ticket.store.map(OnceLock::from).unwrap_or_default(),
            attempts: AtomicU32::new(0),
            sent_before,
            maybe_executed: AtomicBool::new(sent_before),
            maybe_executed_earlier: AtomicBool::new(sent_before),
        }
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &IdempotencyKey {
        &self.key
    }

    /// When the call was first sent, on the server's clock. The first caller's `now` is it.
    pub fn first_sent_or(&self, now: Timestamp) -> Timestamp {
        *self.first_sent.get_or_init(|| now)
    }

    /// The store that the call is bound to: the first one that any attempt met.
    #[must_use]
    pub fn store(&self) -> Option<StoreId> {
        self.store.get().copied()
    }

    /// Binds the call to the store of the peer that an attempt is about to be sent to, or has been
    /// answered by. Answers the store that the call is bound to, which is another one when an
    /// earlier attempt met another.
    pub fn bind(&self, store: StoreId) -> StoreId {
        *self.store.get_or_init(|| store)
    }

    /// What the caller needs to come back to this call.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        Ticket {
            key: self.key.clone(),
            first_sent: self.first_sent.get().copied(),
            store: self.store(),
            maybe_executed: self.maybe_executed(),
        }
    }

    /// How many attempts were begun.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Acquire)
    }

    /// Whether the call may have been sent, and executed, before the first attempt made here.
    #[must_use]
    pub const fn sent_before(&self) -> bool {
        self.sent_before
    }

    /// Whether any attempt may have been executed without an answer having arrived.
    #[must_use]
    pub fn maybe_executed(&self) -> bool {
        self.maybe_executed.load(Ordering::Acquire)
    }

    /// Whether any attempt before the one that was begun last may have been executed. What that one is
    /// answered may speak of them.
    #[must_use]
    pub fn maybe_executed_earlier(&self) -> bool {
        self.maybe_executed_earlier.load(Ordering::Acquire)
    }

    /// Begins an attempt: from here on the call may have been executed, until
    /// [`settle_attempt`](Self::settle_attempt) says otherwise. Answers what
    /// [`maybe_executed`](Self::maybe_executed) was before.
    pub(crate) fn begin_attempt(&self) -> bool {
        self.attempts.fetch_add(1, Ordering::AcqRel);
        let earlier = self.maybe_executed.swap(true, Ordering::AcqRel);
        self.maybe_executed_earlier
            .store(earlier, Ordering::Release);
        earlier
    }

    /// Settles what the attempt just made has shown of the call.
    pub(crate) fn settle_attempt(&self, maybe_executed: bool) {
        self.maybe_executed.store(maybe_executed, Ordering::Release);
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("ticket", &self.ticket())
            .field("attempts", &self.attempts())
            .field("maybe_executed", &self.maybe_executed())
            .finish()
    }
}

// === impl Keyed ===

impl<Req> Keyed<Req> {
    /// `request` as the first attempt of the call that `ticket` names.
    #[must_use]
    pub fn new(request: Req, ticket: Ticket) -> Self {
        Self {
            request,
            call: Arc::new(Call::new(ticket)),
            deadline: None,
            attempt: NonZeroU32::MIN,
        }
    }

    /// The request.
    #[must_use]
    pub const fn request(&self) -> &Req {
        &self.request
    }

    /// What all attempts share.
    #[must_use]
    pub const fn call(&self) -> &Arc<Call> {
        &self.call
    }

    /// When the call must have ended.
    #[must_use]
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub const fn attempt(&self) -> NonZeroU32 {
        self.attempt
    }

    /// The same call with a deadline; an earlier one that it has already stays.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(
            self.deadline
                .map_or(deadline, |earlier| earlier.min(deadline)),
        );
        self
    }

    /// Another attempt of the same call, with a copy of its request.
    #[must_use]
    pub fn again(&self, request: Req, attempt: NonZeroU32) -> Self {
        Self {
            request,
            call: Arc::clone(&self.call),
            deadline: self.deadline,
            attempt,
        }
    }

    /// The request, and what all attempts share.
    #[must_use]
    pub fn into_parts(self) -> (Req, Arc<Call>) {
        (self.request, self.call)
    }
}
