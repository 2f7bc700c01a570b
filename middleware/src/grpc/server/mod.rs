//! The server's side of gRPC: the effect of a unary call happens at most once per key.
//!
//! The rule: a call of a protected method carries its key in the metadata `idempotency-key`, and
//! whatever happens on the way its handler runs once, and everybody who asks with the key gets that
//! one answer: message, trailers, and errors too.
//!
//! ```
//! use std::sync::Arc;
//! use http::{Request, Response};
//! use onlyonce_middleware::grpc::DedupeLayer;
//! use onlyonce_middleware::http::{Body, Contents};
//! use onlyonce_storage::{MemoryStore, Scope};
//! use tower::{Layer, ServiceExt};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let layer = DedupeLayer::new(Arc::new(MemoryStore::new()), Scope::global())
//!     .protect("/bank.Bank/Transfer");
//! // With tonic: `Server::builder().layer(layer).add_service(BankServer::new(bank))`.
//! let bank = tower::service_fn(async |_: Request<Body>| {
//!     let mut trailers = http::HeaderMap::new();
//!     trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
//!     let paid = Contents { bytes: b"\0\0\0\0\x04paid"[..].into(), trailers: Some(trailers) };
//!     Ok::<_, std::convert::Infallible>(Response::new(Body::from(paid)))
//! });
//! let service = layer.layer(bank);
//! let request = || {
//!     let request = Request::post("/bank.Bank/Transfer")
//!         .header("content-type", "application/grpc")
//!         .header("idempotency-key", "order-4711");
//!     request.body(Body::from("\0\0\0\0\x0210")).unwrap()
//! };
//! let first = service.clone().oneshot(request()).await?;
//! let again = service.oneshot(request()).await?;
//! assert_eq!(first.headers()["idempotency-status"], "executed");
//! assert_eq!(again.headers()["idempotency-status"], "replayed");
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What an answer means
//!
//! | the handler | the key |
//! | --- | --- |
//! | answers `OK` | completed: duplicates get that answer |
//! | answers `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS`, `PERMISSION_DENIED`, `FAILED_PRECONDITION`, `OUT_OF_RANGE` or `UNIMPLEMENTED` | completed: a refusal for good |
//! | answers any other code, or none | in doubt, and the answer is kept for duplicates |
//! | says so in its [`Declaration`], whatever it answers | free, or completed |
//! | answers a code that [`release`](DedupeLayer::release) names | free |
//! | was never entered, and the answer is no `OK`: see [`protect_entered`](DedupeLayer::protect_entered) | free |
//! | panics, fails, or its body fails half-way | in doubt |
//! | answers more than is kept | in doubt; the answer is delivered once, marked `executed; unrecorded` |
//!
//! No code frees a key by itself, not even `UNAVAILABLE`, `RESOURCE_EXHAUSTED` or `UNAUTHENTICATED`: a
//! handler that has had its effect and then calls another server hands on that server's status (`?`).
//!
//! # What a refusal looks like
//!
//! | why | code | `idempotency-status` | pushback |
//! | --- | --- | --- | --- |
//! | key missing or malformed, metadata or message unreadable, not one message | `INVALID_ARGUMENT` | `not-executed` | -1 |
//! | the key was used with another request | `INVALID_ARGUMENT` | `mismatch` | -1 |
//! | the call is being executed | `ABORTED` | `in-progress` | when to ask again |
//! | nobody knows, and no answer is kept | `UNKNOWN` | `in-doubt` | -1 |
//! | older than what is remembered, acknowledged, or sealed | `FAILED_PRECONDITION` | `stale` | -1 |
//! | bound to another store, or in a session that is unknown or over | `FAILED_PRECONDITION` | `not-executed` | -1 |
//! | the caller is nobody | `PERMISSION_DENIED` | `not-executed` | -1 |
//! | the message is too large | `RESOURCE_EXHAUSTED` | `not-executed` | -1 |
//! | too many calls open | `RESOURCE_EXHAUSTED` | `not-executed` | when to ask again |
//! | the message came too slowly | `UNAVAILABLE` | `not-executed` | |
//! | store or server are not able | `UNAVAILABLE` | `not-executed` | when to ask again |
//! | the deadline passed | `DEADLINE_EXCEEDED` | `not-executed` or `in-progress` | |
//!
//! Each carries a `google.rpc.ErrorInfo` of the domain `onlyonce`, whose reason is the refusal's name.
//!
//! # Place in the order
//!
//! Inside of authentication, which gives the scope, of load shedding, of timeouts, and of what
//! translates gRPC-Web. Outside of everything that has effects. An interceptor that stands inside, and
//! the decoder of messages, which always does, refuse what the layer has claimed already: where their
//! refusals are not to be recorded or in doubt, the handler says when it begins
//! ([`Declaration::enter`]). Answers of protected methods are not
//! compressed, since a duplicate may come from a client that cannot decompress.

mod adapter;
mod declaration;
mod fingerprint;
mod layer;
mod outcome;
mod refusal;
mod rules;
mod service;

pub use self::adapter::answer;
pub use self::declaration::{Declaration, EnterError};
pub use self::layer::DedupeLayer;
pub use self::service::Dedupe;
pub use crate::http::server::ResponseFuture;
