//! The client's end: one connection, shared by every clone.

mod connection;
mod dial;
mod options;
mod service;
mod session;

#[cfg(feature = "cli")]
pub(super) use self::dial::Pipe;
pub use self::options::ChannelOptions;
pub use self::service::{Channel, ResponseFuture};
pub(in crate::rpc) use self::session::Place;
