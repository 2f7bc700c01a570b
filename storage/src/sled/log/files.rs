//! The two files, and who writes where.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{HEAD_BLOCK_BYTES, VERSION};
use crate::StoreId;
use crate::sled::disk::write_at;

/// The two files, open for writing. The syncer writes groups to one, and the thread that makes
/// checkpoints gives the other its next turn.
#[derive(Debug)]
pub(in crate::sled) struct LogFiles {
    id: StoreId,
    files: [File; 2],
    salts: [AtomicU64; 2],
}

/// What stands at the beginning of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sled) struct Head {
    pub(in crate::sled) id: StoreId,
    pub(in crate::sled) turn: u64,
    /// The last group that was in sled when this turn began.
    pub(in crate::sled) checkpoint: u64,
    pub(in crate::sled) salt: u64,
}

// === impl LogFiles ===

impl LogFiles {
    /// Opens the files of a store, and makes those that are not there. They are written to only
    /// after [`begin_turn`](Self::begin_turn).
    pub(in crate::sled) fn open(directory: &Path, id: StoreId) -> io::Result<Self> {
        let file = |which| {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true);
            options.open(path(directory, which))
        };
        let files = [file(0)?, file(1)?];
        crate::kill_point!("log: files made, nothing in them");
        #[cfg(unix)]
        File::open(directory)?.sync_all()?;
        Ok(Self {
            id,
            files,
            salts: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    /// Gives a file its next turn: whatever it holds is no longer needed, because the groups up to
    /// `checkpoint` are in sled. Durable when it returns.
    pub(in crate::sled) fn begin_turn(&self, turn: u64, checkpoint: u64) -> io::Result<()> {
        let mut salt = [0; 8];
        salt.copy_from_slice(&StoreId::random().as_bytes()[..8]);
        let head = Head {
            id: self.id,
            turn,
            checkpoint,
            salt: u64::from_le_bytes(salt),
        };
        let file = &self.files[which(turn)];
        // Within one sector, so that it is there whole or not at all.
        write_at(file, &head.encode(), 0)?;
        crate::kill_point!("log: turn written, not synced");
        file.sync_data()?;
        self.salts[which(turn)].store(head.salt, Ordering::Release);
        Ok(())
    }

    /// The salt of the groups of this turn, which has begun.
    pub(in crate::sled) fn salt(&self, turn: u64) -> u64 {
        self.salts[which(turn)].load(Ordering::Acquire)
    }

    pub(in crate::sled) fn write(&self, turn: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_at(&self.files[which(turn)], bytes, offset)
    }

    pub(in crate::sled) fn sync(&self, turn: u64) -> io::Result<()> {
        self.files[which(turn)].sync_data()
    }

    /// Makes both files durable with whatever says how long they are.
    pub(in crate::sled) fn sync_all(&self) -> io::Result<()> {
        self.files.iter().try_for_each(File::sync_all)
    }

    /// Where the first group of a turn goes.
    pub(in crate::sled) const fn first_offset() -> u64 {
        HEAD_BLOCK_BYTES as u64
    }
}

// === impl Head ===

impl Head {
    pub(in crate::sled) fn encode(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(self.id.as_bytes());
        bytes[17..25].copy_from_slice(&self.turn.to_le_bytes());
        bytes[25..33].copy_from_slice(&self.checkpoint.to_le_bytes());
        bytes[33..41].copy_from_slice(&self.salt.to_le_bytes());
        let sum = blake3::hash(&bytes[..SUMMED_BYTES]);
        bytes[SUMMED_BYTES..].copy_from_slice(&sum.as_bytes()[..8]);
        bytes
    }

    /// The head of a file. A later version keeps its first byte and its checksum where they are.
    pub(super) fn decode(file: &[u8]) -> Result<Self, String> {
        let bytes = file
            .first_chunk::<HEAD_BYTES>()
            .ok_or("it is shorter than its head")?;
        let sum = blake3::hash(&bytes[..SUMMED_BYTES]);
        if bytes[SUMMED_BYTES..] != sum.as_bytes()[..8] {
            return Err("its head is damaged".to_owned());
        }
        if bytes[0] > VERSION {
            return Err(format!(
                "it has format {}, this version reads up to {VERSION}; upgrade first",
                bytes[0]
            ));
        }
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[1..17]);
        let head = Self {
            id: StoreId::from_bytes(id),
            turn: number(17),
            checkpoint: number(25),
            salt: number(33),
        };
        if *bytes != head.encode() {
            return Err("its head is not what this version writes".to_owned());
        }
        Ok(head)
    }
}

/// The bytes of a file; `None` where it is not there or a first opening that crashed has left it
/// without a head.
pub(super) fn bytes(directory: &Path, which: usize) -> io::Result<Option<Vec<u8>>> {
    let path = path(directory, which);
    let length = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?.len(),
    };
    if length > READ_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} has {length} bytes: no log is so long", name(which)),
        ));
    }
    let bytes = fs::read(path)?;
    Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

pub(super) fn name(which: usize) -> String {
    format!("LOG-{which}")
}

const fn which(turn: u64) -> usize {
    (turn % 2) as usize
}

pub(super) fn path(directory: &Path, which: usize) -> PathBuf {
    directory.join(name(which))
}

/// With the checksum.
pub(super) const HEAD_BYTES: usize = 64;
const SUMMED_BYTES: usize = HEAD_BYTES - 8;

/// Far beyond what a full file and one group of the largest answers have.
const READ_BYTES_MAX: u64 = 256 * 1024 * 1024;
