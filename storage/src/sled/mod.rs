//! The embedded durable store, on sled 0.34.
//!
//! The rule: **a change is acknowledged only after `flush` and `syncfs` have returned.** sled's
//! `flush` alone is not durable on Linux (it calls `sync_file_range`); a power cut then takes what
//! was acknowledged. So one thread writes, syncs with [`SyncPoint`], and answers afterwards.
//!
//! On disk:
//!
//! ```text
//! PATH/FORMAT   what this directory is, and in which format
//! PATH/MARK     the last group that was synced: a database that ends before it is damaged
//! PATH/LOCK     held by the process that has the store open
//! PATH/db/      sled's own files, with these trees:
//!   onlyonce/meta                  identity, incarnation, what is forgotten
//!   onlyonce/recent/START-END      answers, and what was open meanwhile; dropped at retention
//!   onlyonce/settled/START-END     settled records; dropped at the horizon
//! ```
//!
//! A bucket lasts a day, or an eighth of the horizon where that is longer. Dropping a tree walks its
//! pages and none of its records. A tombstone is a settled record whose answer is gone: making one
//! writes nothing. Before a tree of answers is dropped, what is still open in it moves to a younger
//! one, some at a time. Where the settled records lie is known in memory, so a first call asks no
//! disk.
//!
//! What groups write is cut into pages below 4 KiB (`page.rs`, `frame.rs`), because sled puts large
//! nodes into files of their own which it never syncs.

mod disk;
mod frame;
#[cfg(test)]
mod layout_bytes;
mod located;
mod mark;
mod open;
mod options;
mod page;
mod store;
mod sync;
#[cfg(test)]
mod tests;

pub use self::open::OpenError;
pub use self::options::SledOptions;
pub use self::store::SledStore;
pub use self::sync::{SyncError, SyncPoint};
