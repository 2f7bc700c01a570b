//! Calls that outlive the process that makes them.
//!
//! The manual's page is `src/manual/outbox.md`.

mod calls;
mod client;
mod ended;
mod failed;

pub use self::calls::{Kept, Pending, Resumed};
pub use self::client::Outbox;
pub use self::failed::{OutboxFailure, Unfinished};
