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
