//! A reliability layer that makes any remote call safe to retry.
//!
//! The promise: **the effect of a call happens at most once per idempotency key, every caller that
//! gets an answer gets the same answer, and a call whose outcome cannot be known is said to be in
//! doubt, never guessed.**
//!
//! - [`rpc`]: a native RPC of typed methods over one multiplexed TCP connection, with the promise
//!   built in.
//! - `proxy` (feature `proxy`): the promise in front of any HTTP service, in any language.
//! - [`admin`]: what operators do with the records of a running server.
//! - [`middleware`]: the tower layers behind it, for any protocol through an adapter.
//! - [`storage`]: keys, claims, records, and the stores that keep them.

pub use onlyonce_middleware as middleware;
#[cfg(feature = "grpc")]
pub use onlyonce_middleware::grpc;
#[cfg(feature = "http")]
pub use onlyonce_middleware::http;
pub use onlyonce_storage as storage;

pub mod admin;
#[cfg(feature = "cli")]
pub mod chaos;
#[cfg(feature = "cli")]
pub mod demo;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod rpc;
mod store_url;

pub use store_url::{StoreUrl, StoreUrlError};

/// The README's examples are tests.
#[cfg(all(doctest, feature = "axum", feature = "postgres"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The manual's examples are tests.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("manual/wrap_axum.md")]
struct WrapAxum;

/// So are those of the page on HTTP clients.
#[cfg(all(doctest, feature = "reqwest", feature = "sled"))]
#[doc = include_str!("manual/clients.md")]
struct HttpClients;

/// And of the page on gRPC.
#[cfg(all(doctest, feature = "grpc"))]
#[doc = include_str!("manual/grpc.md")]
struct Grpc;

/// And of the page on PostgreSQL.
#[cfg(all(doctest, feature = "postgres"))]
#[doc = include_str!("manual/postgres.md")]
struct Postgres;

/// And of the page on fault injection.
#[cfg(all(doctest, feature = "cli"))]
#[doc = include_str!("manual/fault_injection.md")]
struct FaultInjection;
