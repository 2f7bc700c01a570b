//! How a run of a call ends without an answer.

use onlyonce_middleware::client::outbox::{self, NoteSentError, Unanswered};
use onlyonce_middleware::client::{Last, Outcome, Stopped};
use onlyonce_storage::IdempotencyKey;
use onlyonce_storage::outbox::{OutboxError, Unknown};

use super::{OutboxFailure, Unfinished};
use crate::rpc::failed::{StackError, last_text, reply_text};
use crate::rpc::{NotSent, Reply, Status, TransportError};

/// How a run ends without an answer that is kept.
pub(super) type Ended = outbox::Ended<Unfinished>;

/// How the caller is told.
pub(super) fn into_failure<F>(ended: Ended, key: &IdempotencyKey) -> OutboxFailure<F> {
    let key = key.clone();
    match ended {
        Ended::GivenUp(because) => {
            OutboxFailure::OutcomeUnknown(Unfinished::given_up(&key, because))
        }
        Ended::NotKept { error, .. } => OutboxFailure::AnswerNotKept { key, error },
        Ended::Outbox(error) => OutboxFailure::Outbox { key, error },
        Ended::Unfinished(Unanswered { outcome, why, .. }) => match outcome {
            Outcome::InDoubt => OutboxFailure::InDoubt(why),
            Outcome::NotExecuted => OutboxFailure::NotExecuted(why),
            Outcome::Unknown => OutboxFailure::OutcomeUnknown(why),
        },
    }
}

/// What is known of the call, unless it is the outbox that failed.
pub(super) fn into_unfinished(ended: Ended, key: &IdempotencyKey) -> Option<Unfinished> {
    match ended {
        Ended::GivenUp(because) => Some(Unfinished::given_up(key, because)),
        Ended::NotKept { error, .. } => Some(Unfinished::not_kept(key, &error)),
        Ended::Outbox(_) => None,
        Ended::Unfinished(unanswered) => Some(unanswered.why),
    }
}

// === impl Unfinished ===

impl Unfinished {
    /// Nobody can tell since an earlier run.
    fn given_up(key: &IdempotencyKey, because: Unknown) -> Self {
        let last = match because {
            Unknown::Aged => "it is older than what servers remember",
            _ => "the server remembers nothing of it",
        };
        Self {
            key: key.clone(),
            cannot_tell: Some(because),
            status: None,
            attempts: 0,
            stopped: Stopped::Final,
            last: last.to_owned(),
        }
    }

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
    fn not_kept(key: &IdempotencyKey, error: &OutboxError) -> Self {
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
