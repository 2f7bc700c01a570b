//! How a typed call ends without its reply.

use std::fmt;

use onlyonce_middleware::client::{Last, Outcome, Stopped, Ticket};

use super::wire::printable;
use super::{Reply, Status, TransportError};

/// A call that did not end with its reply.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallFailure<F> {
    /// The handler's own fault: the call's answer, replayed like any other.
    Fault(F),
    /// The server cannot know whether the effect happened. An operator can find out and resolve
    /// it; the same key then gets the answer.
    InDoubt(Failed),
    /// The effect did not happen: every attempt that the ticket knows of was turned away. Make the
    /// call again under the same key, which also holds where something between client and server
    /// can still bring a copy of such an attempt (a relay that sends again by itself). Before
    /// a call under another key, [`seal`](crate::rpc::Client::seal) the ticket there.
    NotExecuted(Failed),
    /// The effect may or may not have happened: resume the ticket, never call anew.
    OutcomeUnknown(Failed),
    /// The server refuses this request and would again. This attempt was not executed; whether an
    /// earlier one may have been, the ticket says in
    /// [`maybe_executed`](Ticket::maybe_executed).
    Refused {
        /// As what.
        status: Status,
        /// What the server says.
        text: String,
        /// Names the call.
        ticket: Ticket,
    },
    /// The call has an answer, but its bytes are not of the method's types.
    Unreadable {
        /// What is wrong with them.
        text: String,
        /// Names the call.
        ticket: Ticket,
    },
}

/// A question about a key, a peek or a seal, that was not answered. It says nothing of the call; the
/// key may be sealed now if that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unanswered {
    /// Names the call that was asked about, as it was given.
    pub ticket: Ticket,
    /// What the server refuses the question as, if it was the server.
    pub status: Option<Status>,
    /// Why no further attempt was made to ask it.
    pub stopped: Stopped,
    /// What the last attempt came to, for people.
    pub last: String,
}

/// What is known of a call without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failed {
    /// Names the call: to resume, peek at or seal it.
    pub ticket: Ticket,
    /// How many attempts were made.
    pub attempts: u32,
    /// What the server said at last, if the last attempt had a reply. Of an outcome that is unknown
    /// [`Misdirected`](Status::Misdirected) means that this server will never know it.
    pub status: Option<Status>,
    /// Why no further attempt was made.
    pub stopped: Stopped,
    /// What the last attempt came to, for people.
    pub last: String,
}

/// How the stack ends a call of the native protocol.
pub(super) type StackError = onlyonce_middleware::client::CallError<Reply, TransportError>;

// === impl CallFailure ===

impl<F> CallFailure<F> {
    /// The call's ticket, unless it ended with an answer.
    #[must_use]
    pub const fn ticket(&self) -> Option<&Ticket> {
        match self {
            Self::Fault(_) => None,
            Self::InDoubt(failed) | Self::NotExecuted(failed) | Self::OutcomeUnknown(failed) => {
                Some(&failed.ticket)
            }
            Self::Refused { ticket, .. } | Self::Unreadable { ticket, .. } => Some(ticket),
        }
    }

    pub(super) fn from_stack(error: StackError) -> Self {
        let last = last_text(&error.last);
        // The request is wrong, whatever became of the call.
        if let (Last::Response(reply), Outcome::Unknown, Stopped::Final) =
            (&error.last, error.outcome, error.stopped)
            && reply.status.is_wrong_request()
        {
            return Self::refused(reply, error.ticket);
        }
        let failed = Failed {
            ticket: error.ticket,
            attempts: error.attempts,
            status: status_of(&error.last),
            stopped: error.stopped,
            last,
        };
        match error.outcome {
            Outcome::InDoubt => Self::InDoubt(failed),
            Outcome::NotExecuted => Self::NotExecuted(failed),
            Outcome::Unknown => Self::OutcomeUnknown(failed),
        }
    }

    pub(super) fn refused(reply: &Reply, ticket: Ticket) -> Self {
        Self::Refused {
            status: reply.status,
            text: reply_text(reply),
            ticket,
        }
    }
}

impl<F: fmt::Display> fmt::Display for CallFailure<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => write!(f, "call failed: {fault}"),
            Self::InDoubt(failed) => write!(f, "call is in doubt: {failed}"),
            Self::NotExecuted(failed) => write!(f, "call was not executed: {failed}"),
            Self::OutcomeUnknown(failed) => {
                write!(f, "outcome unknown, resume with the same key: {failed}")
            }
            Self::Refused {
                text,
                ticket:
                    Ticket {
                        maybe_executed: true,
                        ..
                    },
                ..
            } => write!(
                f,
                "request was refused, an earlier one with its key may have been executed: {text}"
            ),
            Self::Refused { text, .. } => write!(f, "request was refused: {text}"),
            Self::Unreadable { text, .. } => write!(f, "answer cannot be read: {text}"),
        }
    }
}

impl<F: fmt::Debug + fmt::Display> std::error::Error for CallFailure<F> {}

// === impl Unanswered ===

impl Unanswered {
    pub(super) fn from_stack(error: &StackError, ticket: Ticket) -> Self {
        let status = status_of(&error.last);
        Self {
            ticket,
            status,
            stopped: error.stopped,
            last: last_text(&error.last),
        }
    }

    pub(super) fn refused(reply: &Reply, ticket: Ticket) -> Self {
        Self {
            ticket,
            status: Some(reply.status),
            stopped: Stopped::Final,
            last: reply_text(reply),
        }
    }

    pub(super) const fn unreadable(text: String, ticket: Ticket) -> Self {
        Self {
            ticket,
            status: None,
            stopped: Stopped::Final,
            last: text,
        }
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stopped, last, .. } = self;
        write!(f, "question was not answered ({stopped}): {last}")
    }
}

impl std::error::Error for Unanswered {}

// === impl Failed ===

impl fmt::Display for Failed {
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

fn status_of(last: &Last<Reply, TransportError>) -> Option<Status> {
    match last {
        Last::Response(reply) => Some(reply.status),
        Last::Elapsed | Last::Error(_) | Last::Nothing => None,
    }
}

pub(super) fn last_text(last: &Last<Reply, TransportError>) -> String {
    match last {
        Last::Elapsed => "it did not end in time".to_owned(),
        Last::Error(error) => error.to_string(),
        Last::Nothing => "there was no attempt".to_owned(),
        Last::Response(reply) => reply_text(reply),
    }
}

/// What a server says in words: never an answer's bytes, and never more than a line.
pub(super) fn reply_text(reply: &Reply) -> String {
    if reply.status.carries_answer() {
        return reply.status.to_string();
    }
    let said = &reply.body[..reply.body.len().min(SAID_BYTES_MAX)];
    format!(
        "{}: {}",
        reply.status,
        printable(&String::from_utf8_lossy(said))
    )
}

/// A server's words are for a log line, not for a page.
const SAID_BYTES_MAX: usize = 512;
