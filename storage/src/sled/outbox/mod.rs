//! An outbox in a directory, on sled.
//!
//! The rule is that of the store: **nothing is told to be kept before `flush` and `syncfs` have
//! returned.** One thread decides, writes and syncs; what is asked while it waits for the disk is
//! the next group, which shares one sync.
//!
//! On disk:
//!
//! ```text
//! PATH/FORMAT   what this directory is, and in which format
//! PATH/MARK     the last group that was synced: a database that ends before it is damaged
//! PATH/LOCK     held by the process that has the outbox open
//! PATH/db/      sled's own files, with one tree, "onlyonce/outbox":
//!   0 | name                      identity, scope, the last group, the next number
//!   number | 0                    a call, without its bytes (`outbox/codec.rs`)
//!   number | 1 | part             its request, in parts of at most 3,500 bytes
//!   number | 2 | part             its answer, likewise
//! ```
//!
//! Numbers are big endian, 8 bytes, parts 4 bytes. Everything is in one tree so that a group is one
//! batch, which sled writes whole or not at all.

mod mark;
mod open;
mod options;
mod rows;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod writer;

pub use self::open::OutboxOpenError;
pub use self::options::OutboxOptions;
pub use self::store::SledOutbox;
