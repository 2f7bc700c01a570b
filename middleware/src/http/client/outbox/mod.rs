//! Calls over HTTP that outlive the process that makes them.
//!
//! `src/manual/clients.md` has a section on it.

mod client;
mod failed;
mod noting;
mod request;

pub use self::client::{Kept, Outbox, Pending, Resumed};
pub use self::failed::{OutboxFailure, Unfinished};

pub(super) use self::noting::Noting;
