//! The log: what was acknowledged and is not yet in sled.
//!
//! Making a group durable in sled takes a write, a wait for it and a sync of the whole file system,
//! by way of sled's own threads. So a group is first written to a log, which is one write and one
//! `fdatasync` of a file that is already there, and its callers are answered. What a file of the
//! log holds goes to sled at once when it is full: a checkpoint (`checkpoint.rs`), in pages that
//! are full. Then the file is used again. An opening carries over what no checkpoint has reached.
//!
//! Two files take turns, so that one is written while the other goes to sled:
//!
//! ```text
//! file:   head, in a block of 4,096 bytes | group | group | ...   | what is left of earlier turns
//! head:   version (1) | store id (16) | turn (8) | checkpoint (8) | salt (8) | zeros (15)
//!         | first 8 bytes of BLAKE3 of the 56 bytes before
//! group:  CRC-32 of the rest (4) | length of the entries (4) | salt (8) | number (8) | entries
//!         | zeros up to a multiple of 8
//! entry:  1 | key digest (32) | length (4) | record
//!         2 | key digest (32) | length (4) | record | answer, as long as the record says
//!         3 | key digest (32)                                 the key is absent
//!         4 | what (1) | time (8)                             see `Note`
//!         5 | session (8) | digest of its scope (32)          a session was opened
//!         6 | session (8) | first unanswered (8)              calls before it are acknowledged
//!         7 | session (8)                                     a session has expired
//!         8 | length (1) | table | length (2) | key | length (4) | value
//!         9 | length (1) | table | length (2) | key           the row is gone
//! ```
//!
//! Numbers are little endian. Turns count up; the file with the higher one is the newer. A head
//! says which checkpoint had reached sled when its turn began, so that a database that ends before
//! is known to be damaged. The salt is random and new each turn: no group of an earlier turn is
//! taken for one of this, and nobody can put bytes into an answer that look like a group.
//!
//! A group is written only after the one before it is durable. So what is not whole is the torn end
//! of the log if nothing whole comes after it, and damage if something does.

mod entry;
mod files;
#[cfg(test)]
mod layout_bytes;
mod reading;

#[cfg(feature = "simulated")]
pub(crate) use self::entry::ALIGNMENT;
pub(crate) use self::entry::{Entry, GroupBytes, Note};
#[cfg(feature = "fuzzing")]
pub(super) use self::files::Head;
pub(super) use self::files::LogFiles;
#[cfg(feature = "simulated")]
pub(crate) use self::reading::group_at;
#[cfg(feature = "fuzzing")]
pub(super) use self::reading::understand;
pub(super) use self::reading::{Groups, read};

/// The last turn that a new log has begun. The next ones begin when sled knows whose it is.
pub(super) const NEW_TURNS: u64 = 2;

/// A block of the disk, so that no group shares it with the head.
const HEAD_BLOCK_BYTES: usize = 4_096;
const VERSION: u8 = 1;
