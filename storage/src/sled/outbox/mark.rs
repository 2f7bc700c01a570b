//! How far the store got, told beside sled.
//!
//! sled takes the first damaged message of its log for the torn end of it, and drops whatever
//! comes after without a word: acknowledged records would be absent, and their calls executed
//! again. So the number of the last group that was synced stands in a file of its own, and in sled
//! with every group; a database that ends before it is damaged, one of another identity as well.
//!
//! ```text
//! +---------+----------+---------------+--------------------+
//! | version | store id | group         | BLAKE3 of the rest |
//! | 1 byte  | 16 bytes | little endian | first 8 bytes      |
//! +---------+----------+---------------+--------------------+
//! ```

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::StoreId;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) id: StoreId,
    /// Every group up to this one was synced.
    pub(super) group: u64,
}

/// The file, held open for writing.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
}

// === impl Mark ===

impl Mark {
    /// Reads the mark; `None` where none was written yet.
    pub(super) fn read(directory: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path(directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        // An opening that crashed between making the file and writing to it.
        if bytes.is_empty() {
            return Ok(None);
        }
        let refused = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let damaged = || refused("the file MARK is damaged".to_owned());
        // Of every version the first byte says which, and the last eight are the checksum.
        if bytes[0] > VERSION && has_its_checksum(&bytes) {
            return Err(refused(format!(
                "the file MARK has format {}, this version reads up to {VERSION}; upgrade first",
                bytes[0]
            )));
        }
        let bytes = <[u8; LENGTH]>::try_from(bytes).map_err(|_| damaged())?;
        let mark = Self {
            id: StoreId::from_bytes(bytes[1..17].try_into().map_err(|_| damaged())?),
            group: u64::from_le_bytes(bytes[17..25].try_into().map_err(|_| damaged())?),
        };
        if bytes != mark.encode() {
            return Err(damaged());
        }
        Ok(Some(mark))
    }

    fn encode(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[0] = VERSION;
        bytes[1..17].copy_from_slice(self.id.as_bytes());
        bytes[17..25].copy_from_slice(&self.group.to_le_bytes());
        let sum = blake3::hash(&bytes[..25]);
        bytes[25..].copy_from_slice(&sum.as_bytes()[..8]);
        bytes
    }
}

// === impl MarkFile ===

impl MarkFile {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path(directory))?;
        Ok(Self { file })
    }

    /// Writes the mark over the last one, within one sector. Durable with the next sync.
    pub(super) fn write(&mut self, mark: Mark) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&mark.encode())?;
        crate::kill_point!("outbox: mark written, not synced");
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn has_its_checksum(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<8>()
        .is_some_and(|(content, sum)| blake3::hash(content).as_bytes().starts_with(sum))
}

fn path(directory: &Path) -> PathBuf {
    directory.join("MARK")
}

const VERSION: u8 = 1;
const LENGTH: usize = 33;
