//! Group commit: many calls wait for one sync.
//!
//! One sync costs about a tenth of a millisecond whatever is in it, so an embedded store collects
//! what arrives while the last group is being written, and decides, writes and syncs it together.
//!
//! ```text
//!  callers --> queue (1,024) --> [ GroupCore::decide ] --> apply, flush, sync --> replies
//!                                  pure: no I/O, no clock,     the shell: one
//!                                  no randomness, no thread    thread of the OS
//! ```
//!
//! The rule: **no reply leaves before the group's writes are durable.** The core decides every
//! operation over an overlay, so that a later operation of a group sees what an earlier one wrote;
//! the shell applies all or nothing. Because the core is pure, a simulation can run it over a
//! simulated disk and cut the power wherever it likes.

#[cfg(feature = "sled")]
pub(crate) mod bucket;
mod core;
mod core_sessions;
#[cfg(feature = "sled")]
pub(crate) mod disk;
mod inspecting;
mod journaling;
mod open_calls;
mod operation;
mod overlay;
mod sessions;
mod transact;
#[cfg(feature = "sled")]
pub(crate) mod writer;

pub use self::core::GroupCore;
pub use self::operation::{
    Change, ClaimReply, Commit, CommitRefusal, Group, Operation, Reply, Sight,
};
pub use self::overlay::Rows;
pub use self::sessions::{SessionChange, SessionRow};
pub use self::transact::Scan;
pub(crate) use self::transact::over;
