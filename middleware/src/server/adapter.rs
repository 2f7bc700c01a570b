//! How the server layers speak a protocol.

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use onlyonce_storage::journal::AbandonedCall;
use onlyonce_storage::transaction::Transaction;
use onlyonce_storage::{
    Answer, FencingToken, Fingerprints, KeyState, Question, ScopedKey, SessionCall, StoreId,
    Timestamp,
};
use tokio::time::Instant;

use super::{Execution, InDoubtPolicy, Refusal, Steps};

/// What the server layers need to know of a protocol.
///
/// Only an adapter names headers, metadata or frame fields. It is cheap to clone.
pub trait Adapter: Clone + Send + Sync + 'static {
    /// What comes in.
    type Request: Send + 'static;

    /// What the handler answers, and what goes back to the caller.
    type Response: Send + 'static;

    /// What the handler fails with, where it fails without an answer.
    type Error: Send + 'static;

    /// Parses the request at the edge: what names the call, what it digests to, how long it may
    /// take. May read the request's body, within a bound.
    fn admit(
        &self,
        request: Self::Request,
    ) -> impl Future<Output = Admission<Self::Request>> + Send;

    /// Tells the handler, in the request that it gets, which of the call's runs this is. Adapters
    /// that have no place for it leave the request as it is.
    fn executing(&self, request: Self::Request, execution: Execution) -> Self::Request {
        let _ = execution;
        request
    }

    /// A request for one run of a handler that works on a transaction: the same request, with the
    /// transaction in it. It is asked for each run anew, as the handler may run several times. `None`
    /// from adapters that have no place for it: such a call is refused.
    fn transacting(
        &self,
        request: &Self::Request,
        execution: Execution,
        transaction: &Transaction,
    ) -> Option<Self::Request> {
        let _ = (request, execution, transaction);
        None
    }

    /// The request for one run of a journaled handler: the same request, with the call's steps in it.
    /// `None` from adapters that have no place for them: such a call is refused.
    fn journaling(
        &self,
        request: Self::Request,
        execution: Execution,
        steps: &Steps,
    ) -> Option<Self::Request> {
        let _ = (request, execution, steps);
        None
    }

    /// The request of a journaled call that stands still, made from what
    /// [`Intent::stored_request`] kept of it, so that its server goes on with it. `None` of what is
    /// not this adapter's, or not a journaled handler's any more; what is stored must therefore tell
    /// whose it is. Adapters that store nothing revive nothing.
    ///
    /// The intent that comes with it names the call's key and is
    /// [`Guarantee::Journaled`]. The layer sees to it that only this very call is gone on with.
    fn revive(&self, call: &AbandonedCall) -> Option<(Intent, Self::Request)> {
        let _ = call;
        None
    }

    /// Encodes what the handler came to, and says what it means for the key.
    fn record(
        &self,
        result: Result<Self::Response, Self::Error>,
    ) -> impl Future<Output = Recording<Self::Response>> + Send;

    /// The response that `answer` encodes, marked as `served`.
    ///
    /// # Errors
    ///
    /// The refusal to give instead, when the answer was recorded in a format that is not this
    /// adapter's.
    fn replay(&self, answer: &Answer, served: Served) -> Result<Self::Response, Refusal>;

    /// Marks a response that comes from the handler itself.
    fn mark(&self, response: Self::Response, served: Served) -> Self::Response;

    /// The response that says why there is no answer.
    fn refuse(&self, refusal: &Refusal) -> Self::Response;

    /// The response to a question about a key.
    fn tell(&self, state: &KeyState) -> Self::Response;
}

/// What a request is, once parsed.
#[derive(Debug)]
pub enum Admission<Req> {
    /// A question about a key. Neither executes anything.
    Ask {
        /// What is asked.
        question: Question,
        /// The key.
        key: ScopedKey,
        /// When the call that is asked about was first sent, on the store's clock, as far as the
        /// asker knows.
        first_sent: Option<Timestamp>,
        /// When the asker stops waiting.
        deadline: Option<Instant>,
    },
    /// A call that takes effect at most once.
    Protected(Intent, Req),
    /// It cannot be admitted. Nothing is executed.
    Refused(Refusal),
    /// A request that may be executed any number of times.
    Unprotected(Req),
}

/// What one attempt of a call asks for.
#[derive(Clone)]
#[non_exhaustive]
pub struct Intent {
    /// The key in its scope.
    pub key: ScopedKey,
    /// What the request digests to.
    pub fingerprints: Fingerprints,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// When the client first sent the call, on the store's clock.
    pub first_sent: Option<Timestamp>,
    /// The store that the call is bound to.
    pub store: Option<StoreId>,
    /// The session, for a call in one.
    pub session: Option<SessionCall>,
    /// What is done if the call is in doubt, where the handler's author said so of it. Otherwise
    /// the layer says.
    pub in_doubt: Option<InDoubtPolicy>,
    /// What the handler's author chose.
    pub guarantee: Guarantee,
    /// The request as bytes, for a journaled call: what [`Adapter::revive`] makes the request of
    /// again. They are kept beside the claim until the call is settled.
    pub stored_request: Option<Bytes>,
    /// The claim under which a journaled call stands still, for whoever goes on with it of its own
    /// accord: that call is gone on with, or nothing happens. A caller's own attempt has none.
    pub goes_on_from: Option<FencingToken>,
    /// Whether its caller makes further attempts if this one comes to nothing. Then a client stack
    /// that the handler uses does not: see [`RetryLayer`](crate::client::RetryLayer).
    pub caller_retries: bool,
}

/// What a call is guaranteed, and at what price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guarantee {
    /// Any handler with any effect. A crash between effect and record leaves the call in doubt.
    #[default]
    Claimed,
    /// The effect lies in the same store: a transaction, which is committed with the answer. A crash
    /// leaves both or neither.
    Transactional,
    /// A handler whose effects are [`Steps`], with any effect each. A crash leaves the call standing
    /// still behind its last finished step, and it goes on from there. Only one that falls into a step
    /// which must not be repeated leaves it in doubt.
    Journaled,
}

/// What the handler came to.
#[derive(Debug)]
pub struct Recording<Res> {
    /// What it means for the key.
    pub outcome: Outcome,
    /// What goes to the caller who is waiting. Without one the caller is told what became of the
    /// key.
    pub response: Option<Res>,
}

/// What a handler's result means for the key.
#[derive(Debug)]
pub enum Outcome {
    /// It leaves open whether the effect happened; the answer, if any, is kept for duplicates.
    InDoubt(Option<Answer>),
    /// Nothing was executed: the key is free again. That of a re-run is in doubt as before, since
    /// the run before may have executed something.
    NotExecuted,
    /// It is the call's answer, success or not, from now on.
    Record(Answer),
    /// There is an answer, which cannot be recorded: it is too large, or does not end. It is
    /// delivered this once, and the call is in doubt.
    Unrecorded,
}

/// How a caller got its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Served {
    /// From the execution that another attempt began.
    Attached,
    /// The handler ran, and its answer is recorded.
    Executed,
    /// The handler ran, but its answer could not be recorded: the key is in doubt.
    ExecutedUnrecorded,
    /// It is the answer that was kept of a call in doubt.
    InDoubt,
    /// The handler says that nothing was executed.
    NotExecuted,
    /// From the record.
    Replayed,
    /// The request was not protected.
    Unprotected,
}

impl Intent {
    /// A call with this key and these fingerprints, without deadline, session, history or policy,
    /// whose caller does not retry.
    #[must_use]
    pub const fn new(key: ScopedKey, fingerprints: Fingerprints) -> Self {
        Self {
            key,
            fingerprints,
            deadline: None,
            first_sent: None,
            store: None,
            session: None,
            in_doubt: None,
            guarantee: Guarantee::Claimed,
            stored_request: None,
            goes_on_from: None,
            caller_retries: false,
        }
    }
}

impl fmt::Debug for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A request is content: of one that is stored only its size is shown.
        let stored_bytes = self.stored_request.as_ref().map(Bytes::len);
        f.debug_struct("Intent")
            .field("key", &self.key)
            .field("fingerprints", &self.fingerprints)
            .field("deadline", &self.deadline)
            .field("first_sent", &self.first_sent)
            .field("store", &self.store)
            .field("session", &self.session)
            .field("in_doubt", &self.in_doubt)
            .field("guarantee", &self.guarantee)
            .field("stored_request_bytes", &stored_bytes)
            .field("goes_on_from", &self.goes_on_from)
            .field("caller_retries", &self.caller_retries)
            .finish()
    }
}

impl Served {
    /// The word for metrics: `executed`, `replayed` and so on.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Executed => "executed",
            Self::ExecutedUnrecorded => "executed_unrecorded",
            Self::InDoubt => "in_doubt_answered",
            Self::NotExecuted => "not_executed",
            Self::Replayed => "replayed",
            Self::Unprotected => "unprotected",
        }
    }
}
