//! How a call from an outbox ends without its reply.

use std::fmt;

use onlyonce_middleware::client::Stopped;
use onlyonce_storage::IdempotencyKey;
use onlyonce_storage::outbox::{OutboxError, Unknown};

use crate::rpc::Status;

/// A call from an outbox that did not end with its reply.
///
/// But for [`NotWritten`](Self::NotWritten) and [`Unwritable`](Self::Unwritable) the call is in the
/// outbox, or may be ([`Outbox`](Self::Outbox)), and stays there until it is acknowledged, cancelled or
/// forgotten by name: never make it anew under another key.
#[derive(Debug)]
#[non_exhaustive]
pub enum OutboxFailure<F> {
    /// The answer has come and could not be kept: it is not told. The server keeps it; resume the
    /// call when the outbox is able again.
    AnswerNotKept {
        /// The call's key.
        key: IdempotencyKey,
        /// Why not.
        error: OutboxError,
    },
    /// The handler's own fault: the call's answer, kept like any other.
    Fault {
        /// The call's key.
        key: IdempotencyKey,
        /// The fault.
        fault: F,
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
    /// The call's answer, or its arguments, are kept, but their bytes are not of the method's types.
    Unreadable {
        /// The call's key.
        key: IdempotencyKey,
        /// What is wrong with them.
        text: String,
    },
    /// The arguments cannot be turned into bytes. Nothing was written, and nothing sent.
    Unwritable(String),
}

/// What is known of a call without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unfinished {
    /// The call's key.
    pub key: IdempotencyKey,
    /// Why asking again is of no use, if so.
    pub cannot_tell: Option<Unknown>,
    /// As what the server refused it last, if it did.
    pub status: Option<Status>,
    /// How many attempts this run made, at least.
    pub attempts: u32,
    /// Why it made no further one.
    pub stopped: Stopped,
    /// What the last attempt came to, for people.
    pub last: String,
}

// === impl OutboxFailure ===

impl<F> OutboxFailure<F> {
    /// The call's key, if it is in the outbox or may be.
    #[must_use]
    pub const fn key(&self) -> Option<&IdempotencyKey> {
        match self {
            Self::AnswerNotKept { key, .. }
            | Self::Fault { key, .. }
            | Self::Outbox { key, .. }
            | Self::Unreadable { key, .. } => Some(key),
            Self::InDoubt(unfinished)
            | Self::NotExecuted(unfinished)
            | Self::OutcomeUnknown(unfinished) => Some(&unfinished.key),
            Self::NotWritten(_) | Self::Unwritable(_) => None,
        }
    }
}

impl<F: fmt::Display> fmt::Display for OutboxFailure<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnswerNotKept { error, .. } => {
                write!(
                    f,
                    "answer has come and was not kept, resume the call: {error}"
                )
            }
            Self::Fault { fault, .. } => write!(f, "call failed: {fault}"),
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
            Self::OutcomeUnknown(unfinished) if unfinished.cannot_tell.is_some() => {
                write!(
                    f,
                    "outcome unknown, and nobody can tell any more: {unfinished}"
                )
            }
            Self::OutcomeUnknown(unfinished) => {
                write!(
                    f,
                    "outcome unknown, resume it from the outbox: {unfinished}"
                )
            }
            Self::Unreadable { text, .. } => {
                write!(f, "what is kept of the call cannot be read: {text}")
            }
            Self::Unwritable(text) => write!(f, "arguments cannot be written: {text}"),
        }
    }
}

impl<F: fmt::Debug + fmt::Display> std::error::Error for OutboxFailure<F> {}

// === impl Unfinished ===

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
