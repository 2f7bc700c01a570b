//! The stored answer of a call, and what is known of one whose outcome is not.

use std::fmt;

use bytes::Bytes;

use crate::{FencingToken, Timestamp};

/// Which encoding an [`Answer`] is in. An adapter owns its number and never reuses one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnswerFormat(u16);

/// An answer as an adapter encoded it: opaque to the store, replayed byte for byte.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    format: AnswerFormat,
    body: Bytes,
}

/// A finished call: its answer, and when and under which claim it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The answer.
    pub answer: Answer,
    /// When the completion was recorded, on the store's clock.
    pub completed_at: Timestamp,
    /// The claim under which the call ran.
    pub token: FencingToken,
}

/// A call whose effect may or may not have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InDoubt {
    /// The claim under which it ran; what resolves the doubt must name it.
    pub token: FencingToken,
    /// Since when it is in doubt, on the store's clock.
    pub since: Timestamp,
    /// Why.
    pub reason: DoubtReason,
    /// What the handler answered, where it answered something that does not settle the matter.
    pub answer: Option<Answer>,
}

/// Why a call is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DoubtReason {
    /// The handler's own answer leaves open whether the effect happened.
    Ambiguous,
    /// The lease lapsed before the owner finished or renewed it.
    LeaseLapsed,
    /// The owner's process or task is gone: it crashed, panicked or was cancelled.
    OwnerGone,
    /// The handler finished, but its answer could not be recorded.
    Unrecorded,
}

// === impl DoubtReason ===

impl DoubtReason {
    /// Whether it says that the owner's task or process is known to have ended. After a lapsed
    /// lease the owner may only have been slow, and still be at work.
    #[must_use]
    pub const fn is_owner_known_gone(self) -> bool {
        match self {
            // The owner itself says these, once its handler has ended.
            Self::Ambiguous | Self::Unrecorded => true,
            Self::OwnerGone => true,
            Self::LeaseLapsed => false,
        }
    }
}

// === impl AnswerFormat ===

impl AnswerFormat {
    /// The format with this number.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

// === impl Answer ===

impl Answer {
    /// An answer of `body` encoded as `format`. Cloning it does not copy the body.
    #[must_use]
    pub fn new(format: AnswerFormat, body: impl Into<Bytes>) -> Self {
        Self {
            format,
            body: body.into(),
        }
    }

    /// The encoding.
    #[must_use]
    pub const fn format(&self) -> AnswerFormat {
        self.format
    }

    /// The encoded answer.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The body is the user's; only its size is shown.
        write!(
            f,
            "Answer(format {}, {} bytes)",
            self.format.0,
            self.body.len()
        )
    }
}

impl fmt::Display for DoubtReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ambiguous => "the handler's answer leaves open whether the effect happened",
            Self::LeaseLapsed => "the lease lapsed before the owner finished",
            Self::OwnerGone => "the owner is gone before it finished",
            Self::Unrecorded => "the answer could not be recorded",
        })
    }
}
