//! How a call ends without an answer.

use std::error::Error;
use std::fmt;

use super::{Call, Ticket};

/// A call that ended without an answer: what is known of its outcome, and its ticket, with which
/// the caller can resume, peek or seal it.
#[derive(Debug)]
#[non_exhaustive]
pub struct CallError<Res, Err> {
    /// What is known.
    pub outcome: Outcome,
    /// Names the call.
    pub ticket: Ticket,
    /// How many attempts were begun.
    pub attempts: u32,
    /// Why no further attempt was made.
    pub stopped: Stopped,
    /// What the last attempt came to.
    pub last: Last<Res, Err>,
}

/// What is known of a call without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server says that it cannot know whether the effect happened.
    InDoubt,
    /// No attempt that the ticket knows of was executed: each was turned away. The call can be made
    /// again under the same key. Under another one only where nothing between client and server
    /// sends copies of requests by itself, or after the key was sealed.
    NotExecuted,
    /// The effect may or may not have happened. Resume with the same key, never with a new one.
    Unknown,
}

/// Why no further attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// All attempts were used.
    Attempts,
    /// The retry budget of the destination is spent.
    Budget,
    /// The deadline passed, or would have before another attempt could end.
    Deadline,
    /// The result was final: another attempt would meet it again.
    Final,
    /// The request can only be sent once.
    OneShot,
    /// Something was sent, and the peer is not known to dedupe.
    PeerNotKnownToDedupe,
    /// The peer asked not to be asked again.
    Pushback,
    /// The schedule of delays has ended.
    Schedule,
}

/// What the last attempt came to.
#[derive(Debug)]
pub enum Last<Res, Err> {
    /// It did not end in time.
    Elapsed,
    /// The transport failed.
    Error(Err),
    /// There was no attempt.
    Nothing,
    /// The peer answered with something that is not the call's answer.
    Response(Res),
}

/// What one attempt fails with: its own timeout, or the transport's error.
#[derive(Debug, PartialEq, Eq)]
pub enum AttemptError<Err> {
    /// The attempt's timeout or the call's deadline passed. `sent` is false when the transport
    /// never was ready, so that nothing can have been executed.
    Elapsed {
        /// Whether the request was handed to the transport.
        sent: bool,
    },
    /// The transport failed.
    Inner(Err),
    /// The transport failed before the request was handed to it (it refused to become ready), so
    /// that nothing can have been executed.
    NotReady(Err),
}

impl<Res, Err> CallError<Res, Err> {
    /// How `call` ends without an answer: unknown if it may have been executed, otherwise not
    /// executed.
    #[must_use]
    pub fn new(call: &Call, stopped: Stopped, last: Last<Res, Err>) -> Self {
        Self {
            outcome: if call.maybe_executed() {
                Outcome::Unknown
            } else {
                Outcome::NotExecuted
            },
            ticket: call.ticket(),
            attempts: call.attempts(),
            stopped,
            last,
        }
    }
}

impl<Res, Err: fmt::Display> fmt::Display for CallError<Res, Err> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (outcome, stopped, attempts) = (self.outcome, self.stopped, self.attempts);
        let s = if attempts == 1 { "" } else { "s" };
        write!(f, "{outcome} after {attempts} attempt{s}: {stopped}")?;
        match &self.last {
            Last::Elapsed => f.write_str("; the last attempt did not end in time"),
            Last::Error(error) => write!(f, "; the last attempt failed: {error}"),
            Last::Nothing | Last::Response(_) => Ok(()),
        }
    }
}

impl<Res: fmt::Debug, Err: Error + 'static> Error for CallError<Res, Err> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.last {
            Last::Error(error) => Some(error),
            Last::Elapsed | Last::Nothing | Last::Response(_) => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InDoubt => "call is in doubt",
            Self::NotExecuted => "call was not executed",
            Self::Unknown => "outcome unknown; resume with the same key",
        })
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attempts => "all attempts were used",
            Self::Budget => "retry budget is spent",
            Self::Deadline => "deadline leaves no time",
            Self::Final => "result is final",
            Self::OneShot => "request can only be sent once",
            Self::PeerNotKnownToDedupe => "peer is not known to dedupe",
            Self::Pushback => "peer asked not to be asked again",
            Self::Schedule => "schedule has ended",
        })
    }
}

impl<Err: fmt::Display> fmt::Display for AttemptError<Err> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elapsed { .. } => f.write_str("attempt did not end in time"),
            Self::Inner(error) | Self::NotReady(error) => error.fmt(f),
        }
    }
}

impl<Err: Error + 'static> Error for AttemptError<Err> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Elapsed { .. } => None,
            Self::Inner(error) | Self::NotReady(error) => error.source(),
        }
    }
}
