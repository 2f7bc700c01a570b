//! Calls over HTTP that are safe to retry.
//!
//! [`stack()`] puts the client's layers around a transport: [`hyper()`] or [`reqwest()`], or any tower
//! service of your own. `src/manual/clients.md` is the page for users.
//!
//! What is particular to HTTP:
//!
//! * A request's body is read into memory before the first attempt, up to a limit. What fits can be
//!   sent again, byte for byte, whatever became of the attempt before; what does not is sent once.
//! * The answer is read to its end within the attempt, up to a limit. One that is cut is a failed
//!   attempt and not half an answer.
//! * `Idempotency-Status` is read before the status code: see [`Classification`].
//! * Whether a peer dedupes is known of each route by itself (method, authority and path), because a
//!   server may have the layer on some of its routes only. What is not known is asked with `OPTIONS`.
//! * An [`Outbox`] keeps calls that are to outlive their client's process.

mod adapter;
mod attempt;
mod body_errors;
pub(crate) mod classify;
mod error;
#[cfg(any(feature = "hyper-util", feature = "reqwest"))]
pub(crate) mod evidence;
#[cfg(any(feature = "hyper-util", feature = "reqwest"))]
mod framed;
mod outbox;
mod peers;
mod retry_after;
pub(crate) mod stack;
mod stamp;
mod step;

#[cfg(feature = "hyper-util")]
mod hyper_util;
#[cfg(feature = "reqwest")]
mod reqwest;

pub use self::adapter::Adapter;
#[cfg(feature = "grpc")]
pub(crate) use self::attempt::Dialect;
pub use self::attempt::PeerDoesNotDedupe;
pub use self::body_errors::{BodyVerdict, ErrorCodes};
pub use self::classify::Classification;
pub use self::error::TransportError;
#[cfg(feature = "hyper-util")]
pub use self::hyper_util::{Hyper, hyper};
pub use self::outbox::{Kept, Outbox, OutboxFailure, Pending, Resumed, Unfinished};
#[cfg(feature = "reqwest")]
pub use self::reqwest::{Reqwest, reqwest};
pub use self::stack::{Client, Deadline, Stack, stack};
