//! gRPC: unary calls that are safe to retry, behind or before any gRPC library of tower's kind.
//!
//! Nothing here depends on tonic, whose servers, channels and generated clients are tower services
//! over `http` and fit as they are.

pub mod client;
mod code;
mod message;
mod methods;
mod names;
pub mod server;
mod timeout;

pub use self::code::Code;
pub use self::server::{Declaration, Dedupe, DedupeLayer, EnterError, answer};
