//! The server's side of HTTP: the effect of a request happens at most once per key.
//!
//! The rule: a POST or PATCH carries an `Idempotency-Key`, and whatever happens on the way (a lost
//! answer, a retry, two at once) its handler runs once, and everybody who asks with the key gets that
//! one answer. Another unsafe method is protected where it carries a key. GET, HEAD, OPTIONS and
//! TRACE pass.
//!
//! ```
//! use std::sync::Arc;
//! use http::{Request, Response};
//! use onlyonce_middleware::http::{Body, DedupeLayer};
//! use onlyonce_storage::{MemoryStore, Scope};
//! use tower::{Layer, ServiceExt};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! let layer = DedupeLayer::new(Arc::new(MemoryStore::new()), Scope::global());
//! let pay = tower::service_fn(async |_: Request<Body>| {
//!     Ok::<_, std::convert::Infallible>(Response::new(Body::from("paid")))
//! });
//! let service = layer.layer(pay);
//! let request = || {
//!     let request = Request::post("/pay").header("idempotency-key", "order-4711");
//!     request.body(Body::from("10 EUR")).unwrap()
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
//! | answers 401, 407, 421, 425, 429, or with [`NotExecuted`] among its extensions | free |
//! | answers anything else below 500, or with [`Definitive`] | completed: duplicates get that answer |
//! | answers 408 or 5xx | in doubt, and the answer is kept for duplicates; 503 frees the key where [`release_503`](DedupeLayer::release_503) says so |
//! | panics, fails, or its body fails half-way | in doubt |
//! | answers more than is kept, or a stream | in doubt; the answer is delivered once, marked `executed; unrecorded`. See [`head_only`](DedupeLayer::head_only) |
//!
//! Behind a layer that is [`journaled`](DedupeLayer::journaled) this holds of a run all of whose steps
//! have a result. Any other leaves its call standing still, or in doubt, whatever the handler answers.
//!
//! # Place in the order
//!
//! Inside of authentication, which gives the scope, of load shedding and of timeouts. Inside of
//! compression too: a record then holds the answer itself, and each caller gets it in an encoding that
//! it takes. Outside of everything that has effects, and around all unsafe methods of an address: the
//! answer to OPTIONS says that the address dedupes, and clients retry by it.

pub(crate) mod adapter;
pub(crate) mod answer;
mod canonical;
pub(crate) mod fidelity;
mod fingerprint;
pub(crate) mod handler;
pub(crate) mod intake;
pub(crate) mod journal;
mod layer;
pub(crate) mod outcome;
mod problem;
pub(crate) mod recording;
pub(crate) mod rules;
mod said;
mod scope;
pub(crate) mod service;
pub(crate) mod stored;
pub(crate) mod words;

pub use self::adapter::answer;
pub use self::layer::DedupeLayer;
pub use self::said::{ByServer, Definitive, NotExecuted};
pub use self::scope::{ScopeOf, from_extension};
pub use self::service::{Dedupe, ResponseFuture};
