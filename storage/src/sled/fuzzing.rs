//! What the fuzzer needs of the parsers of a directory, which are private. No part of the public
//! API.

use std::fs::{self, File};
use std::io::{self, Write as _};

use super::disk::bring;
use super::frame::{self, Found, HEAD_BYTES, Kind};
use super::log::{self, Entry, GroupBytes, Head, Note};
use super::page::PageFile;
use crate::commit::SessionChange;
use crate::record::Record;
use crate::transaction::Table;
use crate::{KeyDigest, ScopeDigest, StoreId, codec};

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

/// What an opening finds in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLog {
    /// Whose log it is.
    pub id: [u8; 16],
    /// The last group that there is.
    pub last: u64,
    /// The entries of each group that the opening takes in.
    pub groups: Vec<Vec<u8>>,
}

/// Reads a file `name` with these `bytes` as an opening does, of which `pages` pages count.
///
/// # Errors
///
/// In words, when they are not what a writer leaves there.
pub fn scan(name: &str, bytes: &[u8], pages: u32) -> Result<Vec<Frame>, String> {
    let file = file_of(bytes).map_err(|error| error.to_string())?;
    let file = PageFile::of(name.to_owned(), file);
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
#[must_use]
pub fn frame(kind: u8, body: &[u8]) -> Option<Vec<u8>> {
    let mut head = [0; HEAD_BYTES];
    head[0] = kind;
    let (kind, _) = Kind::of(&head).ok()?;
    let head = kind.head(body.len()).ok()?;
    Some([&head, body].concat())
}

/// What an opening makes of a log whose files have these bytes, when sled has reached a group.
/// `known`: sled says that there is a store.
///
/// # Errors
///
/// In words, when the log is damaged or ends too early.
pub fn log(
    files: [Option<Vec<u8>>; 2],
    known: bool,
    reached: u64,
) -> Result<Option<FoundLog>, String> {
    let files = files.map(|bytes| bytes.filter(|bytes| !bytes.is_empty()));
    let groups = log::understand(files, known).map_err(|error| error.to_string())?;
    let Some(groups) = groups else {
        return Ok(None);
    };
    let (entries, last) = groups.after(reached)?;
    Ok(Some(FoundLog {
        id: *groups.id.as_bytes(),
        last,
        groups: entries.iter().map(|entries| entries.to_vec()).collect(),
    }))
}

/// Reads the entries of a group as an opening does; each as it would be written again.
///
/// # Errors
///
/// In words, when they are not what a writer leaves there.
pub fn entries(mut group: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let decode = |bytes: &[u8]| codec::decode(bytes).map_err(|error| error.to_string());
    let mut entries = Vec::new();
    while !group.is_empty() {
        let (entry, rest) = Entry::first(group)?;
        let mut again = GroupBytes::default();
        group = rest;
        match entry {
            Entry::Note(note, time) => again.note(note, time),
            Entry::Removed(key) => again.removed(key),
            Entry::Session(change) => again.session(&change),
            Entry::Row { table, key, value } => {
                let table = Table::parse(table).map_err(|error| error.to_string())?;
                again.row(&table, key, value)?;
            }
            Entry::Record(key, bytes) => {
                again.record(key, &decode(bytes)?, None)?;
            }
            Entry::RecordAndAnswer(key, bytes, _) => {
                let record = decode(bytes)?;
                let mut with_answer = record.clone();
                group = bring(&mut with_answer, rest)?;
                let answer = &rest[..rest.len() - group.len()];
                again.record(key, &record, Some(answer))?;
            }
        }
        entries.push(entries_of(again)?);
    }
    Ok(entries)
}

/// The head of a file of the log, as a writer makes it.
#[must_use]
pub fn log_head(id: [u8; 16], turn: u64, checkpoint: u64, salt: u64) -> Vec<u8> {
    let head = Head {
        id: StoreId::from_bytes(id),
        turn,
        checkpoint,
        salt,
    };
    head.encode().to_vec()
}

/// The entries of a group with one of each kind, as a writer makes them.
///
/// # Panics
///
/// When a record or the answer has 4 GiB.
#[must_use]
pub fn log_entries(sealed: &Record, completed: &Record, answer: &[u8]) -> Vec<u8> {
    let key = KeyDigest::from_bytes([0x4b; 32]);
    let mut group = GroupBytes::default();
    group.note(Note::Used, 1_700_000_000_000);
    group.note(Note::Forgotten, 1_700_000_000_001);
    group.note(Note::AnswersGone, 1_700_000_000_002);
    let written = group.record(key, sealed, None);
    let written = written.and_then(|_| group.record(key, completed, Some(answer)));
    written.expect("they are short");
    group.removed(key);
    let (session, scope) = (7, ScopeDigest::from_bytes([0x5c; 32]));
    for change in [
        SessionChange::Opened { session, scope },
        SessionChange::Raised {
            session,
            first_unanswered: 300,
        },
        SessionChange::Ended { session },
    ] {
        group.session(&change);
    }
    entries_of(group).expect("they are short")
}

/// What CRC-32 gives for these parts together.
#[must_use]
pub fn crc32(parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_le_bytes()
}

fn entries_of(group: GroupBytes) -> Result<Vec<u8>, String> {
    let made = group.finish(0, 0)?;
    let length = u32::from_le_bytes([made[4], made[5], made[6], made[7]]) as usize;
    Ok(made[24..24 + length].to_vec())
}

/// A file that nobody else sees.
fn file_of(bytes: &[u8]) -> io::Result<File> {
    let name = u128::from_le_bytes(*StoreId::random().as_bytes());
    let path = std::env::temp_dir().join(format!("onlyonce-fuzzing-{name:032x}"));
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    fs::remove_file(path)?;
    file.write_all(bytes)?;
    Ok(file)
}
