//! Why a call gets no answer, in no protocol's words.

use std::fmt;
use std::time::Duration;

use onlyonce_storage::{InDoubt, KeyError, SESSION_WINDOW, StoreId};

/// Why a call gets no answer. An adapter turns it into what its protocol says.
///
/// A refusal is never recorded and never touches the record of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The call's deadline passed.
    DeadlinePassed {
        /// Whether the handler runs on. When not, this attempt was not and will not be executed.
        executing: bool,
    },
    /// The client says that it first sent the call further in the future than clocks may differ.
    FirstSentAhead,
    /// Nobody knows whether the effect happened, and no answer is kept.
    InDoubt(InDoubt),
    /// Somebody is executing the call, and its answer did not come in time.
    InProgress {
        /// When asking again is of use.
        retry_after: Duration,
    },
    /// The handler is one whose answers cannot be recorded, so its calls cannot have a key. Not
    /// executed.
    NotRecordable {
        /// Why.
        reason: &'static str,
    },
    /// The key cannot be one, or is too easy to guess.
    KeyMalformed(KeyError),
    /// The request must carry a key and does not.
    KeyMissing,
    /// The key was first used with another request.
    Mismatch,
    /// The call is bound to another store than this server's.
    Misdirected {
        /// This server's.
        here: StoreId,
    },
    /// The scope has as many calls in progress or in doubt as it may have.
    OverQuota {
        /// When asking again is of use.
        retry_after: Duration,
    },
    /// The caller is nobody, and there is no scope for nobody.
    ScopeMissing,
    /// The call's session was not used for too long, and nothing is known of its key. This attempt
    /// was not executed, and no other in that session will be.
    SessionExpired,
    /// Older than what the server remembers, acknowledged in its session, or sealed. Never executed.
    Stale,
    /// The request is larger than the server takes.
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The request did not arrive whole in the time that the server gives it. Not executed.
    TooSlow,
    /// The store or the server is not able. This attempt was not executed.
    Unavailable {
        /// What is wrong, for the operator; it names no key and no content.
        reason: String,
        /// When asking again is of use.
        retry_after: Duration,
    },
    /// The request, or what it says about the call, cannot be read. Not executed.
    Unreadable {
        /// What is wrong, for the caller.
        reason: String,
    },
    /// The call's session was never given to its principal. This attempt was not executed.
    UnknownSession,
    /// The call is too far ahead of the first unanswered one of its session. This attempt was not
    /// executed.
    WindowFull,
}

impl Refusal {
    /// The word for metrics: `in_progress`, `mismatch` and so on.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::DeadlinePassed { .. } => "deadline_passed",
            Self::FirstSentAhead => "first_sent_ahead",
            Self::InDoubt(_) => "in_doubt",
            Self::InProgress { .. } => "in_progress",
            Self::KeyMalformed(_) => "key_malformed",
            Self::KeyMissing => "key_missing",
            Self::Mismatch => "mismatch",
            Self::Misdirected { .. } => "misdirected",
            Self::NotRecordable { .. } => "not_recordable",
            Self::OverQuota { .. } => "over_quota",
            Self::ScopeMissing => "scope_missing",
            Self::SessionExpired => "session_expired",
            Self::Stale => "stale",
            Self::TooLarge { .. } => "too_large",
            Self::TooSlow => "too_slow",
            Self::Unavailable { .. } => "unavailable",
            Self::Unreadable { .. } => "unreadable",
            Self::UnknownSession => "unknown_session",
            Self::WindowFull => "window_full",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadlinePassed { executing: true } => {
                f.write_str("deadline passed while the call is being executed")
            }
            Self::DeadlinePassed { executing: false } => {
                f.write_str("deadline passed before the call was executed")
            }
            Self::FirstSentAhead => {
                f.write_str("first-sent time is further in the future than clocks may differ")
            }
            Self::InDoubt(in_doubt) => write!(f, "outcome is in doubt: {}", in_doubt.reason),
            Self::InProgress { .. } => f.write_str("call is being executed; ask again"),
            Self::KeyMalformed(error) => error.fmt(f),
            Self::KeyMissing => f.write_str("idempotency key is required here"),
            Self::Mismatch => f.write_str("idempotency key was first used with another request"),
            Self::Misdirected { here } => {
                write!(
                    f,
                    "call is bound to another store than this server's ({here})"
                )
            }
            Self::NotRecordable { reason } => {
                write!(f, "answers to this request cannot be recorded: {reason}")
            }
            Self::OverQuota { .. } => {
                f.write_str("scope has too many calls in progress or in doubt")
            }
            Self::ScopeMissing => f.write_str("caller has no principal, and calls need a scope"),
            Self::SessionExpired => {
                f.write_str("session was not used for too long; go on in another, or in none")
            }
            Self::Stale => {
                f.write_str("call is older than what is remembered, acknowledged, or sealed")
            }
            Self::TooLarge { limit } => {
                write!(f, "request is larger than {limit} bytes")
            }
            Self::TooSlow => f.write_str("request did not arrive in time"),
            Self::Unreadable { reason } => f.write_str(reason),
            Self::Unavailable { reason, .. } => write!(f, "not executed: {reason}"),
            Self::UnknownSession => f.write_str("session was never given to this principal"),
            Self::WindowFull => write!(
                f,
                "session has {SESSION_WINDOW} calls from the first unanswered one on; acknowledge some"
            ),
        }
    }
}
