//! The native RPC: calls over one multiplexed TCP connection, each with its idempotency key, its
//! attempt, its deadline and the store that it is bound to.
//!
//! The rule: **whoever sends a call knows afterwards whether any byte of it was written**, and a
//! connection never retries anything by itself. What to make of a lost answer is the client
//! stack's decision, for which [`TransportError::executed`] says what is proven.
//!
//! The handshake tells the server's clock and the identity of its store. A client therefore says
//! when a call was first sent in the server's time, never in its own, and a call that met one
//! store is refused by a server that has another.
//!
//! Why not HTTP/2: its streams hide from the caller whether a request was written, its frames
//! carry no deadline, attempt or store, and a wrong peer shows as a hang or a reset. HTTP has its
//! own adapter; this is for two programs that both speak onlyonce.
//!
//! The bytes are drawn in `src/manual/wire_format.md`.
//!
//! ```
//! use bytes::Bytes;
//! use onlyonce::rpc::{Channel, ChannelOptions, Incoming, Reply, Request, Server, Status};
//! use tower::{ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let serving = Server::builder().global_scope().build()?.serve(
//!     listener,
//!     service_fn(async |call: Incoming| Ok(Reply::new(Status::Unprotected, call.arguments))),
//! )?;
//!
//! let channel = Channel::new(serving.local_addr().to_string(), ChannelOptions::default());
//! let reply = channel.oneshot(Request::new("echo", Bytes::from_static(b"hello"))).await?;
//! assert_eq!(reply.body, "hello");
//! # Ok(())
//! # }
//! ```

mod adapter;
pub mod blocking;
mod bounded;
mod channel;
mod client;
mod codec;
mod error;
mod failed;
mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod handshake;
mod in_doubt;
mod journaled;
mod message;
mod method;
mod outbox;
#[cfg(feature = "cli")]
pub(crate) mod overheard;
mod router;
mod server;
#[cfg(feature = "cli")]
pub(crate) mod simulated;
mod state;
mod status;
mod transactional;
pub(crate) mod value;
mod wire;

pub use self::adapter::{ClientAdapter, ServerAdapter};
pub use self::channel::{Channel, ChannelOptions, ResponseFuture};
pub use self::client::{Client, Known};
pub use self::error::{
    Connecting, HandshakeError, NotSent, ProtocolError, RefusalCode, TransportError,
};
pub use self::failed::{CallFailure, Failed, Unanswered};
pub use self::handshake::{CREDENTIAL_BYTES_MAX, Credential, CredentialTooLong, PROTOCOL_VERSION};
pub use self::in_doubt::Reconciled;
pub use self::journaled::{Interrupted, Steps, UnfinishedStep, answered};
pub use self::message::{Incoming, METHOD_BYTES_MAX, Reply, Request, Stamp, Verb};
pub use self::method::{Failure, Method};
pub use self::outbox::{Kept, Outbox, OutboxFailure, Pending, Resumed, Unfinished};
pub use self::router::{Caller, RouteFuture, Router, Routes};
pub use self::server::{BuildError, Server, ServerBuilder, ServerOptions, Serving, ShutdownReport};
use self::state::Told;
pub use self::status::Status;
pub use self::transactional::Undone;
pub use onlyonce_middleware::server::{Doubt, Execution, StepError, StepRun};
pub use onlyonce_storage::transaction::{Table, Transaction, TransactionError};
