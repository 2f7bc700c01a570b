//! Pages: many small frames in one value of the engine.
//!
//! An insert costs sled about eight microseconds of CPU whatever is in it, so what goes to a tree
//! is cut into pages of a few thousand bytes, not into one row a record. Above 4 KiB sled would put
//! values into files of their own, which it never syncs.
//!
//! ```text
//! key:    number of the page in its tree, from 0, big endian (4 bytes)
//! value:  CRC-32 of the number and the rest (4) | checkpoint (8) | at most 4,000 bytes of frames
//! ```
//!
//! Numbers are little endian but in keys. A page is never changed. Frames go on over the end of a
//! page, but not over the end of a checkpoint, whose last page is as long as it happens to be. A
//! page of a checkpoint that was not finished says nothing: an opening removes it.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use ::sled::{IVec, Tree};

use crate::StoreError;

/// A tree of pages, and what is not yet in it.
#[derive(Debug)]
pub(super) struct Pages {
    tree: Tree,
    /// The page that is being filled.
    number: u32,
    filling: Vec<u8>,
    /// Full pages before it that may not be in the tree yet.
    full: VecDeque<Arc<Vec<u8>>>,
    /// How many of them belong to the last cut.
    cut: usize,
}

/// A page that is on its way to its tree.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) tree: Tree,
    pub(super) number: u32,
    pub(super) content: Arc<Vec<u8>>,
}

/// Where something begins: the page, and the byte in its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) page: u32,
    pub(super) offset: u16,
}

/// Reads on over the end of a page.
pub(super) struct Reader<'a> {
    pages: &'a Pages,
    number: u32,
    content: Content<'a>,
    offset: usize,
}

enum Content<'a> {
    Memory(&'a [u8]),
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
            full: VecDeque::new(),
            cut: 0,
        }
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

    /// Ends the page that is being filled, and gives all that are not in the tree to a checkpoint.
    /// They stay in memory until [`written`](Self::written), which must come before the next cut.
    pub(super) fn cut(&mut self) -> Result<impl Iterator<Item = Page>, String> {
        if !self.filling.is_empty() {
            self.turn()?;
        }
        self.cut = self.full.len();
        let first = self.number - self.full.len() as u32;
        Ok((first..).zip(&self.full).map(|(number, content)| Page {
            tree: self.tree.clone(),
            number,
            content: Arc::clone(content),
        }))
    }

    /// What was cut is in the tree.
    pub(super) fn written(&mut self) {
        self.full.drain(..self.cut);
        self.cut = 0;
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

    fn content(&self, number: u32) -> Result<Option<Content<'_>>, StoreError> {
        if number == self.number {
            return Ok(Some(Content::Memory(&self.filling)));
        }
        let full = self.full.len() as u32;
        if let Some(at) = (number + full).checked_sub(self.number)
            && let Some(page) = self.full.get(at as usize)
        {
            return Ok(Some(Content::Memory(page)));
        }
        let Some(value) = self
            .tree
            .get(number.to_be_bytes())
            .map_err(super::disk::unreadable)?
        else {
            return Ok(None);
        };
        check(number, &value)
            .map_err(|damage| StoreError::Corrupt(format!("page {number}: {damage}")))?;
        Ok(Some(Content::Stored(value)))
    }
}

// === impl Page ===

impl Page {
    /// Puts it into its tree; `memory` is overwritten. Answers how many bytes that were.
    pub(super) fn insert(&self, checkpoint: u64, memory: &mut Vec<u8>) -> Result<usize, String> {
        memory.clear();
        memory.extend_from_slice(&[0; 4]);
        memory.extend_from_slice(&checkpoint.to_le_bytes());
        memory.extend_from_slice(&self.content);
        let sum = sum(self.number, &memory[4..]);
        memory[..4].copy_from_slice(&sum);
        let inserted = self.tree.insert(self.number.to_be_bytes(), &**memory);
        inserted
            .map(|_| memory.len())
            .map_err(|error| error.to_string())
    }
}

/// The checkpoint of a page as it lies in the tree, and its content.
pub(super) fn check(number: u32, value: &[u8]) -> Result<(u64, &[u8]), String> {
    let Some((sum_there, rest)) = value.split_first_chunk::<4>() else {
        return Err("it is shorter than its head".to_owned());
    };
    let Some((checkpoint, content)) = rest.split_first_chunk::<8>() else {
        return Err("it is shorter than its head".to_owned());
    };
    if *sum_there != sum(number, rest) {
        return Err("its checksum does not match".to_owned());
    }
    Ok((u64::from_le_bytes(*checkpoint), content))
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
            Self::Memory(page) => page,
            // It was checked, so its head is there.
            Self::Stored(page) => page.get(HEAD_BYTES..).unwrap_or_default(),
        }
    }
}

fn sum(number: u32, rest: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(rest);
    hasher.finalize().to_le_bytes()
}

/// Checksum, checkpoint.
const HEAD_BYTES: usize = 12;

/// With the head below 4 KiB.
const CONTENT_BYTES: usize = 4_000;
