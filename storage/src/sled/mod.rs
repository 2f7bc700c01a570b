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
//!   onlyonce/open                  records in progress and in doubt; never dropped
//!   onlyonce/open-answers          answers kept with calls in doubt
//!   onlyonce/index/START-END       settled records; dropped at the horizon
//!   onlyonce/answers/START-END     their answers; dropped at retention
//! ```
//!
//! A bucket lasts a day, or an eighth of the horizon where that is longer. Dropping a tree takes
//! milliseconds for a hundred thousand records, removing them one by one takes a second. A
//! tombstone is a record in an index whose answer is gone: making one writes nothing. A first call
//! looks into at most eleven trees, the open one and ten indexes, as long as somebody sweeps.
//!
//! Values above 4 KiB are kept in pieces, because sled puts large nodes into files of their own
//! which it never syncs. Each piece carries a digest of what it belongs to.

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
