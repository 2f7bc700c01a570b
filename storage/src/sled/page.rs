//! Pages: the files that answers and settled records are put into.
//!
//! Only a checkpoint writes to a file, behind what is there, and it is never changed: a log. So
//! dropping a day is removing two files, and reading a record is reading one block of a file.
//!
//! ```text
//! page:  CRC-32 of the file's name, the page's number and the rest (4) | length (2)
//!        | at most 4,090 bytes of frames | zeros up to 4,096
//! ```
//!
//! Numbers are little endian; pages are counted from 0. Frames go on over the end of a page. The
//! last page of a checkpoint is as long as it happens to be, so no frame goes on over the end of a
//! checkpoint. How many pages of a file count is said in sled (`checkpoint.rs`): behind them lies at
//! most what a checkpoint that was not finished has left.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::StoreError;

/// A file of pages.
#[derive(Debug)]
pub(super) struct PageFile {
    name: String,
    file: File,
}

/// A file of pages, and what is not yet in it.
#[derive(Debug)]
pub(super) struct Pages {
    file: Arc<PageFile>,
    /// The page that is being filled.
    number: u32,
    filling: Vec<u8>,
    /// Full pages before it that may not be in the file yet.
    full: VecDeque<Arc<Vec<u8>>>,
    /// How many of them belong to the last cut.
    cut: usize,
}

/// Pages that are on their way to their file.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) file: Arc<PageFile>,
    first: u32,
    contents: Vec<Arc<Vec<u8>>>,
}

/// Where something begins: the page, and the byte in its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    // Field order is the order in which they are written.
    pub(super) page: u32,
    pub(super) offset: u16,
}

/// How long a reader may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    ForTheDisk,
    /// What the operating system has not in memory cannot be read.
    ForNothing,
}

/// Reads on over the end of a page.
pub(super) struct Reader<'a> {
    pages: &'a Pages,
    wait: Wait,
    number: u32,
    content: Cow<'a, [u8]>,
    offset: usize,
}

// === impl Position ===

impl Position {
    pub(super) const fn to_number(self) -> u64 {
        (self.page as u64) << 16 | self.offset as u64
    }

    pub(super) fn from_number(number: u64) -> Option<Self> {
        Some(Self {
            page: u32::try_from(number >> 16).ok()?,
            offset: (number & 0xffff) as u16,
        })
    }
}

// === impl PageFile ===

impl PageFile {
    /// The file of this name in `folder`; made if it is not there.
    pub(super) fn open(folder: &Path, name: String) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(folder.join(&name))?;
        Ok(Self { name, file })
    }

    /// A file of this name that lies elsewhere.
    #[cfg(feature = "fuzzing")]
    pub(super) const fn of(name: String, file: File) -> Self {
        Self { name, file }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Removes whatever lies behind the first `pages`.
    pub(super) fn end_at(&self, pages: u32) -> io::Result<()> {
        self.file.set_len(offset_of(pages))
    }

    /// Reads the content of the first `count` pages, in order. What is damaged or not there is
    /// [`InvalidData`](io::ErrorKind::InvalidData).
    pub(super) fn read_all(
        &self,
        count: u32,
        mut each: impl FnMut(u32, &[u8]) -> Result<(), String>,
    ) -> io::Result<()> {
        let damaged = |number, damage: &str| {
            let text = format!("{}, page {number}: {damage}", self.name);
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let mut memory = Vec::new();
        for first in (0..count).step_by(PAGES_AT_ONCE) {
            let pages = (count - first).min(PAGES_AT_ONCE as u32);
            memory.resize(pages as usize * PAGE_BYTES, 0);
            read_at(&self.file, &mut memory, offset_of(first)).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        damaged(first, "it or one behind it is missing")
                    }
                    _ => error,
                }
            })?;
            for (number, page) in (first..).zip(memory.chunks_exact(PAGE_BYTES)) {
                let content = self.content(number, page);
                let content = content.map_err(|damage| damaged(number, damage))?;
                each(number, content).map_err(|damage| damaged(number, &damage))?;
            }
        }
        Ok(())
    }

    /// One page; its content when it is right.
    fn read(&self, number: u32, wait: Wait) -> Result<Vec<u8>, StoreError> {
        let mut page = vec![0; PAGE_BYTES];
        let read = match wait {
            Wait::ForTheDisk => read_at(&self.file, &mut page, offset_of(number)),
            Wait::ForNothing => read_now(&self.file, &mut page, offset_of(number)),
        };
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                StoreError::Corrupt(format!("page {number} of {} is missing", self.name))
            }
            _ => super::disk::unreadable(&error),
        })?;
        let length = match self.content(number, &page) {
            Ok(content) => content.len(),
            Err(damage) => {
                let name = &self.name;
                return Err(StoreError::Corrupt(format!(
                    "page {number} of {name}: {damage}"
                )));
            }
        };
        page.copy_within(HEAD_BYTES..HEAD_BYTES + length, 0);
        page.truncate(length);
        Ok(page)
    }

    fn content<'a>(&self, number: u32, page: &'a [u8]) -> Result<&'a [u8], &'static str> {
        let (sum, rest) = page.split_first_chunk::<4>().ok_or("it is cut off")?;
        let (length, content) = rest.split_first_chunk::<2>().ok_or("it is cut off")?;
        if *sum != self.sum(number, rest) {
            return Err("its checksum does not match");
        }
        content
            .get(..usize::from(u16::from_le_bytes(*length)))
            .ok_or("its length is beyond its end")
    }

    fn sum(&self, number: u32, rest: &[u8]) -> [u8; 4] {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.name.as_bytes());
        hasher.update(&number.to_le_bytes());
        hasher.update(rest);
        hasher.finalize().to_le_bytes()
    }
}

// === impl Pages ===

impl Pages {
    /// The pages in `file`, of which the next is `number`.
    pub(super) const fn new(file: Arc<PageFile>, number: u32) -> Self {
        Self {
            file,
            number,
            filling: Vec::new(),
            full: VecDeque::new(),
            cut: 0,
        }
    }

    pub(super) fn name(&self) -> &str {
        self.file.name()
    }

    /// Puts bytes behind those that are there. They are in memory until a checkpoint.
    pub(super) fn append(&mut self, parts: &[&[u8]]) -> Result<Position, String> {
        self.turn_if_full()?;
        let position = Position {
            page: self.number,
            offset: self.filling.len() as u16,
        };
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                self.turn_if_full()?;
                let room = CONTENT_BYTES - self.filling.len();
                let (now, later) = rest.split_at(rest.len().min(room));
                self.filling.extend_from_slice(now);
                rest = later;
            }
        }
        Ok(position)
    }

    /// Ends the page that is being filled, and gives all that are not in the file to a checkpoint.
    /// They stay in memory until [`written`](Self::written), which must come before the next cut.
    pub(super) fn cut(&mut self) -> Result<Option<Run>, String> {
        if !self.filling.is_empty() {
            self.turn()?;
        }
        self.cut = self.full.len();
        if self.cut == 0 {
            return Ok(None);
        }
        Ok(Some(Run {
            file: Arc::clone(&self.file),
            first: self.number - self.cut as u32,
            contents: self.full.iter().cloned().collect(),
        }))
    }

    /// What was cut is in the file.
    pub(super) fn written(&mut self) {
        self.full.drain(..self.cut);
        self.cut = 0;
    }

    /// Where the next bytes go.
    pub(super) const fn end(&self) -> Position {
        Position {
            page: self.number,
            offset: self.filling.len() as u16,
        }
    }

    /// Reads from here on. `None` when there is no such page.
    pub(super) fn read(&self, at: Position, wait: Wait) -> Result<Option<Reader<'_>>, StoreError> {
        let Some(content) = self.content(at.page, wait)? else {
            return Ok(None);
        };
        Ok(Some(Reader {
            pages: self,
            wait,
            number: at.page,
            content,
            offset: usize::from(at.offset),
        }))
    }

    fn turn_if_full(&mut self) -> Result<(), String> {
        if self.filling.len() >= CONTENT_BYTES {
            self.turn()?;
        }
        if self.filling.is_empty() {
            self.filling.reserve_exact(CONTENT_BYTES);
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), String> {
        self.number = self
            .number
            .checked_add(1)
            .ok_or("a bucket has four milliards of pages and takes no more")?;
        let page = std::mem::take(&mut self.filling);
        self.full.push_back(Arc::new(page));
        Ok(())
    }

    fn content(&self, number: u32, wait: Wait) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        let Some(before) = self.number.checked_sub(number) else {
            return Ok(None);
        };
        if before == 0 {
            return Ok(Some(Cow::Borrowed(&self.filling)));
        }
        if let Some(at) = self.full.len().checked_sub(before as usize) {
            return Ok(self.full.get(at).map(|page| Cow::Borrowed(&page[..])));
        }
        let page = self.file.read(number, wait)?;
        Ok(Some(Cow::Owned(page)))
    }
}

// === impl Run ===

impl Run {
    /// How many pages its file has with it.
    pub(super) fn end(&self) -> u32 {
        self.first + self.contents.len() as u32
    }

    /// Writes it behind what is in its file. Durable when it returns.
    pub(super) fn write(&self, memory: &mut Vec<u8>) -> io::Result<()> {
        let mut first = self.first;
        for contents in self.contents.chunks(PAGES_AT_ONCE) {
            memory.clear();
            for (number, content) in (first..).zip(contents) {
                let begin = memory.len();
                memory.extend_from_slice(&[0; 4]);
                // A page is never as long as that.
                memory.extend_from_slice(&(content.len() as u16).to_le_bytes());
                memory.extend_from_slice(content);
                memory.resize(begin + PAGE_BYTES, 0);
                let sum = self.file.sum(number, &memory[begin + 4..]);
                memory[begin..begin + 4].copy_from_slice(&sum);
            }
            super::disk::write_at(&self.file.file, memory, offset_of(first))?;
            // A little at a time, so that the log's syncs need not wait for much.
            self.file.file.sync_data()?;
            crate::kill_point!("checkpoint: some pages written, the next not");
            first += contents.len() as u32;
        }
        Ok(())
    }
}

// === impl Reader ===

impl Reader<'_> {
    /// The next `length` bytes. Grows with what is really there: `length` is not yet believed.
    pub(super) fn take(&mut self, length: usize) -> Result<Cow<'_, [u8]>, StoreError> {
        if length <= self.content.len().saturating_sub(self.offset) {
            let from = self.offset;
            self.offset += length;
            return Ok(Cow::Borrowed(&self.content[from..self.offset]));
        }
        let mut taken = Vec::new();
        while taken.len() < length {
            let rest = self.content.get(self.offset..).unwrap_or_default();
            let part = &rest[..rest.len().min(length - taken.len())];
            taken.extend_from_slice(part);
            self.offset += part.len();
            if taken.len() < length {
                self.turn()?;
            }
        }
        Ok(Cow::Owned(taken))
    }

    fn turn(&mut self) -> Result<(), StoreError> {
        let missing = || StoreError::Corrupt("it is cut off at the end of a page".to_owned());
        self.number = self.number.checked_add(1).ok_or_else(missing)?;
        self.content = self
            .pages
            .content(self.number, self.wait)?
            .filter(|content| !content.is_empty())
            .ok_or_else(missing)?;
        self.offset = 0;
        Ok(())
    }
}

const fn offset_of(page: u32) -> u64 {
    page as u64 * PAGE_BYTES as u64
}

#[cfg(unix)]
fn read_at(file: &File, memory: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, memory, offset)
}

#[cfg(not(unix))]
fn read_at(mut file: &File, memory: &mut [u8], offset: u64) -> io::Result<()> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(memory)
}

/// Reads what is in memory, or fails.
#[cfg(target_os = "linux")]
fn read_now(file: &File, memory: &mut [u8], offset: u64) -> io::Result<()> {
    let length = memory.len();
    let mut parts = [io::IoSliceMut::new(memory)];
    let now = rustix::io::ReadWriteFlags::NOWAIT;
    if rustix::io::preadv2(file, &mut parts, offset, now)? < length {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn read_now(_: &File, _: &mut [u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}

/// A block of the disk.
const PAGE_BYTES: usize = 4_096;
/// Checksum, length.
const HEAD_BYTES: usize = 6;
const CONTENT_BYTES: usize = PAGE_BYTES - HEAD_BYTES;
/// A quarter of a megabyte.
const PAGES_AT_ONCE: usize = 64;
