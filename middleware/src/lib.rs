//! Tower layers that make a remote call safe to retry.
//!
//! [`client`] gives every attempt of a call one key, one deadline and bounded retries;
//! [`server`] lets the effect of a call happen at most once per key. [`stack`] puts the layers into
//! the orders that are right. All of it is generic over the protocol, through an adapter each side,
//! and over the store.

pub mod client;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "http")]
pub mod http;
pub mod jitter;
mod nested;
pub mod observe;
pub mod server;
pub mod stack;
