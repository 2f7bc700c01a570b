//! How a call from an outbox ends without its answer.

use std::fmt;

use http::Response;
use onlyonce_storage::IdempotencyKey;
use onlyonce_storage::outbox::{OutboxError, Unknown};

use crate::client::outbox::{Ended, NoteSentError, Unanswered};
use crate::client::{CallError, Last, Outcome, Stopped, Ticket};
use crate::http::client::TransportError;
use crate::http::server::answer::Recorded;
use crate::http::{Body, ServingStore, Status};

/// A call from an outbox that did not end with its answer.
///
/// But for [`NotWritten`](Self::NotWritten) and [`Unwritable`](Self::Unwritable) the call is in the
/// outbox, or may be ([`Outbox`](Self::Outbox)), and stays there until it is acknowledged, cancelled or
/// forgotten by name: never make it anew under another key.
#[derive(Debug)]
#[non_exhaustive]
pub enum OutboxFailure {
    /// The answer has come and could not be kept. The server keeps it; resume the call when the outbox
    /// is able again.
    AnswerNotKept {
        /// The call's key.
        key: IdempotencyKey,
        /// Why not.
        error: OutboxError,
        /// The answer, for who makes use of it here and now; a process that is killed finds the call,
        /// and not the answer.
        response: Option<Box<Response<Body>>>,
    },
    /// The server cannot know whether the effect happened. Once somebody has resolved it there,
    /// resuming gets the answer.
    InDoubt(Unfinished),
    /// The effect did not happen. The call is still in the outbox and is made when it is resumed:
    /// cancel it if it shall not be.
    NotExecuted(Unfinished),
    /// The outbox takes no such call: a bound is met, or the key is another call's. Nothing was
    /// written, and nothing sent.
    NotWritten(OutboxError),
    /// The outbox failed, or has no such call. Nothing was sent this time. Where it failed, a new call
    /// may be written although nobody was told: go on with it under this key, once the outbox is able
    /// again, and never under another one.
    Outbox {
        /// The call's key.
        key: IdempotencyKey,
        /// Why.
        error: OutboxError,
    },
    /// The effect may or may not have happened. Resume the call, unless
    /// [`cannot_tell`](Unfinished::cannot_tell) says that this is of no use.
    OutcomeUnknown(Unfinished),
    /// What is kept of the call is no request, or no answer, that this version reads: perhaps the
    /// outbox is that of another protocol. Nothing was sent this time.
    Unreadable {
        /// The call's key.
        key: IdempotencyKey,
    },
    /// The request cannot be kept, as the text says. Nothing was written, and nothing sent.
    Unwritable(String),
}

/// What is known of a call without an answer.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unfinished {
    /// The call's key.
    pub key: IdempotencyKey,
    /// Why asking again is of no use, if so.
    pub cannot_tell: Option<Unknown>,
    /// How many attempts this run made, at least.
    pub attempts: u32,
    /// Why it made no further one.
    pub stopped: Stopped,
    /// What the last attempt came to, for people.
    pub last: String,
    /// What the peer said last, where that is not the call's answer. It is not kept.
    pub response: Option<Box<Response<Body>>>,
    /// The call's answer, where it has come and is larger than what is kept. What of its body is not in
    /// memory is still under way.
    pub answer: Option<Box<Response<Body>>>,
}

// === impl OutboxFailure ===

impl OutboxFailure {
    /// The call's key, if it is in the outbox or may be.
    #[must_use]
    pub const fn key(&self) -> Option<&IdempotencyKey> {
        match self {
            Self::AnswerNotKept { key, .. }
            | Self::Outbox { key, .. }
            | Self::Unreadable { key } => Some(key),
            Self::InDoubt(unfinished)
            | Self::NotExecuted(unfinished)
            | Self::OutcomeUnknown(unfinished) => Some(&unfinished.key),
            Self::NotWritten(_) | Self::Unwritable(_) => None,
        }
    }

    pub(super) fn of(ended: Ended<Unfinished>, key: &IdempotencyKey) -> Self {
        let key = key.clone();
        match ended {
            Ended::GivenUp(because) => Self::OutcomeUnknown(Unfinished::given_up(&key, because)),
            Ended::NotKept { answer, error } => {
                let recorded = Recorded::decode(&answer);
                let response = recorded.map(|recorded| Box::new(recorded.into_response()));
                Self::AnswerNotKept {
                    key,
                    error,
                    response,
                }
            }
            Ended::Outbox(error) => Self::Outbox { key, error },
            Ended::Unfinished(Unanswered { outcome, why, .. }) => match outcome {
                Outcome::InDoubt => Self::InDoubt(why),
                Outcome::NotExecuted => Self::NotExecuted(why),
                Outcome::Unknown => Self::OutcomeUnknown(why),
            },
        }
    }
}

impl fmt::Display for OutboxFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnswerNotKept { error, .. } => {
                write!(
                    f,
                    "answer has come and was not kept, resume the call: {error}"
                )
            }
            Self::InDoubt(unfinished) => write!(f, "call is in doubt: {unfinished}"),
            Self::NotExecuted(unfinished) => write!(
                f,
                "call was not executed, resume it from the outbox or cancel it: {unfinished}"
            ),
            Self::NotWritten(error) => write!(f, "call was neither written nor sent: {error}"),
            Self::Outbox { error, .. } => write!(
                f,
                "nothing was sent, and the call may be in the outbox under its key: {error}"
            ),
            Self::OutcomeUnknown(unfinished) if unfinished.cannot_tell.is_some() => write!(
                f,
                "outcome unknown, and nobody can tell any more: {unfinished}"
            ),
            Self::OutcomeUnknown(unfinished) => write!(
                f,
                "outcome unknown, resume it from the outbox: {unfinished}"
            ),
            Self::Unreadable { .. } => f.write_str(
                "what is kept of the call is neither a request nor an answer that this version reads",
            ),
            Self::Unwritable(text) => write!(f, "request cannot be kept: {text}"),
        }
    }
}

impl std::error::Error for OutboxFailure {}

// === impl Unfinished ===

impl Unfinished {
    pub(super) fn of_error(
        key: &IdempotencyKey,
        error: CallError<Response<Body>, TransportError>,
    ) -> Unanswered<Self> {
        let cannot_tell = match &error.last {
            Last::Response(response) => {
                is_stale(response, &error.ticket).then_some(Unknown::Forgotten)
            }
            Last::Error(error) => is_aged(error).then_some(Unknown::Aged),
            Last::Elapsed | Last::Nothing => None,
        };
        let cannot_tell = cannot_tell.filter(|_| error.outcome == Outcome::Unknown);
        let (last, response) = match error.last {
            Last::Response(response) => (said(&response), Some(Box::new(response))),
            Last::Error(error) => (error.to_string(), None),
            Last::Elapsed => ("it did not end in time".to_owned(), None),
            Last::Nothing => ("there was none".to_owned(), None),
        };
        let why = Self {
            key: key.clone(),
            cannot_tell,
            attempts: error.attempts,
            stopped: error.stopped,
            last,
            response,
            answer: None,
        };
        why.with(error.outcome)
    }

    /// The peer answered with something that is not the call's answer.
    pub(super) fn refused(
        key: &IdempotencyKey,
        outcome: Outcome,
        attempts: u32,
        response: Response<Body>,
    ) -> Unanswered<Self> {
        let why = Self {
            attempts,
            last: said(&response),
            response: Some(Box::new(response)),
            ..Self::ended(key, String::new())
        };
        why.with(outcome)
    }

    /// The run ended for a reason of its own.
    pub(super) fn ended(key: &IdempotencyKey, last: String) -> Self {
        Self {
            key: key.clone(),
            cannot_tell: None,
            attempts: 0,
            stopped: Stopped::Final,
            last,
            response: None,
            answer: None,
        }
    }

    /// The call's answer has come, and is too large to be kept.
    pub(super) fn too_large(
        key: &IdempotencyKey,
        limit: usize,
        answer: Response<Body>,
    ) -> Unanswered<Self> {
        let last = format!("its answer is larger than the {limit} bytes that are kept");
        let why = Self {
            answer: Some(Box::new(answer)),
            ..Self::ended(key, last)
        };
        why.with(Outcome::Unknown)
    }

    pub(super) fn with(self, outcome: Outcome) -> Unanswered<Self> {
        Unanswered {
            outcome,
            cannot_tell: self.cannot_tell,
            why: self,
        }
    }

    /// What is known of the call, unless it is the outbox that failed.
    pub(super) fn of(ended: Ended<Self>, key: &IdempotencyKey) -> Option<Self> {
        match ended {
            Ended::GivenUp(because) => Some(Self::given_up(key, because)),
            Ended::NotKept { error, .. } => {
                let last = format!("its answer has come and was not kept: {error}");
                Some(Self::ended(key, last))
            }
            Ended::Outbox(_) => None,
            Ended::Unfinished(unanswered) => Some(unanswered.why),
        }
    }

    /// Nobody can tell since an earlier run.
    fn given_up(key: &IdempotencyKey, because: Unknown) -> Self {
        let last = match because {
            Unknown::Aged => "it is older than what servers remember",
            _ => "the server remembers nothing of it",
        };
        Self {
            cannot_tell: Some(because),
            ..Self::ended(key, last.to_owned())
        }
    }
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attempts,
            stopped,
            last,
            ..
        } = self;
        write!(f, "{stopped} after {attempts} attempts; the last: {last}")
    }
}

/// Whether the server remembers nothing of the call. What another store says is said of others.
fn is_stale(response: &Response<Body>, ticket: &Ticket) -> bool {
    let store = ServingStore::of(response.headers()).map(|store| store.id);
    Status::of(response.headers()) == Some(Status::Stale)
        && ticket.store.is_some()
        && (store.is_none() || store == ticket.store)
}

fn is_aged(error: &TransportError) -> bool {
    let source = std::error::Error::source(error);
    let noted = source.and_then(|source| source.downcast_ref::<NoteSentError>());
    matches!(noted, Some(NoteSentError::Aged { .. }))
}

fn said(response: &Response<Body>) -> String {
    let code = response.status();
    match Status::of(response.headers()) {
        Some(status) => format!("the peer answered {code}, {}", status.as_str()),
        None => format!("the peer answered {code}"),
    }
}
