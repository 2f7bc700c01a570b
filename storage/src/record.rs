//! What a store keeps of a key.

use std::time::Duration;

use crate::{
    Answer, AttemptId, CallJournal, Completion, DoubtReason, FencingToken, Fingerprint, InDoubt,
    Lease, Operator, ScopedKey, SessionCall, Timestamp,
};

/// Everything that is kept of one key. The legal changes are in [`transition`](crate::transition).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A call that was claimed.
    Call(CallRecord),
    /// A key that was made impossible before anybody used it.
    Sealed {
        /// When, on the store's clock.
        at: Timestamp,
    },
}

/// A call that was claimed, whatever became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRecord {
    /// The key.
    pub key: ScopedKey,
    /// The request that first used it.
    pub fingerprint: Fingerprint,
    /// The claim under which it ran.
    pub token: FencingToken,
    /// The attempt that claimed it.
    pub attempt: AttemptId,
    /// When it was claimed, on the store's clock.
    pub claimed_at: Timestamp,
    /// When the client first sent it, on the store's clock.
    pub first_sent: Option<Timestamp>,
    /// Its session, for a call in one. A completed call that has one is held for it: see
    /// [`Record::is_held`].
    pub session: Option<SessionCall>,
    /// How long the answer shall be kept; the store's own retention when `None`.
    pub retention: Option<Duration>,
    /// What its handler has finished so far, for a call that keeps a journal and is not settled.
    pub journal: Option<Box<CallJournal>>,
    /// What became of it.
    pub state: State,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has an answer.
    Completed {
        /// When it was recorded.
        at: Timestamp,
        /// Until when the answer is replayed; afterwards the call is stale.
        answer_until: Timestamp,
        /// The answer, or what is left of it.
        answer: AnswerKept,
        /// Who ended its doubt, where somebody did who was not its owner.
        resolved_by: Option<Operator>,
    },
    /// Its outcome is unknown.
    InDoubt {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: DoubtReason,
        /// What the handler answered, if anything.
        answer: Option<AnswerKept>,
    },
    /// Somebody executes it.
    InProgress {
        /// Until when the claim holds.
        lease: Lease,
    },
}

/// Where an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerKept {
    /// The store keeps it beside the record.
    Beside {
        /// The answer's format number.
        format: u16,
        /// The answer's length in bytes.
        length: u32,
        /// Where, in a number that means something to the store alone.
        at: u64,
    },
    /// It was removed; the record is a tombstone.
    Gone,
    /// In the record.
    Here(Answer),
}

/// What is known of a key, without executing anything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyState {
    /// Nobody has used it, as far as the store remembers; a call with it would be executed, unless
    /// it says that it was first sent at a time of which the store has forgotten calls.
    Absent,
    /// It has an answer.
    Completed(Completion),
    /// Its outcome is unknown.
    InDoubt(InDoubt),
    /// Somebody is executing it.
    InProgress {
        /// When it was claimed, on the store's clock.
        since: Timestamp,
    },
    /// It was sealed before anybody used it: it has not happened and never will, as far as the
    /// store remembers.
    Sealed {
        /// When, on the store's clock.
        at: Timestamp,
    },
    /// Nothing is left by which the store could tell whether the call was executed. It is older than
    /// what is remembered, and never will be executed again; or the asker knows no more than its key,
    /// and its principal acknowledges calls in sessions, of which nothing is left.
    Stale,
    /// It was used and answered; the answer is no longer kept.
    Tombstone {
        /// When it was answered, on the store's clock.
        completed_at: Timestamp,
    },
}

impl CallRecord {
    /// The answer that is kept of it, wherever it is.
    #[cfg(feature = "sled")]
    pub(crate) const fn kept(&self) -> Option<&AnswerKept> {
        match &self.state {
            State::Completed { answer, .. } => Some(answer),
            State::InDoubt { answer, .. } => answer.as_ref(),
            State::InProgress { .. } => None,
        }
    }

    #[cfg(feature = "sled")]
    pub(crate) fn kept_mut(&mut self) -> Option<&mut AnswerKept> {
        match &mut self.state {
            State::Completed { answer, .. } => Some(answer),
            State::InDoubt { answer, .. } => answer.as_mut(),
            State::InProgress { .. } => None,
        }
    }
}

impl Record {
    /// The call in it, unless it is a seal.
    #[must_use]
    pub const fn call(&self) -> Option<&CallRecord> {
        match self {
            Self::Call(call) => Some(call),
            Self::Sealed { .. } => None,
        }
    }

    /// What is kept of the steps of a call that keeps a journal.
    #[must_use]
    pub fn journal(&self) -> Option<&CallJournal> {
        self.call()?.journal.as_deref()
    }

    /// Whether it is completed and held for a session that has not acknowledged it. It is forgotten
    /// when that is done, and not by its age; when the session ends, it is taken out of the record.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        match self {
            Self::Call(call) => {
                matches!(call.state, State::Completed { .. }) && call.session.is_some()
            }
            Self::Sealed { .. } => false,
        }
    }

    /// Whether it is settled: completed or sealed, to be forgotten after the horizon. What is in
    /// progress or in doubt is never forgotten.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        match self {
            Self::Call(call) => matches!(call.state, State::Completed { .. }),
            Self::Sealed { .. } => true,
        }
    }
}
