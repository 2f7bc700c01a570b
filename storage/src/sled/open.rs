//! Opening a directory, and refusing one that is not ours to open.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::disk::{Identity, Parts, SledDisk, words};
use super::mark::{Mark, MarkFile};
use super::sync::SledSync;
use super::{SledOptions, SyncPoint};
use crate::StoreId;
use crate::clock::ClockGuard;
use crate::commit::disk::{Disk as _, Syncer as _};
use crate::commit::{Change, GroupCore};

/// Why a store could not be opened. Nothing in the directory was changed unless its variant says
/// so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The database is damaged. Restore a copy; an empty store in its place would execute again
    /// what was executed. Opening it has let sled cut its log where it found the damage: repair a
    /// copy that was made before, not what is there now.
    #[error("store in {path} is corrupt: {reason}")]
    Corrupt {
        /// The directory.
        path: PathBuf,
        /// What sled said.
        reason: String,
    },
    /// The directory holds something that is no store.
    #[error("{path} holds {found:?} and is no store; give an empty directory")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Something that is in it.
        found: String,
    },
    /// The disk failed on the way.
    #[error("store in {path} could not be opened: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process, or another store of this process, has it open.
    #[error("store in {path} is open in another process; two would not see each other's claims")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It was written by a newer version.
    #[error("store in {path} has format {found}, this version reads up to {supported}; upgrade")]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Its format.
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
    #[error("store in {path} is not writable: {source}")]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// What an opening gives: a core that has adopted what the disk holds.
pub(super) struct Opened {
    pub(super) core: GroupCore,
    pub(super) guard: ClockGuard,
    pub(super) disk: SledDisk,
    pub(super) syncer: SledSync,
    pub(super) id: StoreId,
}

/// Opens the store in `path`, or makes one in a directory that is absent or empty. Blocks.
pub(super) fn open(path: &Path, options: &SledOptions) -> Result<Opened, OpenError> {
    let known = recognise(path, FORMAT_PREFIX)?;
    let failed = |source| io_error(path, source);
    fs::create_dir_all(path).map_err(failed)?;
    crate::kill_point!("opening: directory there, not locked");
    let lock = lock(path)?;
    crate::kill_point!("opening: locked, format not named");
    if !known {
        mark(path, FORMAT_PREFIX).map_err(failed)?;
    }
    let db_path = path.join("db");
    // Before the first write, so that no error of a later write-back is missed.
    let point = SyncPoint::open(&db_path).map_err(failed)?;
    crate::kill_point!("opening: format named, leftovers not removed");
    remove_leftovers(&db_path).map_err(failed)?;
    let mark = Mark::read(path).map_err(failed)?;
    let mark_file = MarkFile::open(path).map_err(failed)?;
    crate::kill_point!("opening: mark there, database not open");
    let corrupt = |reason: String| OpenError::Corrupt {
        path: path.to_owned(),
        reason,
    };
    // sled panics where it finds what it does not expect.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let db = ::sled::Config::new()
            .path(&db_path)
            .cache_capacity(options.cache_bytes)
            .segment_size(SEGMENT_BYTES)
            // What it would flush would not be durable, and would not wait for its group.
            .flush_every_ms(None)
            .open()
            .map_err(|error| sled_error(path, error))?;
        crate::kill_point!("opening: database open, trees not read");
        let parts = Parts {
            db,
            db_file: db_path.join("db"),
            point: SyncPoint::open(&db_path).map_err(failed)?,
            lock,
        };
        let mut disk = SledDisk::open(parts, &options.retention).map_err(corrupt)?;
        crate::kill_point!("opening: trees read, incarnation not raised");
        let (core, guard, identity) = adopt(&mut disk, options, mark).map_err(corrupt)?;
        let mut syncer = SledSync {
            db: disk.db().clone(),
            point,
            mark: Mark {
                id: identity.id,
                group: disk.group(),
            },
            mark_file,
        };
        persist(&mut syncer, disk.group()).map_err(corrupt)?;
        Ok(Opened {
            core,
            guard,
            disk,
            syncer,
            id: identity.id,
        })
    }));
    opened.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(corrupt(text.unwrap_or_else(|| "sled panicked".to_owned())))
    })
}

/// Whether the directory is already what `prefix` says. Touches nothing.
pub(super) fn recognise(path: &Path, prefix: &str) -> Result<bool, OpenError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error(path, error)),
        Ok(found) if !found.is_dir() => {
            return Err(OpenError::NotADirectory {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    let foreign = |found: String| OpenError::Foreign {
        path: path.to_owned(),
        found,
    };
    match fs::read_to_string(path.join(FORMAT_FILE)) {
        Ok(text) => {
            let number = text.trim_end().strip_prefix(prefix);
            let number = number.and_then(|number| number.parse::<u32>().ok());
            match number {
                Some(FORMAT) => return Ok(true),
                Some(found) if found > FORMAT => {
                    return Err(OpenError::NewerFormat {
                        path: path.to_owned(),
                        found,
                        supported: FORMAT,
                    });
                }
                _ => return Err(foreign(FORMAT_FILE.to_owned())),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(foreign(FORMAT_FILE.to_owned()));
        }
        Err(error) => return Err(io_error(path, error)),
    }
    // What a first opening that crashed before it wrote its mark leaves behind.
    for entry in fs::read_dir(path).map_err(|error| io_error(path, error))? {
        let name = entry.map_err(|error| io_error(path, error))?.file_name();
        if name != LOCK_FILE && name != FORMAT_DRAFT {
            return Err(foreign(name.to_string_lossy().into_owned()));
        }
    }
    Ok(false)
}

/// At once or not at all: who waits here would start serving at an unforeseen time.
pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK_FILE))
        .map_err(|error| io_error(path, error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(io_error(path, error)),
    }
}

/// Says what the directory is, before anything else is put there.
pub(super) fn mark(path: &Path, prefix: &str) -> io::Result<()> {
    let draft = path.join(FORMAT_DRAFT);
    let mut file = File::create(&draft)?;
    writeln!(file, "{prefix}{FORMAT}")?;
    file.sync_all()?;
    crate::kill_point!("opening: format drafted, not named");
    fs::rename(&draft, path.join(FORMAT_FILE))?;
    crate::kill_point!("opening: format named, not synced");
    #[cfg(unix)]
    File::open(path)?.sync_all()?;
    Ok(())
}

/// A crash while sled recovers leaves a half-written snapshot, which makes every later opening
/// fail; the whole ones beside it are complete without it.
pub(super) fn remove_leftovers(db_path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(db_path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Raises the incarnation and puts in doubt what earlier ones left in progress. Not yet durable.
fn adopt(
    disk: &mut SledDisk,
    options: &SledOptions,
    mark: Option<Mark>,
) -> Result<(GroupCore, ClockGuard, Identity), String> {
    let now = options.clock.now();
    let identity = disk.identify(now, mark)?;
    crate::kill_point!("opening: incarnation raised, open calls not in doubt");
    let guard = ClockGuard::start(
        &*options.clock,
        identity.last_used,
        options.retention.horizon,
    );
    if guard.suspicion(&*options.clock).is_none() {
        disk.note_used(now)?;
    }
    let mut core = GroupCore::new(
        identity.incarnation,
        identity.forgotten_until,
        options.retention,
        options.limits,
    );
    let mut changes = Vec::new();
    for (key, before) in disk.open_records() {
        if let Some(after) = core.adopt(&before, now) {
            changes.push(Change {
                key,
                before: Some(before),
                after: Some(after),
            });
        }
    }
    disk.apply(changes, now)?;
    crate::kill_point!("opening: open calls in doubt, not handed over");
    disk.hand_over()?;
    crate::kill_point!("opening: open calls in doubt, not flushed");
    Ok((core, guard, identity))
}

/// Before anything is served.
fn persist(syncer: &mut SledSync, group: u64) -> Result<(), String> {
    // Nothing is marked before it is durable, so not by the `flush` of a group.
    SyncPoint::flush(&syncer.db).map_err(words)?;
    crate::kill_point!("opening: flushed, not synced");
    syncer.sync(group)?;
    crate::kill_point!("opening: synced, not marked");
    syncer.mark_synced()?;
    crate::kill_point!("opening: marked, not serving");
    Ok(())
}

pub(super) fn io_error(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::InvalidData => OpenError::Corrupt {
            path,
            reason: source.to_string(),
        },
        io::ErrorKind::NotADirectory => OpenError::NotADirectory { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::NotWritable { path, source }
        }
        _ => OpenError::Io { path, source },
    }
}

pub(super) fn sled_error(path: &Path, error: ::sled::Error) -> OpenError {
    // Our own lock is held, so whoever has sled's opened its files behind our back, or is a store
    // of this process that is still being dropped. sled has no error of its own for it.
    let db_file = File::open(path.join("db").join("db"));
    if db_file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock))) {
        return OpenError::Locked {
            path: path.to_owned(),
        };
    }
    match error {
        ::sled::Error::Io(error) => io_error(path, error),
        other => OpenError::Corrupt {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    }
}

/// The format of the directory that this version writes, and the newest that it reads.
const FORMAT: u32 = 1;
const FORMAT_DRAFT: &str = "FORMAT.new";
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_PREFIX: &str = "onlyonce sled store, format ";
const LOCK_FILE: &str = "LOCK";

/// The largest that sled takes. It must be more than twice what is written between two syncs.
///
/// sled holds a segment for durable once it has asked the kernel to write it, and says so in the
/// head of a later one. The later one may lie where the file was before, and be on the disk at
/// once, while the earlier one needs the file's new length, which only our sync brings there. A
/// power cut in between makes sled miss the earlier one, take its whole log for torn, and wipe it.
/// With 512 KiB, its default, a group of a few large answers is enough.
pub(super) const SEGMENT_BYTES: usize = 16 * 1024 * 1024;
