//! How a call through a client ends without an answer.

use http::Response;

use crate::client::CallError;
use crate::http::Body;
use crate::http::client::TransportError;

/// How a call through a [`Client`](super::Client) ends without an answer.
///
/// tonic makes a status of it, and keeps it as that status' source:
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
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call of a protected method: what is known of it, its ticket, and what came last.
    #[error(transparent)]
    Call(Box<CallError<Response<Body>, TransportError>>),
    /// A call of another method.
    #[error(transparent)]
    Unprotected(TransportError),
}
