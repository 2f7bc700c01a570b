//! What goes in and out of the transport: requests, incoming calls, replies.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use onlyonce_middleware::client::{Call, Ticket};
use onlyonce_middleware::server::{Execution, Steps};
use onlyonce_storage::transaction::Transaction;
use onlyonce_storage::{
    FencingToken, IdempotencyKey, KeyError, Scope, SessionCall, StoreId, Timestamp,
};
use tokio::time::Instant;

use super::Status;
use super::channel::Place;

/// What is asked of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Execute the call, at most once.
    #[default]
    Call,
    /// Say what is known of the key. Executes and changes nothing.
    Peek,
    /// Make the key impossible if it is absent; otherwise say what is known of it.
    Seal,
}

/// One attempt as a client hands it to a [`Channel`](super::Channel).
///
/// Cloning it does not copy the arguments.
#[derive(Clone)]
#[non_exhaustive]
pub struct Request {
    /// What is asked of the key.
    pub verb: Verb,
    /// The method, 1 to 255 bytes.
    pub method: Arc<str>,
    /// The encoded arguments, opaque to the transport.
    pub arguments: Bytes,
    /// What the caller chose as the call's key or, to resume a call, its whole ticket. The
    /// transport does not send it: the layer that attaches keys turns it into a stamp.
    pub ticket: Option<Ticket>,
    /// What this attempt carries. Without one the request goes out without a key, and a server
    /// that dedupes refuses it.
    pub stamp: Option<Stamp>,
    /// The call's number in its session, for a call in one.
    pub(super) place: Option<Arc<Place>>,
    /// Where the call is noted once the request was stamped: all copies share it.
    call: Arc<OnceLock<Arc<Call>>>,
}

/// What one attempt of a call carries over the wire.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stamp {
    /// What all attempts of the call share: its key, and once it was sent, when and to which
    /// store.
    pub call: Arc<Call>,
    /// Which attempt this is, from 1.
    pub attempt: NonZeroU32,
    /// When the caller stops waiting. What is left of it goes over the wire, in milliseconds.
    pub deadline: Option<Instant>,
    /// The session and the call's place in it.
    pub session: Option<SessionCall>,
}

/// A call as a [`Server`](super::Server) hands it to its service.
#[non_exhaustive]
pub struct Incoming {
    /// Who calls. It names the principal only; narrowing it to an operation is the service's
    /// business.
    pub scope: Scope,
    /// What is asked of the key.
    pub verb: Verb,
    /// The method, 1 to 255 bytes.
    pub method: Arc<str>,
    /// The idempotency key, or why what was sent is none. `None` when nothing was sent.
    pub key: Option<Result<IdempotencyKey, KeyError>>,
    /// When the client first sent the call, on this server's clock.
    pub first_sent: Option<Timestamp>,
    /// Which attempt this is, from 1.
    pub attempt: NonZeroU32,
    /// When the caller stops waiting: what was left of its time when the call arrived.
    pub deadline: Option<Instant>,
    /// The session and the call's place in it.
    pub session: Option<SessionCall>,
    /// The store that the call is bound to. A call that is bound to another than the server's is
    /// refused before it gets here.
    pub store: Option<StoreId>,
    /// The encoded arguments.
    pub arguments: Bytes,
    /// Which of the call's runs this is, once the dedupe layer has allowed it to run.
    pub execution: Option<Execution>,
    /// What a transactional method works on.
    pub transaction: Option<Transaction>,
    /// What a journaled method has its effects with.
    pub steps: Option<Steps>,
    /// The claim under which the call stands still, where the server itself goes on with it: that
    /// call is gone on with, or nothing happens. `None` for what came over the wire.
    pub goes_on_from: Option<FencingToken>,
}

/// What a server answers.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply {
    /// What became of the call.
    pub status: Status,
    /// When asking again is of use, to the millisecond.
    pub retry_after: Option<Duration>,
    /// The encoded answer where [`Status::carries_answer`], a key's state for
    /// [`Status::State`], otherwise a text for humans, which may be empty.
    pub body: Bytes,
}

// === impl Request ===

impl Request {
    /// A call of `method` with these arguments, still without a key.
    pub fn new(method: impl Into<Arc<str>>, arguments: impl Into<Bytes>) -> Self {
        Self {
            verb: Verb::Call,
            method: method.into(),
            arguments: arguments.into(),
            ticket: None,
            stamp: None,
            place: None,
            call: Arc::default(),
        }
    }

    /// What all attempts of this request's call share, once one was stamped. It is the same for
    /// copies that were made before.
    pub(super) fn call(&self) -> Arc<OnceLock<Arc<Call>>> {
        Arc::clone(&self.call)
    }

    /// The same request with another verb.
    #[must_use]
    pub fn verb(mut self, verb: Verb) -> Self {
        self.verb = verb;
        self
    }

    /// The same request for the call that `ticket` names.
    #[must_use]
    pub fn ticket(mut self, ticket: impl Into<Ticket>) -> Self {
        self.ticket = Some(ticket.into());
        self
    }

    /// The same request as one attempt of a call.
    #[must_use]
    pub fn stamp(mut self, stamp: Stamp) -> Self {
        // All stamps of a request are of one call.
        self.call.get_or_init(|| Arc::clone(&stamp.call));
        self.stamp = Some(stamp);
        self
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("verb", &self.verb)
            .field("method", &self.method)
            .field("arguments_bytes", &self.arguments.len())
            .field("ticket", &self.ticket)
            .field("stamp", &self.stamp)
            .finish()
    }
}

// === impl Stamp ===

impl Stamp {
    /// Attempt number `attempt` of `call`, without deadline or session.
    #[must_use]
    pub const fn new(call: Arc<Call>, attempt: NonZeroU32) -> Self {
        Self {
            call,
            attempt,
            deadline: None,
            session: None,
        }
    }

    /// The same attempt, of a call that must have ended at `deadline`.
    #[must_use]
    pub const fn deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }

    /// The same attempt, of a call in a session.
    #[must_use]
    pub const fn session(mut self, session: Option<SessionCall>) -> Self {
        self.session = session;
        self
    }
}

// === impl Incoming ===

impl Incoming {
    /// An attempt that reaches a service without a connection in between.
    #[cfg(feature = "cli")]
    pub(crate) fn in_process(request: Request, scope: Scope) -> Self {
        let stamp = request.stamp.as_ref();
        Self {
            scope,
            verb: request.verb,
            method: request.method,
            key: stamp.map(|stamp| Ok(stamp.call.key().clone())),
            first_sent: None,
            attempt: stamp.map_or(NonZeroU32::MIN, |stamp| stamp.attempt),
            deadline: stamp.and_then(|stamp| stamp.deadline),
            session: None,
            store: None,
            arguments: request.arguments,
            execution: None,
            transaction: None,
            steps: None,
            goes_on_from: None,
        }
    }

    /// The same call, for another run of its handler.
    pub(super) fn again(&self) -> Self {
        Self {
            scope: self.scope.clone(),
            verb: self.verb,
            method: Arc::clone(&self.method),
            key: self.key.clone(),
            first_sent: self.first_sent,
            attempt: self.attempt,
            deadline: self.deadline,
            session: self.session,
            store: self.store,
            arguments: self.arguments.clone(),
            execution: self.execution,
            transaction: self.transaction.clone(),
            steps: self.steps.clone(),
            goes_on_from: self.goes_on_from,
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("scope", &self.scope)
            .field("verb", &self.verb)
            .field("method", &self.method)
            .field("key", &self.key)
            .field("first_sent", &self.first_sent)
            .field("attempt", &self.attempt)
            .field("deadline", &self.deadline)
            .field("store", &self.store)
            .field("arguments_bytes", &self.arguments.len())
            .finish_non_exhaustive()
    }
}

// === impl Reply ===

impl Reply {
    /// A reply with this status and body.
    pub fn new(status: Status, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            retry_after: None,
            body: body.into(),
        }
    }

    /// A refusal that says why. The text is for humans: it must name no key, credential or
    /// content.
    #[must_use]
    pub fn refusal(status: Status, why: impl Into<String>) -> Self {
        Self::new(status, why.into())
    }

    /// The same reply, with the advice not to ask again before `after` has passed.
    #[must_use]
    pub const fn retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("retry_after", &self.retry_after)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// Longer method names are somebody's mistake; they become part of a scope, whose parts have the
/// same limit.
pub const METHOD_BYTES_MAX: usize = 255;
