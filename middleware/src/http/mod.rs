//! HTTP: the words of the protocol, its bodies, and the layers of both sides.
//!
//! The words are those of the IETF draft `draft-ietf-httpapi-idempotency-key-header-07` and what it
//! leaves open: see [`names`].

#[cfg(feature = "axum")]
pub mod axum;
mod body;
pub mod client;
pub(crate) mod key;
pub mod names;
pub mod server;
mod status;
mod store;

pub(crate) use self::body::try_clone_request;
pub use self::body::{Body, BoxError, Contents, Read, Reading};
pub use self::key::read as read_key;
pub use self::server::{
    ByServer, Dedupe, DedupeLayer, Definitive, NotExecuted, ScopeOf, answer, from_extension,
};
pub use self::status::Status;
pub use self::store::ServingStore;
