//! How a call through a client ends without an answer.

use std::fmt;

use http::Response;

use crate::client::{CallError, Outcome};
use crate::http::Body;
use crate::http::client::TransportError;

/// How a call through a [`Client`](super::Client) ends without an answer.
///
/// tonic makes a status of it, and keeps it as that status' source. Where the outcome of the call is
/// not known the code is `UNKNOWN`, whatever the transport failed with.
///
/// ```
/// use onlyonce_middleware::client::Ticket;
/// use onlyonce_middleware::grpc::client::Error;
///
/// /// What to go on with, where the outcome of the call is not known.
/// fn ticket(status: &tonic::Status) -> Option<&Ticket> {
///     let source = std::error::Error::source(status)?;
///     match source.downcast_ref()? {
///         Error::Call(error) => Some(&error.ticket),
///         Error::Unprotected(_) => None,
///     }
/// }
/// ```
#[derive(Debug)]
pub enum Error {
    /// A call of a protected method: what is known of it, its ticket, and what came last.
    Call(Box<CallError<Response<Body>, TransportError>>),
    /// A call of another method.
    Unprotected(TransportError),
}

// === impl Error ===

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(error) => error.fmt(f),
            Self::Unprotected(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    /// What the transport failed with, unless the outcome of the call is not known: tonic makes the
    /// code of what it finds here, and a lost answer would look like a server that was not there.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Call(error) if error.outcome == Outcome::NotExecuted => error.source(),
            Self::Call(_) => None,
            Self::Unprotected(error) => error.source(),
        }
    }
}
