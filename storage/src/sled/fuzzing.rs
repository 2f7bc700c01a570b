//! What the fuzzer needs of the parsers of a directory, which are private. No part of the public
//! API.

use std::path::Path;

use super::frame::{self, Found, HEAD_BYTES, Kind};
use super::log::{self, Entry};
use super::page::PageFile;
use crate::StoreId;

/// A frame as an opening finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The first byte of its head.
    pub kind: u8,
    /// The page that it begins on.
    pub page: u32,
    /// The byte of that page's content.
    pub offset: u16,
    /// What follows its head.
    pub body: Vec<u8>,
}

/// Reads the file `name` in `folder` as an opening does, of which `pages` pages count.
///
/// # Errors
///
/// In words, when they are not what a writer leaves there.
pub fn scan(folder: &Path, name: &str, pages: u32) -> Result<Vec<Frame>, String> {
    let file = PageFile::open(folder, name.to_owned()).map_err(|error| error.to_string())?;
    let mut frames = Vec::new();
    let scanned = frame::scan(&file, pages, |found| {
        let Found { kind, at, body } = found;
        frames.push(Frame {
            kind: kind.number(),
            page: at.page,
            offset: at.offset,
            body: body.to_vec(),
        });
        Ok(())
    });
    scanned.map_err(|error| error.to_string())?;
    Ok(frames)
}

/// A frame with its head; `None` where there is no such kind.
pub fn frame(kind: u8, body: &[u8]) -> Option<Vec<u8>> {
    let mut head = [0; HEAD_BYTES];
    head[0] = kind;
    let (kind, _) = Kind::of(&head).ok()?;
    let head = kind.head(body.len()).ok()?;
    Some([&head, body].concat())
}

/// Puts the right checksum into a page of the file `name`.
pub fn reseal_page(name: &str, number: u32, page: &mut [u8]) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(&number.to_le_bytes());
    if let Some((sum, rest)) = page.split_first_chunk_mut::<4>() {
        hasher.update(rest);
        *sum = hasher.finalize().to_le_bytes();
    }
}

/// What an opening makes of the log in `folder`, when sled has reached a group: the last group, and
/// how many entries it takes in.
///
/// # Errors
///
/// In words, when the log is damaged or ends too early.
pub fn log(folder: &Path, known: bool, reached: u64) -> Result<Option<(StoreId, u64, u64)>, String> {
    let Some(groups) = log::read(folder, known).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let (after, last) = groups.after(reached)?;
    let mut count = 0;
    for mut entries in after {
        while !entries.is_empty() {
            let (entry, rest) = Entry::first(entries)?;
            count += 1;
            // The length of an answer is in the record, which is another parser's.
            if matches!(entry, Entry::RecordAndAnswer(..)) {
                break;
            }
            entries = rest;
        }
    }
    Ok(Some((groups.id, last, count)))
}
