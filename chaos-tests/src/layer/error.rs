//! What a caller of a faulty service gets.

use std::error::Error;
use std::fmt;

/// Why a call through a [`FaultService`](super::FaultService) gave no answer.
///
/// A real client cannot tell the two losses apart; a test can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// Exhaustive: a call is lost on its way there or on its way back.
pub enum FaultError<E> {
    /// The service has run to its end; its answer, be it good or an error, was thrown away.
    AnswerLost,
    /// The service itself failed, and the caller gets to know.
    Inner(E),
    /// The service was never called.
    RequestLost,
}

impl<E: fmt::Display> fmt::Display for FaultError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnswerLost => f.write_str("injected: the answer was lost after the effect"),
            Self::Inner(error) => error.fmt(f),
            Self::RequestLost => f.write_str("injected: the request was lost before the effect"),
        }
    }
}

impl<E: Error + 'static> Error for FaultError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // Displayed as itself above, so that what follows is its source and not itself again.
            Self::Inner(error) => error.source(),
            Self::AnswerLost | Self::RequestLost => None,
        }
    }
}
