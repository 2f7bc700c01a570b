//! The embedded durable store, on sled 0.34.
//!
//! The rule: **a change is acknowledged only after `flush` and `syncfs` have returned.** sled's
//! `flush` alone is not durable on Linux (it calls `sync_file_range`); a power cut then takes what
//! was acknowledged. So one thread decides and writes, another syncs with [`SyncPoint`], and nobody
//! is answered before.
//!
//! On disk:
//!
//! ```text
//! PATH/FORMAT   what this directory is, and in which format
//! PATH/MARK     the last group that was synced: a database that ends before it is damaged
//! PATH/LOCK     held by the process that has the store open
//! PATH/db/      sled's own files, with these trees:
//!   onlyonce/meta                  identity, incarnation, what is forgotten
//!   onlyonce/recent/START-END      answers, and claims and doubts; dropped at retention
//!   onlyonce/settled/START-END     settled records; dropped at the horizon
//!   user/NAME                      a table of the handlers' (`tables.rs`)
//! ```
//!
//! The trees of a bucket hold pages (`page.rs`) of frames (`frame.rs`), numbered and never changed:
//! a log. What is open is kept in memory as well, and of each settled record where it lies
//! (`located.rs`); both are read from the pages when the store is opened. So a first call reads
//! nothing from the disk, and a replay reads two pages.
//!
//! A bucket lasts a day, or an eighth of the horizon where that is longer. Dropping a tree takes
//! milliseconds for a hundred thousand records while its pages are in sled's cache and a tenth of a
//! second where they are not; removing them one by one takes a second. A tombstone is a settled
//! record whose answer is gone: making one writes nothing. What is still open when its bucket is to
//! be dropped is written again to the bucket of today, some at a time.
//!
//! A page stays below 4 KiB, because sled puts large nodes into files of their own which it never
//! syncs. What lies between two syncs stays below half of a segment of sled's log (`open.rs`).

mod cause;
mod checkpoint;
mod disk;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod layout_bytes;
mod located;
mod log;
mod open;
mod open_rows;
mod options;
mod outbox;
mod page;
mod store;
mod sync;
mod tables;
#[cfg(test)]
mod tests;

pub use self::open::OpenError;
pub use self::options::SledOptions;
pub use self::outbox::{OutboxOpenError, OutboxOptions, SledOutbox};
pub use self::store::SledStore;
pub use self::sync::{SyncError, SyncPoint};
