//! What an opening finds in the log.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::entry::{ALIGNMENT, GROUP_HEAD_BYTES};
use super::files::{HEAD_BYTES, Head, bytes, name};
use super::{HEAD_BLOCK_BYTES, NEW_TURNS};
use crate::StoreId;

/// What is in the log of a store.
pub(in crate::sled) struct Groups {
    pub(in crate::sled) id: StoreId,
    /// The newest turn that has begun.
    pub(in crate::sled) turn: u64,
    /// Every group up to this one was in sled when that turn began.
    checkpoint: u64,
    /// Older first.
    files: Vec<Turn>,
}

/// One file.
struct Turn {
    name: String,
    bytes: Vec<u8>,
    /// The first group, and where the entries of each are.
    first: u64,
    groups: Vec<Range<usize>>,
}

/// Reads the log in `directory`. `Ok(None)` where there is none: a store that is new, or one whose
/// first opening crashed. Whether that can be is for the caller to know, as `known` tells: then
/// what is missing is an error.
pub(in crate::sled) fn read(directory: &Path, known: bool) -> io::Result<Option<Groups>> {
    understand([bytes(directory, 0)?, bytes(directory, 1)?], known)
}

/// The same of what is in the files; `None` for one that is empty or not there.
pub(in crate::sled) fn understand(
    files: [Option<Vec<u8>>; 2],
    known: bool,
) -> io::Result<Option<Groups>> {
    let damaged = |which: usize, what: &str| {
        let text = format!("the file {}: {what}", name(which));
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let mut found = Vec::new();
    let mut missing = None;
    for (which, bytes) in files.into_iter().enumerate() {
        // A power cut may have left a new file its length and not its head.
        match bytes.filter(|bytes| known || bytes.len() > HEAD_BYTES || Head::decode(bytes).is_ok())
        {
            Some(bytes) => {
                let head = Head::decode(&bytes).map_err(|what| damaged(which, &what))?;
                found.push((which, head, bytes));
            }
            None if known => return Err(damaged(which, "it is missing")),
            None => missing = Some(which),
        }
    }
    if let Some(missing) = missing {
        // The first heads are written before anything else is made, one after the other.
        let is_first = |(_, head, bytes): &(usize, Head, Vec<u8>)| {
            head.turn <= NEW_TURNS && bytes.len() <= HEAD_BYTES
        };
        return match found.iter().all(is_first) {
            true => Ok(None),
            false => Err(damaged(missing, "it is missing")),
        };
    }
    found.sort_by_key(|(_, head, _)| head.turn);
    let [(_, older, _), (which, newer, _)] = &found[..] else {
        return Ok(None);
    };
    if older.id != newer.id {
        return Err(damaged(*which, "it belongs to another store"));
    }
    if older.turn.checked_add(1) != Some(newer.turn) {
        return Err(damaged(*which, "its turn does not follow the other's"));
    }
    let (id, turn, checkpoint) = (newer.id, newer.turn, newer.checkpoint);
    let mut files = Vec::new();
    for (which, head, bytes) in found {
        let turn = Turn::read(&head, name(which), bytes).map_err(|what| damaged(which, &what))?;
        files.push(turn);
    }
    Ok(Some(Groups {
        id,
        turn,
        checkpoint,
        files,
    }))
}

// === impl Groups ===

impl Groups {
    /// Whether it is that of a store whose first opening was not finished.
    pub(in crate::sled) fn is_unused(&self) -> bool {
        self.turn <= NEW_TURNS && self.files.iter().all(|turn| turn.groups.is_empty())
    }

    /// The entries of every group after the one that sled has reached, in order, and the number of
    /// the last. Fails when sled or the log is known to have ended later than it does.
    pub(in crate::sled) fn after(&self, reached: u64) -> Result<(Vec<&[u8]>, u64), String> {
        if reached < self.checkpoint {
            return Err(format!(
                "it ends at group {reached}, and group {} had reached it: sled has dropped a \
                 damaged part of its log",
                self.checkpoint
            ));
        }
        let mut last = reached;
        let mut entries = Vec::new();
        for turn in &self.files {
            for (at, range) in turn.groups.iter().enumerate() {
                let number = turn.first + at as u64;
                if number <= reached {
                    continue;
                }
                if last.checked_add(1) != Some(number) {
                    return Err(format!(
                        "what follows on group {last} is missing before {}: what was acknowledged \
                         is damaged",
                        turn.name
                    ));
                }
                last = number;
                entries.push(&turn.bytes[range.clone()]);
            }
        }
        let written = self.files.iter().filter_map(Turn::last).max();
        if written.unwrap_or(0).max(self.checkpoint) < reached {
            return Err(format!(
                "the log ends before group {reached}, which is in sled: it is damaged, or an older \
                 copy"
            ));
        }
        Ok((entries, last))
    }
}

// === impl Turn ===

impl Turn {
    fn read(head: &Head, name: String, bytes: Vec<u8>) -> Result<Self, String> {
        let mut groups = Vec::new();
        let mut first = 0;
        let mut at = HEAD_BLOCK_BYTES;
        while let Some((number, entries)) = group_at(&bytes, at, head.salt) {
            if groups.is_empty() {
                first = number;
            } else if first.checked_add(groups.len() as u64) != Some(number) {
                break;
            }
            at = entries.end.next_multiple_of(ALIGNMENT);
            groups.push(entries);
        }
        // A group is written when all before it are durable: behind a torn one there is none.
        let mut behind = at;
        // Bytes that somebody has made for it could have a sum to be made at every step.
        let mut summed = 0;
        while behind + GROUP_HEAD_BYTES <= bytes.len() {
            summed += length_at(&bytes, behind, head.salt);
            if summed > SUMMED_FACTOR * bytes.len() {
                return Err(format!("no writer leaves what lies behind byte {at}"));
            }
            if let Some((number, _)) = group_at(&bytes, behind, head.salt) {
                return Err(format!(
                    "what lies before group {number}, at byte {at}, is damaged"
                ));
            }
            behind += ALIGNMENT;
        }
        Ok(Self {
            name,
            bytes,
            first,
            groups,
        })
    }

    fn last(&self) -> Option<u64> {
        let count = self.groups.len() as u64;
        (count > 0).then(|| self.first + (count - 1))
    }
}

/// How many bytes have to be summed to see whether a group begins here.
fn length_at(bytes: &[u8], at: usize, salt: u64) -> usize {
    let head = bytes.get(at..at + GROUP_HEAD_BYTES).unwrap_or_default();
    if head.get(8..16) != Some(&salt.to_le_bytes()[..]) {
        return 0;
    }
    let length = head.get(4..8).and_then(|length| length.try_into().ok());
    let length = length.map_or(0, u32::from_le_bytes) as usize;
    length.min(bytes.len())
}

/// The number and the entries of the group that begins here, if a whole one of this turn does.
pub(crate) fn group_at(bytes: &[u8], at: usize, salt: u64) -> Option<(u64, Range<usize>)> {
    let head = bytes.get(at..at + GROUP_HEAD_BYTES)?;
    if head[8..16] != salt.to_le_bytes() {
        return None;
    }
    let number = u64::from_le_bytes(head[16..24].try_into().ok()?);
    let length = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
    let begin = at + GROUP_HEAD_BYTES;
    let end = begin.checked_add(length)?;
    let summed = bytes.get(at + 4..end)?;
    let sum = u32::from_le_bytes(head[..4].try_into().ok()?);
    (crc32fast::hash(summed) == sum).then_some((number, begin..end))
}

/// How much is summed behind the end, as a multiple of the file. Of what our writer leaves there no
/// byte is summed twice.
const SUMMED_FACTOR: usize = 4;
