//! What is asked of a store, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use super::sessions::SessionChange;
use crate::journal::{AbandonedPage, CallJournal, NoteError, StepName, StepNote, StepResolution};
use crate::record::{KeyState, Record};
use crate::transaction::{Row, RowRange, Work, Writes};
use crate::transition::Refusal;
use crate::{
    Abandoned, Answer, AnswerBytes, Claim, ClaimOutcome, ClaimRequest, Completion, Cursor,
    DoubtReason, FencingToken, InDoubt, KeyDigest, KeyView, Lease, ListPage, ListRequest, Operator,
    Question, Resolution, Scope, ScopedKey, SessionRequest, SessionState, SettleError, StoreError,
    Timestamp,
};

/// One thing that is asked of a store.
#[derive(Debug)]
#[non_exhaustive]
pub enum Operation {
    /// A claim was dropped unspent. Nobody waits for the reply.
    Abandon {
        /// The key of the claim.
        key: KeyDigest,
        /// Its token.
        token: FencingToken,
    },
    /// See [`TransactionalStore::begin`](crate::transaction::TransactionalStore::begin).
    Begin(ClaimRequest),
    /// See [`Store::claim`](crate::Store::claim).
    Claim(ClaimRequest),
    /// See [`TransactionalStore::commit`](crate::transaction::TransactionalStore::commit).
    Commit(Box<Commit>),
    /// See [`Store::complete`](crate::Store::complete).
    Complete {
        /// The key of the claim.
        key: KeyDigest,
        /// Its token.
        token: FencingToken,
        /// What it is spent on.
        answer: Answer,
    },
    /// See [`Store::doubt`](crate::Store::doubt).
    Doubt {
        /// The key of the claim.
        key: KeyDigest,
        /// Its token.
        token: FencingToken,
        /// Why.
        reason: DoubtReason,
        /// What the handler answered, if anything.
        answer: Option<Answer>,
    },
    /// See [`Store::ask`](crate::Store::ask).
    Ask {
        /// What is asked.
        question: Question,
        /// The key.
        key: ScopedKey,
        /// When the call that is asked about was first sent.
        first_sent: Option<Timestamp>,
    },
    /// Rows of the handlers' tables.
    Read {
        /// Which.
        range: RowRange,
        /// What the reader needs of them.
        sight: Sight,
    },
    /// See [`Store::release`](crate::Store::release).
    Release {
        /// The key of the claim.
        key: KeyDigest,
        /// Its token.
        token: FencingToken,
    },
    /// See [`Store::renew`](crate::Store::renew).
    Renew {
        /// The key of the claim.
        key: KeyDigest,
        /// Its token.
        token: FencingToken,
        /// How long it shall hold from now on.
        lease: Duration,
    },
    /// See [`Inspect::resolve`](crate::Inspect::resolve).
    Resolve {
        /// The key in doubt.
        key: ScopedKey,
        /// The token in doubt.
        token: FencingToken,
        /// What became known.
        resolution: Resolution,
        /// Who says so.
        by: Operator,
    },
    /// See [`Journal::note`](crate::Journal::note).
    Note {
        /// The key of the claim.
        key: KeyDigest,
        /// Its token.
        token: FencingToken,
        /// What is noted.
        note: StepNote,
    },
    /// See [`Journal::abandoned`](crate::Journal::abandoned).
    Abandoned {
        /// Behind this one.
        after: Option<Cursor>,
        /// At most so many.
        calls_max: usize,
    },
    /// See [`Journal::resolve_step`](crate::Journal::resolve_step).
    ResolveStep {
        /// The key in doubt.
        key: KeyDigest,
        /// The token in doubt.
        token: FencingToken,
        /// The step.
        name: StepName,
        /// What became of it.
        resolution: StepResolution,
    },
    /// See [`Inspect::list`](crate::Inspect::list).
    List(ListRequest),
    /// See [`Inspect::show`](crate::Inspect::show).
    Show {
        /// The key.
        key: ScopedKey,
        /// Whether the bytes of its answer are wanted.
        answer: AnswerBytes,
    },
    /// See [`Store::session`](crate::Store::session).
    Session {
        /// The principal's scope.
        scope: Scope,
        /// What is asked.
        request: SessionRequest,
    },
}

/// What is committed.
#[derive(Debug)]
pub struct Commit {
    /// The key of the claim.
    pub key: KeyDigest,
    /// Its token.
    pub token: FencingToken,
    /// What was read and written under it.
    pub work: Work,
    /// The call's answer.
    pub answer: Answer,
}

/// What a reader needs of the rows that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// They need not be durable: whatever is concluded from them becomes durable only after them.
    Applied,
    /// They are durable when they are told.
    Durable,
}

/// Why a commit has done nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitRefusal {
    /// What was read has changed. The claim still holds.
    Conflict,
    /// The claim no longer holds.
    Fenced,
    /// The store does not do it.
    Refused(StoreError),
}

/// What an operation is answered, once its group is durable.
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply {
    /// To a claim.
    Claim(Result<ClaimReply, StoreError>),
    /// To a commit.
    Commit(Result<(), CommitRefusal>),
    /// To a question about rows.
    Rows(Result<Vec<Row>, StoreError>),
    /// To a renewal: the lease that now holds.
    Renew(Result<Lease, SettleError>),
    /// To what is asked about a session.
    Session(Result<SessionState, StoreError>),
    /// To whatever spends a claim or ends a doubt.
    Settle(Result<(), SettleError>),
    /// To a question.
    State(Result<KeyState, StoreError>),
    /// To a note.
    Noted(Result<(), NoteError>),
    /// To whoever looks for what can go on.
    Abandoned(Result<AbandonedPage, StoreError>),
    /// To whoever lists.
    Page(Result<ListPage, StoreError>),
    /// To whoever wants to see a key.
    View(Result<KeyView, StoreError>),
}

/// What a claim is answered.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClaimReply {
    /// It is given, under this token and lease.
    Claimed {
        /// The key.
        key: ScopedKey,
        /// The claim's token.
        token: FencingToken,
        /// How long it holds.
        lease: Lease,
        /// What is kept of a journaled call.
        journal: Option<Box<CallJournal>>,
    },
    /// The call has an answer.
    Completed(Completion),
    /// The outcome is unknown.
    InDoubt(InDoubt),
    /// The scope has as much open as it may have.
    OverQuota,
    /// It is refused.
    Refused(Refusal),
}

/// One row that a group changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The row.
    pub key: KeyDigest,
    /// What it holds, as read before the group.
    pub before: Option<Record>,
    /// What it shall hold. A kept answer is [`AnswerKept::Here`](crate::record::AnswerKept::Here) when the group brought it, and
    /// [`AnswerKept::Beside`](crate::record::AnswerKept::Beside) when it is already where `before` says.
    pub after: Option<Record>,
}

/// What a group does: all of its changes are applied or none, then the replies are sent.
#[derive(Debug)]
#[must_use = "the changes must be made durable before any reply is sent"]
pub struct Group {
    /// The rows that change, one entry a key, in the order of the keys' first change.
    pub changes: Vec<Change>,
    /// What changes of sessions.
    pub sessions: Vec<SessionChange>,
    /// What the handlers' tables shall hold where they change.
    pub rows: Writes,
    /// One reply an operation, in the operations' order.
    pub replies: Vec<Reply>,
}

// === impl Group ===

impl Group {
    /// Whether there is anything to be made durable.
    pub(crate) fn changes_anything(&self) -> bool {
        !self.changes.is_empty() || !self.sessions.is_empty() || !self.rows.is_empty()
    }
}

// === impl CommitRefusal ===

impl From<StoreError> for CommitRefusal {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

// === impl ClaimReply ===

impl ClaimReply {
    /// What a store answers its caller; `on_drop` is told when the claim is dropped unspent.
    #[must_use]
    pub fn into_outcome(self, on_drop: Arc<dyn Abandoned>) -> ClaimOutcome {
        match self {
            Self::Claimed {
                key,
                token,
                lease,
                journal,
            } => {
                let claim = Claim::new(key, token, lease, Some(on_drop));
                ClaimOutcome::Claimed(claim.with_journal(journal))
            }
            Self::Completed(completion) => ClaimOutcome::Completed(completion),
            Self::InDoubt(doubt) => ClaimOutcome::InDoubt(doubt),
            Self::OverQuota => ClaimOutcome::OverQuota,
            Self::Refused(refusal) => match refusal {
                Refusal::FirstSentAhead => ClaimOutcome::FirstSentAhead,
                Refusal::InProgress { retry_after } => ClaimOutcome::InProgress { retry_after },
                Refusal::Mismatch => ClaimOutcome::Mismatch,
                Refusal::SessionExpired => ClaimOutcome::SessionExpired,
                Refusal::Stale => ClaimOutcome::Stale,
                Refusal::UnknownSession => ClaimOutcome::UnknownSession,
                Refusal::WindowFull => ClaimOutcome::WindowFull,
            },
        }
    }
}

// === impl Reply ===

impl Reply {
    /// The reply to a claim; `on_drop` is told when the claim in it is dropped unspent.
    ///
    /// # Errors
    ///
    /// What the reply says.
    pub fn into_claim(self, on_drop: Arc<dyn Abandoned>) -> Result<ClaimOutcome, StoreError> {
        match self {
            Self::Claim(reply) => reply.map(|reply| reply.into_outcome(on_drop)),
            other => Err(other.mixed_up()),
        }
    }

    /// The reply to a commit.
    ///
    /// # Errors
    ///
    /// What the reply says.
    pub fn into_committed(self) -> Result<(), CommitRefusal> {
        match self {
            Self::Commit(reply) => reply,
            other => Err(other.mixed_up().into()),
        }
    }

    /// The reply to a question about rows.
    ///
    /// # Errors
    ///
    /// What the reply says.
    pub fn into_rows(self) -> Result<Vec<Row>, StoreError> {
        match self {
            Self::Rows(reply) => reply,
            other => Err(other.mixed_up()),
        }
    }

    /// The reply to a renewal.
    ///
    /// # Errors
    ///
    /// What the reply says.
    pub fn into_lease(self) -> Result<Lease, SettleError> {
        match self {
            Self::Renew(reply) => reply,
            other => Err(other.mixed_up().into()),
        }
    }

    /// The reply to whatever spends a claim or ends a doubt.
    ///
    /// # Errors
    ///
    /// What the reply says.
    pub fn into_settled(self) -> Result<(), SettleError> {
        match self {
            Self::Settle(reply) => reply,
            other => Err(other.mixed_up().into()),
        }
    }

    /// The reply to what is asked about a session.
    ///
    /// # Errors
    ///
    /// What the reply says.
    pub fn into_session(self) -> Result<SessionState, StoreError> {
        match self {
            Self::Session(reply) => reply,
            other => Err(other.mixed_up()),
        }
    }

    /// The reply to a question.
    ///
    /// # Errors
    ///
    /// What the reply says.
    pub fn into_state(self) -> Result<KeyState, StoreError> {
        match self {
            Self::State(reply) => reply,
            other => Err(other.mixed_up()),
        }
    }

    /// The reply to a note.
    ///
    /// # Errors
    ///
    /// What the reply says.
    pub fn into_noted(self) -> Result<(), NoteError> {
        match self {
            Self::Noted(reply) => reply,
            other => Err(other.mixed_up().into()),
        }
    }

    /// The reply to whoever looks for what can go on.
    ///
    /// # Errors
    ///
    /// What the reply says.
    pub fn into_abandoned(self) -> Result<AbandonedPage, StoreError> {
        match self {
            Self::Abandoned(reply) => reply,
            other => Err(other.mixed_up()),
        }
    }

    /// The reply to whoever lists.
    ///
    /// # Errors
    ///
    /// What the reply says.
    pub fn into_page(self) -> Result<ListPage, StoreError> {
        match self {
            Self::Page(reply) => reply,
            other => Err(other.mixed_up()),
        }
    }

    /// The reply to whoever wants to see a key.
    ///
    /// # Errors
    ///
    /// What the reply says.
    pub fn into_view(self) -> Result<KeyView, StoreError> {
        match self {
            Self::View(reply) => reply,
            other => Err(other.mixed_up()),
        }
    }

    /// Only a bug can pair a question with another's reply; the call then fails closed.
    fn mixed_up(self) -> StoreError {
        StoreError::Unavailable {
            reason: format!("a reply was given to another question: {self:?}"),
            retry_after: Duration::from_secs(1),
        }
    }
}
