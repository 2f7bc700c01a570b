//! For handlers of axum.
//!
//! [`DedupeLayer`](super::DedupeLayer) goes on a route or a router with `.layer(...)`. With this
//! feature it sees the address as the client sent it, also in nested routers.

use ::axum::extract::FromRequestParts;
use ::axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use ::http::StatusCode;
use ::http::request::Parts;
use onlyonce_storage::transaction;

use super::{Definitive, NotExecuted};
use crate::server::{self, StepError};

/// The store's transaction, for a handler behind a layer that is
/// [`transactional`](super::DedupeLayer::transactional). What it writes there is committed with its
/// answer. On PostgreSQL it writes with statements: `calls.sql()?.execute(…)`.
///
/// ```
/// use axum::http::StatusCode;
/// use onlyonce_middleware::http::axum::{Transaction, Undone};
/// use onlyonce_storage::transaction::Table;
///
/// const SEATS: Table = Table::new("seats");
///
/// async fn book(Transaction(seats): Transaction, seat: String) -> Result<StatusCode, Undone> {
///     if seats.get(&SEATS, seat.as_bytes()).await?.is_some() {
///         return Ok(StatusCode::CONFLICT); // An answer for good, with no effect.
///     }
///     seats.put(&SEATS, seat.as_bytes(), b"taken")?;
///     Ok(StatusCode::CREATED)
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Transaction(pub transaction::Transaction);

/// The route has no transaction: its layer is not
/// [`transactional`](super::DedupeLayer::transactional), or the request carries no key. The handler
/// did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this route has no transaction for its handler")]
pub struct NotTransactional;

/// The transaction failed, and nothing of it is applied. As a response it is 503, not executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Undone(#[from] pub transaction::TransactionError);

/// The steps of the call, for a handler behind a layer that is
/// [`journaled`](super::DedupeLayer::journaled). What a step came to is given to each later run of the
/// call, and the step is not run again.
///
/// ```
/// use onlyonce_middleware::http::axum::{Interrupted, Steps};
/// use onlyonce_middleware::server::Unfinished;
///
/// # async fn charge(key: &str, order: &str) -> Result<String, std::io::Error> { Ok(String::new()) }
/// # async fn print(receipt: &[u8]) -> Result<(), std::io::Error> { Ok(()) }
/// async fn place(Steps(steps): Steps, order: String) -> Result<String, Interrupted> {
///     // The bank dedupes by the key: after a crash it is asked again with the same one.
///     let charged = steps.run_keyed("charge", async |run| {
///         let receipt = charge(run.key.as_str(), &order).await;
///         Ok(receipt.map_err(|error| Unfinished::Unknown(error.to_string()))?.into())
///     });
///     let receipt = charged.await?;
///     // The printer does not: a crash in here leaves the call in doubt.
///     let printed = steps.run_once("print", async |_| {
///         print(&receipt).await.map_err(|error| Unfinished::Unknown(error.to_string()))?;
///         Ok("printed".into())
///     });
///     printed.await?;
///     Ok(String::from_utf8_lossy(&receipt).into_owned())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Steps(pub server::Steps);

/// The route has no steps: its layer is not [`journaled`](super::DedupeLayer::journaled), or the
/// request carries no key. The handler did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this route has no steps for its handler")]
pub struct NotJournaled;

/// A step has no result, and the call does not go on for now. The response that is made of it is not
/// what the caller gets: the layer says what has become of the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Interrupted(#[from] pub StepError);

// === impl Transaction ===

impl<S: Send + Sync> FromRequestParts<S> for Transaction {
    type Rejection = NotTransactional;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotTransactional> {
        let transaction = parts.extensions.get::<transaction::Transaction>();
        transaction.cloned().map(Self).ok_or(NotTransactional)
    }
}

// === impl NotTransactional ===

impl IntoResponse for NotTransactional {
    fn into_response(self) -> Response {
        let code = StatusCode::INTERNAL_SERVER_ERROR;
        (code, NotExecuted, self.to_string()).into_response()
    }
}

// === impl Undone ===

impl IntoResponse for Undone {
    fn into_response(self) -> Response {
        let code = StatusCode::SERVICE_UNAVAILABLE;
        (code, NotExecuted, self.to_string()).into_response()
    }
}

// === impl Steps ===

impl<S: Send + Sync> FromRequestParts<S> for Steps {
    type Rejection = NotJournaled;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotJournaled> {
        let steps = parts.extensions.get::<server::Steps>();
        steps.cloned().map(Self).ok_or(NotJournaled)
    }
}

// === impl NotJournaled ===

impl IntoResponse for NotJournaled {
    fn into_response(self) -> Response {
        let code = StatusCode::INTERNAL_SERVER_ERROR;
        (code, NotExecuted, self.to_string()).into_response()
    }
}

// === impl Interrupted ===

impl IntoResponse for Interrupted {
    fn into_response(self) -> Response {
        // Without the error, whose text is for the server's log.
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}

// === impl NotExecuted ===

impl IntoResponseParts for NotExecuted {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        parts.extensions_mut().insert(self);
        Ok(parts)
    }
}

// === impl Definitive ===

impl IntoResponseParts for Definitive {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        parts.extensions_mut().insert(self);
        Ok(parts)
    }
}
