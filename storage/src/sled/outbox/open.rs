//! Opening the directory of an outbox, and refusing one that is not ours to open.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::OutboxOptions;
use super::rows::{Rows, Told, Unreadable};

use super::mark::{Mark, MarkFile};
use super::sync::{GroupSync as _, MarkedSync};
use crate::outbox::table::Table;
use crate::sled::disk::wait_until_free;
use crate::sled::open::{
    io_error, lock, mark as name_format, recognise, remove_leftovers, sled_error,
};

use crate::sled::{OpenError, SyncPoint};
use crate::{Scope, StoreId};

/// Why an outbox could not be opened. Nothing in the directory was changed unless its variant says
/// so.
///
/// Whatever it is: an empty outbox in its place knows no key, and whoever then calls anew calls a
/// second time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxOpenError {
    /// The outbox is damaged. Restore a copy of what is there now before repairing it: opening has
    /// let sled cut its log where it found the damage.
    #[error("outbox in {path} is corrupt: {reason}")]
    Corrupt {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory holds something that is no outbox.
    #[error("{path} holds {found:?} and is no outbox; give an empty directory")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Something that is in it.
        found: String,
    },
    /// The disk failed on the way.
    #[error("outbox in {path} could not be opened: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process, or another outbox of this process, has it open.
    #[error(
        "outbox in {path} is open in another process; each would send what the other has cancelled; \
         give each process an outbox of its own"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It was written by a newer version.
    #[error("outbox in {path} has format {found}, this version reads up to {supported}; upgrade")]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Its format, or that of a call in it.
        found: u32,
        /// The newest format that this version reads.
        supported: u32,
    },
    /// The path is not a directory.
    #[error("{path} is not a directory")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory may not be written to.
    #[error("outbox in {path} is not writable: {source}")]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Its calls were made in another scope: by another principal. In this one their keys are new,
    /// and they would be executed again.
    #[error(
        "outbox in {path} belongs to another scope; as this one its calls would be executed again"
    )]
    OtherScope {
        /// The directory.
        path: PathBuf,
    },
}

/// What an opening gives.
pub(super) struct Opened {
    pub(super) rows: Rows,
    pub(super) table: Table,
    pub(super) syncer: MarkedSync,
    pub(super) id: StoreId,
    /// sled's own, on which it holds a lock of its own.
    pub(super) db_file: PathBuf,
    /// Held for as long as the outbox is open.
    pub(super) lock: File,
}

/// Opens the outbox in `path`, or makes one in a directory that is absent or empty. Blocks.
pub(super) fn open(
    path: &Path,
    scope: &Scope,
    options: &OutboxOptions,
) -> Result<Opened, OutboxOpenError> {
    let known = recognise(path, FORMAT_PREFIX)?;
    let failed = |source| OutboxOpenError::from(io_error(path, source));
    fs::create_dir_all(path).map_err(failed)?;
    let lock = lock(path)?;
    if !known {
        name_format(path, FORMAT_PREFIX).map_err(failed)?;
    }
    crate::kill_point!("outbox opening: locked and named, database not open");
    let db_path = path.join("db");
    // Before the first write, so that no error of a later write-back is missed.
    let point = SyncPoint::open(&db_path).map_err(failed)?;
    remove_leftovers(&db_path).map_err(failed)?;
    let mark = Mark::read(path).map_err(failed)?;
    let mark_file = MarkFile::open(path).map_err(failed)?;
    let corrupt = |reason: String| OutboxOpenError::Corrupt {
        path: path.to_owned(),
        reason,
    };
    // sled panics where it finds what it does not expect.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let db = ::sled::Config::new()
            .path(&db_path)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            // What it would flush would not be durable, and would not wait for its group.
            .flush_every_ms(None)
            .open()
            .map_err(|error| sled_error(path, error))?;
        crate::kill_point!("outbox opening: database open, calls not read");
        let (mut rows, told) = Rows::open(&db).map_err(|error| unreadable(path, error))?;
        let id = identify(path, &mut rows, &told, mark, scope)?;
        let table = Table::new(told.entries, told.next, options.limits).map_err(corrupt)?;
        crate::kill_point!("outbox opening: calls read, identity not durable");
        let group = rows.group;
        let mut syncer = MarkedSync {
            db,
            point,
            mark: Mark { id, group },
            mark_file,
        };
        SyncPoint::flush(&syncer.db).map_err(|error| corrupt(error.to_string()))?;
        syncer.sync(group).map_err(corrupt)?;
        crate::kill_point!("outbox opening: identity durable, not marked");
        syncer.mark_synced().map_err(corrupt)?;
        crate::kill_point!("outbox opening: marked, nothing taken");
        Ok(Opened {
            rows,
            table,
            syncer,
            id,
            db_file: db_path.join("db"),
            lock,
        })
    }));
    let opened = opened.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(corrupt(text.unwrap_or_else(|| "sled panicked".to_owned())))
    });
    if let Err(error) = &opened
        && !matches!(error, OutboxOpenError::Locked { .. })
    {
        // Whoever sets right what was wrong and tries again is not to be told that it is open.
        wait_until_free(&db_path.join("db"));
    }
    opened
}

/// Who it is. Refuses a database that is not the one that was marked, one that ends before its mark,
/// and one of another scope.
fn identify(
    path: &Path,
    rows: &mut Rows,
    told: &Told,
    mark: Option<Mark>,
    scope: &Scope,
) -> Result<StoreId, OutboxOpenError> {
    let corrupt = |reason: String| OutboxOpenError::Corrupt {
        path: path.to_owned(),
        reason,
    };
    match mark {
        Some(mark) if told.id != Some(mark.id) || rows.group < mark.group => {
            return Err(corrupt(format!(
                "it ends at group {}, and group {} was acknowledged: sled has dropped a damaged \
                 part of its log",
                rows.group, mark.group
            )));
        }
        None if rows.group > 0 => {
            return Err(corrupt(format!(
                "the file MARK is missing, so nobody knows whether group {} is the last that was \
                 acknowledged",
                rows.group
            )));
        }
        Some(_) | None => {}
    }
    match (told.id, &told.scope) {
        (Some(_), Some(found)) if found != scope.digest().as_bytes() => {
            Err(OutboxOpenError::OtherScope {
                path: path.to_owned(),
            })
        }
        (Some(id), Some(_)) => Ok(id),
        (None, None) if told.entries.is_empty() => {
            let id = StoreId::random();
            rows.found(id, scope).map_err(corrupt)?;
            Ok(id)
        }
        _ => Err(corrupt("its identity or its scope is missing".to_owned())),
    }
}

fn unreadable(path: &Path, error: Unreadable) -> OutboxOpenError {
    let path = path.to_owned();
    match error {
        Unreadable::Damaged(reason) => OutboxOpenError::Corrupt { path, reason },
        Unreadable::Newer { found, supported } => OutboxOpenError::NewerFormat {
            path,
            found: found.into(),
            supported: supported.into(),
        },
    }
}

/// The same guards stand before a store's directory.
impl From<OpenError> for OutboxOpenError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Corrupt { path, reason } => Self::Corrupt { path, reason },
            OpenError::Foreign { path, found } => Self::Foreign { path, found },
            OpenError::Io { path, source } => Self::Io { path, source },
            OpenError::Locked { path } => Self::Locked { path },
            OpenError::NewerFormat {
                path,
                found,
                supported,
            } => Self::NewerFormat {
                path,
                found,
                supported,
            },
            OpenError::NotADirectory { path } => Self::NotADirectory { path },
            OpenError::NotWritable { path, source } => Self::NotWritable { path, source },
        }
    }
}

const FORMAT_PREFIX: &str = "onlyonce outbox, format ";

/// An outbox is read when it is opened and when a call is resumed; most of it is small.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// The largest that sled takes: a group, of which it writes up to three times as much, is less than
/// half of one, or a power cut could make it wipe its log (`sled/open.rs` of the crate says how).
pub(super) const SEGMENT_BYTES: usize = 16 * 1024 * 1024;
