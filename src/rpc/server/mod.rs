//! The server's end: it accepts, shakes hands, and gives every call to a clone of a service.

mod builder;
mod connection;
mod finishing;
mod handshake;
mod options;
mod serving;
mod writer;

pub use self::builder::{BuildError, Server, ServerBuilder};
pub use self::options::ServerOptions;
#[cfg(feature = "cli")]
pub(crate) use self::serving::serve_pipes;
pub use self::serving::{Serving, ShutdownReport};
