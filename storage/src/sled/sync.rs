//! What makes a sled database survive a power cut.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::words;
use super::log::LogFiles;
use crate::commit::disk::{Syncer, Written};

/// Makes what was written to a sled database durable.
///
/// sled 0.34's `flush` hands its log to the operating system and does not wait for the disk, and
/// its large values lie in files that it never syncs. [`commit`](Self::commit) does both: `flush`,
/// then `syncfs` of the file system (elsewhere than on Linux: a sync of every file and folder).
///
/// Commit before half of a segment is written (`segment_size`, 512 KiB unless the configuration
/// says otherwise): sled counts on what it wrote before without having synced it, and a power cut
/// within more than that can make it take its whole log for torn.
///
/// Linux tells `syncfs` of a write-back that failed since 5.8; on an older kernel only a sync that
/// fails itself is seen.
///
/// Open it before the first write, so that an error of any later write-back is seen, and give the
/// database a file system of its own where another heavy writer would be flushed along. Call
/// `commit` from one thread, for many writes at once: it takes about a tenth of a millisecond
/// whatever is in it.
///
/// ```no_run
/// use onlyonce_storage::sled::SyncPoint;
///
/// let sync = SyncPoint::open("accounts.sled")?;
/// let db = sled::Config::new().path("accounts.sled").flush_every_ms(None).open()?;
/// db.insert("alice", b"100")?;
/// sync.commit(&db)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SyncPoint {
    path: PathBuf,
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "held open so that the directory stays")
    )]
    directory: File,
}

/// A database could not be made durable: what was written since the last commit may be lost.
///
/// Do not go on with the same handle. The operating system reports a failed write-back once, and
/// the next commit would succeed without what was lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// sled could not hand over its log.
    #[error("sled could not flush: {0}")]
    Flush(#[from] ::sled::Error),
    /// The file system could not write to the disk.
    #[error("the file system could not sync {path}: {source}")]
    Sync {
        /// The directory of the database.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// What makes the groups of a store durable: it writes them to the log.
pub(super) struct SledSync {
    log: Arc<LogFiles>,
    turn: u64,
    offset: u64,
}

// === impl SyncPoint ===

impl SyncPoint {
    /// The sync point of the database in the directory `path`, which is made if it is not there.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or opened.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        fs::create_dir_all(&path)?;
        let directory = File::open(&path)?;
        Ok(Self { path, directory })
    }

    /// Returns once everything that was written to `db` so far survives a power cut. Blocks: call
    /// it on a thread of your own or through `spawn_blocking`.
    ///
    /// # Errors
    ///
    /// When sled or the file system fails. Then what was written since the last commit may be
    /// lost, and the database must be opened again.
    pub fn commit(&self, db: &::sled::Db) -> Result<(), SyncError> {
        Self::flush(db)?;
        self.sync()
    }

    pub(super) fn flush(db: &::sled::Db) -> Result<(), SyncError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the sync point: `syncfs` follows"
        )]
        db.flush()?;
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), SyncError> {
        self.sync_files().map_err(|source| SyncError::Sync {
            path: self.path.clone(),
            source,
        })
    }

    #[cfg(target_os = "linux")]
    fn sync_files(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.directory)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn sync_files(&self) -> io::Result<()> {
        sync_tree(&self.path)
    }
}

// === impl SledSync ===

impl SledSync {
    /// Writes from the beginning of this turn on.
    pub(super) const fn new(log: Arc<LogFiles>, turn: u64) -> Self {
        Self {
            log,
            turn,
            offset: LogFiles::first_offset(),
        }
    }
}

impl Syncer for SledSync {
    fn write(&mut self, group: &Written) -> Result<(), String> {
        if group.begins_file {
            self.turn += 1;
            self.offset = LogFiles::first_offset();
        }
        self.log
            .write(self.turn, &group.bytes, self.offset)
            .map_err(words)?;
        self.offset += group.bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), String> {
        self.log.sync(self.turn).map_err(words)
    }
}

#[cfg(not(target_os = "linux"))]
fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            fs::OpenOptions::new()
                .write(true)
                .open(entry.path())?
                .sync_all()?;
        }
    }
    // Folders cannot be synced everywhere; where they can, a new file's name needs it.
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    Ok(())
}
