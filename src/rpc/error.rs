//! How the transport fails, and what each failure proves.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_middleware::client::Executed;
use onlyonce_middleware::client::outbox::NoteSentError;

/// An attempt got no reply.
///
/// It is cheap to clone: every call of a lost connection gets the same cause.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// There was no connection, and none could be made. Nothing was sent.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: Arc<str>,
        /// Why not.
        #[source]
        source: Connecting,
    },
    /// The server is going away and says that it did not and will not execute this attempt.
    #[error("server is going away and did not execute this attempt: {reason}")]
    GoneAway {
        /// What the server said.
        reason: Arc<str>,
    },
    /// The connection was lost after bytes of this attempt had been written and before its reply:
    /// it may have been executed.
    #[error("connection was lost before the reply: {0}")]
    Lost(#[source] Arc<io::Error>),
    /// Nothing of this attempt was written.
    #[error("not sent: {0}")]
    NotSent(#[from] NotSent),
    /// The peer sent what the protocol does not allow, after bytes of this attempt had been
    /// written: it may have been executed.
    #[error("peer broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Connecting {
    /// No connection at all.
    #[error(transparent)]
    Io(Arc<io::Error>),
    /// A connection, but no agreement with whoever is there.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The name was not resolved or the connection not opened in time.
    #[error("no connection within {}", seconds(.within))]
    TimedOut {
        /// The time that was given.
        within: Duration,
    },
}

/// Why nothing of an attempt was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// The connection was lost or is no longer used since it was acquired.
    #[error("connection ended before anything was written")]
    ConnectionEnded,
    /// The stamp's deadline leaves less than a millisecond.
    #[error("deadline passed before anything was written")]
    DeadlinePassed,
    /// The method's name is empty or too long.
    #[error(
        "method name has {length} bytes, it must have 1 to {}",
        super::METHOD_BYTES_MAX
    )]
    MethodLength {
        /// How long it is, in bytes.
        length: usize,
    },
    /// The call is from an outbox, which could not note that it is being sent.
    #[error(transparent)]
    NotNoted(NoteSentError),
    /// `call` came without `poll_ready` on the same instance.
    #[error("channel was called before it was ready")]
    NotReady,
    /// The call may have been executed before, and this server does not dedupe: it would execute it
    /// again.
    #[error("call may have been sent before, and this server does not dedupe")]
    PeerDoesNotDedupe,
    /// The arguments are larger than this client sends or the server takes.
    #[error("arguments have {size} bytes, at most {limit} can be sent")]
    TooLarge {
        /// Their size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

/// Why two peers did not agree to talk.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer ended the connection without an answer.
    #[error("peer closed the connection during the handshake")]
    Closed,
    /// The connection failed.
    #[error("connection failed during the handshake: {0}")]
    Io(#[source] Arc<io::Error>),
    /// The peer speaks our protocol, but its hello cannot be read.
    #[error("peer's handshake cannot be read: {0}")]
    Malformed(&'static str),
    /// The peer said no.
    #[error("server refused the connection ({code}): {text}")]
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        text: Arc<str>,
    },
    /// The peer said nothing, or not enough, in time.
    #[error("handshake did not end within {}", seconds(.within))]
    TimedOut {
        /// The time that was given.
        within: Duration,
    },
    /// The peer speaks another version.
    #[error("peer speaks protocol version {theirs}, this program speaks version {ours}")]
    Version {
        /// Our version.
        ours: u16,
        /// The peer's version.
        theirs: u16,
    },
    /// The peer speaks another protocol.
    #[error("peer does not speak onlyonce RPC; it began with \"{said}\"")]
    WrongPeer {
        /// The first bytes that it sent, at most 16, escaped.
        said: Arc<str>,
    },
}

/// Why a server refuses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalCode {
    /// The credential names nobody whom the server knows.
    BadCredential,
    /// The hello cannot be read, or is none.
    Malformed,
    /// The code is one that this version does not know.
    Other(u8),
    /// The server is shutting down.
    ShuttingDown,
    /// The server has as many connections as it takes.
    TooManyConnections,
    /// The server speaks another version.
    Version,
}

/// What a peer sent that the protocol does not allow. The connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A frame without content.
    #[error("frame is empty")]
    FrameEmpty,
    /// A frame longer than agreed. Nothing of it was buffered.
    #[error("frame of {length} bytes is longer than the {max} bytes that were agreed")]
    FrameTooLong {
        /// The length that it announced, in bytes.
        length: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A call's number is not above those before it.
    #[error("call number {id} came after {last}; numbers must rise")]
    IdNotRising {
        /// The number.
        id: u64,
        /// The highest one before it.
        last: u64,
    },
    /// A message is shorter or longer than its kind, or a field holds what it cannot.
    #[error("message of kind {kind} is malformed: {what}")]
    Malformed {
        /// The message's kind.
        kind: u8,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The connection ended within a frame.
    #[error("connection ended within a frame")]
    Truncated,
    /// A message of a kind that this version does not know.
    #[error("message kind {kind} is unknown")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// A reply with a status that this version does not know.
    #[error("status {number} is unknown")]
    UnknownStatus {
        /// The status' number.
        number: u8,
    },
    /// A call with a verb that this version does not know.
    #[error("verb {number} is unknown")]
    UnknownVerb {
        /// The verb's number.
        number: u8,
    },
    /// A reply to a call that was never sent.
    #[error("reply to call {id}, which was never sent")]
    UnsentCall {
        /// The call's number.
        id: u64,
    },
}

// === impl TransportError ===

impl TransportError {
    /// What the failure proves: [`Executed::NotThisAttempt`] when no byte of the attempt was
    /// written or the server says that it did not process it, otherwise [`Executed::Unknown`].
    #[must_use]
    pub const fn executed(&self) -> Executed {
        match self {
            Self::Connect { .. } | Self::GoneAway { .. } | Self::NotSent(_) => {
                Executed::NotThisAttempt
            }
            Self::Lost(_) | Self::Protocol(_) => Executed::Unknown,
        }
    }
}

impl From<NoteSentError> for TransportError {
    fn from(error: NoteSentError) -> Self {
        Self::NotSent(NotSent::NotNoted(error))
    }
}

// === impl RefusalCode ===

impl RefusalCode {
    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::BadCredential => 1,
            Self::Version => 2,
            Self::ShuttingDown => 3,
            Self::TooManyConnections => 4,
            Self::Malformed => 5,
            Self::Other(number) => number,
        }
    }

    pub(super) const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::BadCredential,
            2 => Self::Version,
            3 => Self::ShuttingDown,
            4 => Self::TooManyConnections,
            5 => Self::Malformed,
            other => Self::Other(other),
        }
    }
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadCredential => f.write_str("bad credential"),
            Self::Malformed => f.write_str("malformed hello"),
            Self::Other(number) => write!(f, "code {number}"),
            Self::ShuttingDown => f.write_str("shutting down"),
            Self::TooManyConnections => f.write_str("too many connections"),
            Self::Version => f.write_str("unsupported version"),
        }
    }
}

fn seconds(duration: &Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
