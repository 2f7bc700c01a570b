//! How a run of a call ends without an answer.

use onlyonce_middleware::client::outbox::NoteSentError;
use onlyonce_middleware::client::{Last, Outcome, Stopped};
use onlyonce_storage::IdempotencyKey;
use onlyonce_storage::outbox::{OutboxError, Unknown};

use super::{OutboxFailure, Unfinished};
use crate::rpc::failed::{StackError, last_text, reply_text};
use crate::rpc::{NotSent, Reply, Status, TransportError};

/// How a run ends without an answer that is kept.
pub(super) enum Ended {
    NotKept(OutboxError),
    Outbox(OutboxError),
    Unfinished(Outcome, Unfinished),
}

// === impl Ended ===

impl Ended {
    pub(super) fn given_up(key: &IdempotencyKey, because: Unknown) -> Self {
        let last = match because {
            Unknown::Aged => "it is older than what servers remember",
            _ => "the server remembers nothing of it",
        };
        let unfinished = Unfinished {
            key: key.clone(),
            cannot_tell: Some(because),
            status: None,
            attempts: 0,
            stopped: Stopped::Final,
            last: last.to_owned(),
        };
        Self::Unfinished(Outcome::Unknown, unfinished)
    }

    pub(super) fn into_failure<F>(self, key: &IdempotencyKey) -> OutboxFailure<F> {
        let key = key.clone();
        match self {
            Self::NotKept(error) => OutboxFailure::AnswerNotKept { key, error },
            Self::Outbox(error) => OutboxFailure::Outbox { key, error },
            Self::Unfinished(Outcome::InDoubt, unfinished) => OutboxFailure::InDoubt(unfinished),
            Self::Unfinished(Outcome::NotExecuted, unfinished) => {
                OutboxFailure::NotExecuted(unfinished)
            }
            Self::Unfinished(Outcome::Unknown, unfinished) => {
                OutboxFailure::OutcomeUnknown(unfinished)
            }
        }
    }
}

// === impl Unfinished ===

impl Unfinished {
    pub(super) fn of(key: &IdempotencyKey, error: &StackError) -> (Outcome, Self) {
        let (status, cannot_tell) = match &error.last {
            Last::Response(reply) => {
                let stale = reply.status == Status::Stale;
                (Some(reply.status), stale.then_some(Unknown::Forgotten))
            }
            Last::Error(TransportError::NotSent(NotSent::NotNoted(NoteSentError::Aged {
                ..
            }))) => (None, Some(Unknown::Aged)),
            Last::Elapsed | Last::Error(_) | Last::Nothing => (None, None),
        };
        let unfinished = Self {
            key: key.clone(),
            cannot_tell: cannot_tell.filter(|_| error.outcome == Outcome::Unknown),
            status,
            attempts: error.attempts,
            stopped: error.stopped,
            last: last_text(&error.last),
        };
        (error.outcome, unfinished)
    }

    pub(super) fn refused(key: &IdempotencyKey, attempts: u32, reply: &Reply) -> Self {
        Self {
            key: key.clone(),
            cannot_tell: None,
            status: Some(reply.status),
            attempts,
            stopped: Stopped::Final,
            last: reply_text(reply),
        }
    }

    /// The call's own time is over.
    pub(super) fn elapsed(key: &IdempotencyKey, attempts: u32) -> Self {
        Self {
            key: key.clone(),
            cannot_tell: None,
            status: None,
            attempts,
            stopped: Stopped::Deadline,
            last: "it did not end in the time that the call has for a run".to_owned(),
        }
    }

    /// The answer has come, and the outbox could not keep it.
    pub(super) fn not_kept(key: &IdempotencyKey, error: &OutboxError) -> Self {
        Self {
            key: key.clone(),
            cannot_tell: None,
            status: None,
            attempts: 1,
            stopped: Stopped::Final,
            last: format!("its answer has come and was not kept: {error}"),
        }
    }
}
