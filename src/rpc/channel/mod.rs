//! The client's end: one connection, shared by every clone.

mod connection;
mod dial;
mod options;
mod service;

pub use self::options::ChannelOptions;
pub use self::service::{Channel, ResponseFuture};
