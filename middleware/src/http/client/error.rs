//! What a transport fails with.

use std::error::Error;
use std::fmt;

use crate::client::Executed;
use crate::http::BoxError;

/// An attempt without an answer: what that proves, and why there is none.
#[derive(Debug)]
pub struct TransportError {
    proves: Proves,
    source: BoxError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proves {
    /// Nothing of it was processed.
    NotSent,
    /// Nothing of it was processed, and nothing of another attempt would be.
    NeverSent,
    /// Something was sent.
    Unknown,
}

// === impl TransportError ===

impl TransportError {
    /// The peer has provably processed nothing of this attempt. Another may fare better.
    #[must_use]
    pub fn not_sent(source: impl Into<BoxError>) -> Self {
        Self::new(Proves::NotSent, source.into())
    }

    /// The request cannot be sent at all: another attempt would fail in the same way.
    #[must_use]
    pub fn never_sent(source: impl Into<BoxError>) -> Self {
        Self::new(Proves::NeverSent, source.into())
    }

    /// The attempt may have been processed.
    #[must_use]
    pub fn unknown(source: impl Into<BoxError>) -> Self {
        Self::new(Proves::Unknown, source.into())
    }

    /// What it proves of this attempt.
    #[must_use]
    pub const fn executed(&self) -> Executed {
        match self.proves {
            Proves::NotSent | Proves::NeverSent => Executed::NotThisAttempt,
            Proves::Unknown => Executed::Unknown,
        }
    }

    /// Whether another attempt would fail in the same way.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.proves == Proves::NeverSent
    }

    fn new(proves: Proves, source: BoxError) -> Self {
        Self { proves, source }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.proves {
            Proves::NotSent => "request was not sent: ",
            Proves::NeverSent => "request cannot be sent: ",
            Proves::Unknown => "request may have been executed, but was not answered: ",
        })?;
        self.source.fmt(f)
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}
