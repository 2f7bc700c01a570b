//! Pages: many small frames in one value of the engine.
//!
//! An insert costs sled about eight microseconds of CPU whatever is in it, so what a group writes
//! to a tree is cut into pages of a few thousand bytes, not into one row a record. Above 4 KiB
//! sled would put values into files of their own, which it never syncs.
//!
//! ```text
//! key:    number of the page in its tree, from 0, big endian (4 bytes)
//! value:  CRC-32 of the number and the rest (4) | flags (1) | group (8) | at most 4,000 bytes
//! ```
//!
//! The bytes of one group in one tree are a run: they begin on a page of their own and go on over
//! the pages behind it. Numbers are little endian but in keys. A page is never changed.

use std::borrow::Cow;

use ::sled::{IVec, Tree};

use crate::StoreError;

/// A tree of pages, and what is not yet in it.
#[derive(Debug)]
pub(super) struct Pages {
    tree: Tree,
    /// The page that is being filled, with room for its head.
    number: u32,
    filling: Vec<u8>,
    /// Full pages before it that are not in the tree yet.
    full: Vec<Vec<u8>>,
    /// Whether the page that is being filled, or the first full one, begins a run.
    begins: bool,
}

/// Where something begins: the page, and the byte in its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) page: u32,
    pub(super) offset: u16,
}

/// A page as it lies in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageHead {
    /// Whether a run begins here.
    pub(super) begins: bool,
    /// Whether it is the last page that its group wrote, to any tree: the group is whole.
    pub(super) ends_group: bool,
    pub(super) group: u64,
}

/// Reads on over the end of a page.
pub(super) struct Reader<'a> {
    pages: &'a Pages,
    number: u32,
    content: Content<'a>,
    offset: usize,
}

enum Content<'a> {
    Filling(&'a [u8]),
    Stored(IVec),
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

// === impl Pages ===

impl Pages {
    /// The pages in `tree`, of which the next is `number`.
    pub(super) const fn new(tree: Tree, number: u32) -> Self {
        Self {
            tree,
            number,
            filling: Vec::new(),
            full: Vec::new(),
            begins: true,
        }
    }

    /// Puts bytes behind those that are there. They are in the tree after [`finish`](Self::finish).
    pub(super) fn append(&mut self, parts: &[&[u8]]) -> Result<Position, String> {
        self.turn_if_full()?;
        let position = Position {
            page: self.number,
            offset: (self.filling.len() - HEAD_BYTES) as u16,
        };
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                self.turn_if_full()?;
                let (now, later) = rest.split_at(rest.len().min(PAGE_BYTES - self.filling.len()));
                self.filling.extend_from_slice(now);
                rest = later;
            }
        }
        Ok(position)
    }

    /// Whether anything waits for [`finish`](Self::finish).
    pub(super) fn is_unfinished(&self) -> bool {
        !self.filling.is_empty() || !self.full.is_empty()
    }

    /// Puts the pages that are full into the tree. Answers how many bytes they have.
    pub(super) fn insert_full(&mut self, group: u64) -> Result<usize, String> {
        let bytes = self.full.len() * PAGE_BYTES;
        let first = self.number - self.full.len() as u32;
        for (number, mut page) in (first..).zip(std::mem::take(&mut self.full)) {
            self.insert(number, group, false, &mut page)?;
            crate::kill_point!("page: a full page written, its group not");
            self.begins = false;
        }
        Ok(bytes)
    }

    /// Puts everything into the tree, and begins a run with what comes next.
    pub(super) fn finish(&mut self, group: u64, ends_group: bool) -> Result<(), String> {
        self.insert_full(group)?;
        if self.filling.is_empty() {
            return Ok(());
        }
        let mut page = std::mem::take(&mut self.filling);
        self.insert(self.number, group, ends_group, &mut page)?;
        self.number = next(self.number)?;
        self.begins = true;
        // The memory is used again.
        page.clear();
        self.filling = page;
        Ok(())
    }

    /// Reads from here on. `None` when there is no such page.
    pub(super) fn read(&self, at: Position) -> Result<Option<Reader<'_>>, StoreError> {
        let Some(content) = self.content(at.page)? else {
            return Ok(None);
        };
        Ok(Some(Reader {
            pages: self,
            number: at.page,
            content,
            offset: usize::from(at.offset),
        }))
    }

    fn turn_if_full(&mut self) -> Result<(), String> {
        if self.filling.len() >= PAGE_BYTES {
            self.full.push(std::mem::take(&mut self.filling));
            self.number = next(self.number)?;
        }
        if self.filling.is_empty() {
            self.filling.reserve(PAGE_BYTES);
            self.filling.resize(HEAD_BYTES, 0);
        }
        Ok(())
    }

    fn insert(
        &self,
        number: u32,
        group: u64,
        ends_group: bool,
        page: &mut [u8],
    ) -> Result<(), String> {
        let head = PageHead {
            begins: self.begins,
            ends_group,
            group,
        };
        head.fill(number, page);
        self.tree
            .insert(number.to_be_bytes(), &*page)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    fn content(&self, number: u32) -> Result<Option<Content<'_>>, StoreError> {
        if number == self.number {
            return Ok(Some(Content::Filling(&self.filling)));
        }
        let full = self.full.len() as u32;
        if let Some(at) = (number + full).checked_sub(self.number)
            && let Some(page) = self.full.get(at as usize)
        {
            return Ok(Some(Content::Filling(page)));
        }
        let Some(value) = self
            .tree
            .get(number.to_be_bytes())
            .map_err(super::disk::unreadable)?
        else {
            return Ok(None);
        };
        PageHead::check(number, &value)
            .map_err(|damage| StoreError::Corrupt(format!("page {number}: {damage}")))?;
        Ok(Some(Content::Stored(value)))
    }
}

// === impl PageHead ===

impl PageHead {
    /// Writes the head into the place that was left for it.
    fn fill(self, number: u32, page: &mut [u8]) {
        page[4] = u8::from(self.begins) | u8::from(self.ends_group) << 1;
        page[5..HEAD_BYTES].copy_from_slice(&self.group.to_le_bytes());
        let sum = sum(number, &page[4..]);
        page[..4].copy_from_slice(&sum);
    }

    /// The head of a page, and its content.
    pub(super) fn check(number: u32, value: &[u8]) -> Result<(Self, &[u8]), String> {
        let (Some((sum_there, rest)), true) =
            (value.split_first_chunk::<4>(), value.len() >= HEAD_BYTES)
        else {
            return Err("it is shorter than its head".to_owned());
        };
        if *sum_there != sum(number, rest) {
            return Err("its checksum does not match".to_owned());
        }
        let flags = rest[0];
        if flags > 3 {
            return Err(format!("its flags {flags} are unknown"));
        }
        let mut group = [0; 8];
        group.copy_from_slice(&rest[1..9]);
        let head = Self {
            begins: flags & 1 != 0,
            ends_group: flags & 2 != 0,
            group: u64::from_le_bytes(group),
        };
        Ok((head, &rest[9..]))
    }
}

// === impl Reader ===

impl Reader<'_> {
    /// The next `length` bytes. Grows with what is really there: `length` is not yet believed.
    pub(super) fn take(&mut self, length: usize) -> Result<Cow<'_, [u8]>, StoreError> {
        if self.offset + length <= self.content.bytes().len() {
            let from = self.offset;
            self.offset += length;
            return Ok(Cow::Borrowed(&self.content.bytes()[from..self.offset]));
        }
        let mut taken = Vec::new();
        while taken.len() < length {
            let rest = self.content.bytes().get(self.offset..).unwrap_or_default();
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
            .content(self.number)?
            .filter(|content| !content.bytes().is_empty())
            .ok_or_else(missing)?;
        self.offset = 0;
        Ok(())
    }
}

impl Content<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Filling(page) => page.get(HEAD_BYTES..).unwrap_or_default(),
            Self::Stored(page) => &page[HEAD_BYTES..],
        }
    }
}

fn next(number: u32) -> Result<u32, String> {
    number
        .checked_add(1)
        .ok_or_else(|| "a bucket has four milliards of pages and takes no more".to_owned())
}

fn sum(number: u32, rest: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(rest);
    hasher.finalize().to_le_bytes()
}

/// Checksum, flags, group.
const HEAD_BYTES: usize = 13;

/// Below 4 KiB.
const PAGE_BYTES: usize = 4_013;
