//! What the fuzzer needs of the parsers of a directory, which are private. No part of the public
//! API.

use super::frame::{self, Found, HEAD_BYTES, Kind};
use super::mark::Mark;

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

/// All that an opening finds on pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// In order.
    pub frames: Vec<Frame>,
    /// The number of the next page.
    pub next: u32,
    /// The last group that is whole.
    pub group: u64,
}

/// Reads rows as an opening reads those of a tree.
///
/// # Errors
///
/// In words, when the rows are not what a writer leaves there.
pub fn scan(rows: &[(Vec<u8>, Vec<u8>)]) -> Result<Frames, String> {
    let mut frames = Vec::new();
    let extent = frame::scan(rows.iter().map(|(key, value)| Ok((key, value))), |found| {
        let Found { kind, at, body, .. } = found;
        frames.push(Frame {
            kind: kind.number(),
            page: at.page,
            offset: at.offset,
            body: body.to_vec(),
        });
        Ok(())
    });
    let extent = extent.map_err(|cause| cause.to_string())?;
    Ok(Frames {
        frames,
        next: extent.next,
        group: extent.group,
    })
}

/// A frame with its head; `None` where there is no such kind.
pub fn frame(kind: u8, body: &[u8]) -> Option<Vec<u8>> {
    let mut head = [0; HEAD_BYTES];
    head[0] = kind;
    let (kind, _) = Kind::of(&head).ok()?;
    let head = kind.head(body.len()).ok()?;
    Some([&head, body].concat())
}

/// The value of a page, with its checksum.
pub fn page(number: u32, flags: u8, group: u64, content: &[u8]) -> Vec<u8> {
    let mut value = vec![flags];
    value.extend_from_slice(&group.to_le_bytes());
    value.extend_from_slice(content);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(&value);
    [&hasher.finalize().to_le_bytes()[..], &value].concat()
}

/// Reads the bytes of the file MARK and writes them again; `None` where none was written yet.
///
/// # Errors
///
/// In words, when they are not a mark that this version reads.
pub fn mark(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mark = Mark::decode(bytes).map_err(|error| error.to_string())?;
    Ok(mark.map(|mark| mark.encode().to_vec()))
}
