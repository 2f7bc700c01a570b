//! Opening a directory, and refusing one that is not ours to open.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cause::{Cause, read_through};
use super::checkpoint::{Checkpoints, sync_folder};
use super::disk::{Identity, Loaded, Parts, SledDisk};
use super::log::{self, Groups, LogFiles};
use super::sync::SledSync;
use super::{SledOptions, SyncPoint};
use crate::StoreId;
use crate::clock::ClockGuard;
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
    /// The disk failed on the way: that says nothing about what is on it. What is acknowledged was
    /// not touched; open it again when the disk is well.
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
    crate::kill_point!("opening: leftovers removed, database not open");
    let corrupt = |reason: String| OpenError::Corrupt {
        path: path.to_owned(),
        reason,
    };
    let unopened = |why| match why {
        Cause::Damaged(reason) => corrupt(reason),
        Cause::Disk(source) => failed(source),
    };
    // Before sled may change anything.
    read_through(&db_path).map_err(unopened)?;
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
        // What sled's recovery has written is not to be taken together with what comes.
        point.commit(&db).map_err(|error| unopened(error.into()))?;
        crate::kill_point!("opening: database open, log not read");
        let in_sled = Loaded::identity_in(&db).map_err(unopened)?;
        let groups = log::read(path, in_sled.is_some()).map_err(failed)?;
        let id = identity(in_sled, groups.as_ref()).map_err(corrupt)?;
        let files = LogFiles::open(path, id).map_err(failed)?;
        if groups.is_none() {
            // Before sled says whose it is, so that a store without a log is known to be damaged.
            begin_turns(&files, 0, 0).map_err(failed)?;
        }
        crate::kill_point!("opening: log there, trees not read");
        let folder = path.join(PAGES_FOLDER);
        fs::create_dir_all(&folder).map_err(failed)?;
        sync_folder(path).map_err(failed)?;
        if in_sled.is_none() {
            refuse_pages(&folder).map_err(unopened)?;
        }
        let parts = Parts {
            db,
            db_file: db_path.join("db"),
            folder,
            point,
            lock,
        };
        let mut loaded = Loaded::read(parts, &options.retention).map_err(unopened)?;
        if let Some(groups) = &groups {
            loaded.take_in(groups).map_err(unopened)?;
        }
        crate::kill_point!("opening: everything read, incarnation not raised");
        let (core, guard) = adopt(&mut loaded, id, options).map_err(unopened)?;
        crate::kill_point!("opening: open calls in doubt, not carried over");
        loaded.carry_over().map_err(unopened)?;
        crate::kill_point!("opening: carried over, the log not begun again");
        let turn = groups.map_or(log::NEW_TURNS, |groups| groups.turn);
        begin_turns(&files, turn, loaded.group()).map_err(failed)?;
        crate::kill_point!("opening: the log begun again, not serving");
        let files = Arc::new(files);
        let point = SyncPoint::open(&db_path).map_err(failed)?;
        let checkpoints =
            Checkpoints::start(loaded.target(point), Arc::clone(&files)).map_err(failed)?;
        Ok(Opened {
            core,
            guard,
            syncer: SledSync::new(Arc::clone(&files), turn + 1),
            disk: SledDisk::new(loaded, files, turn + 1, options.log_bytes, checkpoints),
            id,
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
    match read_format(path) {
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

/// What the directory says that it is, or the beginning of a file that says something else.
fn read_format(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path.join(FORMAT_FILE))?;
    file.take(FORMAT_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
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

/// Whose store it is.
fn identity(in_sled: Option<StoreId>, log: Option<&Groups>) -> Result<StoreId, String> {
    match (in_sled, log) {
        (Some(id), Some(log)) if log.id == id => Ok(id),
        (Some(_), Some(_)) => Err("the log belongs to another store than the database".to_owned()),
        // The log says it is there, or the reading of it has failed.
        (Some(id), None) => Ok(id),
        // A first opening that crashed.
        (None, Some(log)) if log.is_unused() => Ok(log.id),
        (None, Some(_)) => Err(
            "its database is empty and its log is not: sled has dropped a damaged log, or the \
             database was removed"
                .to_owned(),
        ),
        (None, None) => Ok(StoreId::random()),
    }
}

/// A store that was never opened to the end has no pages.
fn refuse_pages(folder: &Path) -> Result<(), Cause> {
    match fs::read_dir(folder)?.next() {
        None => Ok(()),
        Some(entry) => {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            Err(format!("its database is empty and the file {name} is not its own").into())
        }
    }
}

/// Gives both files of the log a new turn, after the last one.
fn begin_turns(files: &LogFiles, last: u64, checkpoint: u64) -> io::Result<()> {
    files.begin_turn(last + 1, checkpoint)?;
    crate::kill_point!("opening: one turn begun, the next not");
    files.begin_turn(last + 2, checkpoint)?;
    files.sync_all()
}

/// Raises the incarnation and puts in doubt what earlier ones left in progress. Not yet durable.
fn adopt(
    loaded: &mut Loaded,
    id: StoreId,
    options: &SledOptions,
) -> Result<(GroupCore, ClockGuard), Cause> {
    let now = options.clock.now();
    let Identity {
        incarnation,
        forgotten_until,
        last_used,
    } = loaded.identify(id, now, options.restored)?;
    crate::kill_point!("opening: incarnation raised, open calls not in doubt");
    let guard = ClockGuard::start(&*options.clock, last_used, options.retention.horizon);
    if guard.suspicion(&*options.clock).is_none() {
        loaded.note_used(now);
    }
    let mut core = GroupCore::new(
        incarnation,
        forgotten_until,
        options.retention,
        options.limits,
    );
    let (last, sessions) = loaded.sessions();
    core.adopt_sessions(last, sessions, now);
    let mut changes = Vec::new();
    for (key, before) in loaded.open_records() {
        if let Some(after) = core.adopt(&before, now) {
            changes.push(Change {
                key,
                before: Some(before),
                after: Some(after),
            });
        }
    }
    loaded.change(changes)?;
    Ok((core, guard))
}

pub(super) fn io_error(path: &Path, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => OpenError::Corrupt {
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
/// Far more than it says.
const FORMAT_BYTES_MAX: u64 = 128;
const FORMAT_DRAFT: &str = "FORMAT.new";
const FORMAT_FILE: &str = "FORMAT";
pub(super) const FORMAT_PREFIX: &str = "onlyonce sled store, format ";
const LOCK_FILE: &str = "LOCK";

const PAGES_FOLDER: &str = "pages";

/// It must be more than twice what sled writes between two syncs, which is many times what it is
/// given: `open_rows.rs` says what is reckoned with.
///
/// sled holds a segment for durable once it has asked the kernel to write it, and says so in the
/// head of a later one. The later one may lie where the file was before, and be on the disk at
/// once, while the earlier one needs the file's new length, which only our sync brings there. A
/// power cut in between makes sled miss the earlier one, take its whole log for torn, and wipe it.
/// A larger one costs time at an opening after a crash, when sled fills the rest of it with zeros.
pub(super) const SEGMENT_BYTES: usize = 2 * 1024 * 1024;
