//! The embedded durable store: a log, files of pages, and sled 0.34.
//!
//! The rule: **a change is acknowledged only after it is durable in the log.** One thread decides
//! and applies in memory, a second writes each group of changes to the log with one `fdatasync` and
//! answers, a third carries over what a full file of the log holds: a checkpoint.
//!
//! ```text
//!            decide, apply        group         fdatasync, reply
//!  callers --> [ writer ] ----------------> [ syncer ] --> LOG-0, LOG-1
//!     |            | pages, rows of a full file
//!     |            '---------------------> [ checkpoint ] --> pages/..., db/ (sled)
//!     '-- duplicates of settled calls: read from memory and pages/, without any of them
//! ```
//!
//! On disk:
//!
//! ```text
//! PATH/FORMAT                     what this directory is, and in which format
//! PATH/LOCK                       held by the process that has the store open
//! PATH/LOG-0, PATH/LOG-1          what was acknowledged and not yet carried over (`log/`)
//! PATH/pages/answers-START-END    answers of a bucket; removed at retention (`page.rs`, `frame.rs`)
//! PATH/pages/settled-START-END    settled records of a bucket; removed at the horizon
//! PATH/db/                        sled's own files, with these trees:
//!   onlyonce/meta                   identity, incarnation, what is forgotten, the last group that
//!                                   was carried over, how many pages of each file count
//!   onlyonce/open                   what is in progress, in doubt or held for a session
//!                                   (`open_rows.rs`)
//!   onlyonce/sessions               sessions, and what is acknowledged in them (`session_rows.rs`)
//!   user/NAME                       a table of the handlers' (`tables.rs`)
//! ```
//!
//! What is open is kept in memory as well, and of each settled record where it lies (`located.rs`);
//! both are read when the store is opened. So a first call reads nothing from the disk, and a replay
//! reads two pages.
//!
//! A bucket lasts a day, or an eighth of the horizon where that is longer. Forgetting one is removing
//! its file, on the thread that makes checkpoints. A tombstone is a settled record whose answer is
//! gone: making one writes nothing. What is open lies in no bucket and is never forgotten.
//!
//! An opening reads everything, takes in what the log has and no checkpoint has reached, puts in
//! doubt what was in progress, carries all of it over and begins the log anew. What a checkpoint
//! that was not finished has left behind is said again by the log, or by the next opening. What is missing or damaged where
//! something is known to have been acknowledged keeps the store shut.
//!
//! Why not all of it in sled: `src/manual/decisions/0003_sled.md`.

#[cfg(not(unix))]
compile_error!("the embedded store reads and writes files as a Unix does");

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
pub(crate) mod log;
mod open;
mod open_rows;
mod options;
mod outbox;
mod page;
mod parted;
mod session_rows;
mod size;
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
