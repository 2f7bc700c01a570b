//! The file: a head, a group with everything that an opening has found, and a group for each one
//! that was written since.

use super::rows::Kept;
use crate::commit::{Group, SessionChange};
use crate::sled::log::{ALIGNMENT, Entry, GroupBytes, Note, group_at};
use crate::transaction::Table;
use crate::{Timestamp, codec};

/// Writes groups one after the other.
#[derive(Debug)]
pub(super) struct Log {
    salt: u64,
    number: u64,
}

/// Where the first group of a file begins: salt, incarnation and the last session lie before.
const HEAD_BYTES: usize = 24;

// === impl Log ===

impl Log {
    /// A file that begins with everything that is kept.
    pub(super) fn begin(kept: &Kept) -> Result<(Self, Vec<u8>), String> {
        let mut log = Self {
            salt: kept.incarnation,
            number: 0,
        };
        let mut entries = GroupBytes::default();
        entries.note(Note::Forgotten, kept.forgotten_until.as_millis());
        for (&session, row) in &kept.sessions {
            let scope = row.scope;
            entries.session(&SessionChange::Opened { session, scope });
            entries.session(&SessionChange::Raised {
                session,
                first_unanswered: row.first_unanswered,
            });
        }
        for (key, record) in &kept.records {
            entries.record(*key, record, None)?;
        }
        for (table, rows) in &kept.tables {
            for (key, value) in rows {
                entries.row(table, key, value.as_deref())?;
            }
        }
        let mut bytes = Vec::new();
        for number in [log.salt, kept.incarnation, kept.last_session] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&log.finish(entries)?);
        Ok((log, bytes))
    }

    /// Puts what a group changes behind what is there.
    pub(super) fn add(entries: &mut GroupBytes, group: &Group) -> Result<(), String> {
        for change in &group.changes {
            match &change.after {
                Some(record) => {
                    entries.record(change.key, record, None)?;
                }
                None => entries.removed(change.key),
            }
        }
        for change in &group.sessions {
            entries.session(change);
        }
        for (table, rows) in &group.rows {
            for (key, value) in rows {
                entries.row(table, key, value.as_deref())?;
            }
        }
        Ok(())
    }

    /// The bytes of the next group.
    pub(super) fn finish(&mut self, entries: GroupBytes) -> Result<Vec<u8>, String> {
        let number = self.number;
        self.number += 1;
        entries.finish(self.salt, number)
    }
}

/// What a file holds up to its torn end; `None` of one that is empty.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Kept>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let number = |at: usize| {
        let bytes = bytes
            .get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes).ok_or("the file has no head")
    };
    let (salt, incarnation, last_session) = (number(0)?, number(8)?, number(16)?);
    let mut kept = Kept {
        incarnation,
        last_session,
        ..Kept::default()
    };
    let (mut at, mut expected) = (HEAD_BYTES, 0);
    while let Some((number, range)) = group_at(bytes, at, salt) {
        if number != expected {
            return Err(format!("group {number} follows on group {expected}"));
        }
        expected += 1;
        at = range.end.next_multiple_of(ALIGNMENT);
        let mut entries = &bytes[range];
        while !entries.is_empty() {
            let (entry, rest) = Entry::first(entries)?;
            take_in(&mut kept, entry)?;
            entries = rest;
        }
    }
    if expected == 0 {
        return Err("what every opening makes durable is damaged".to_owned());
    }
    // A group is written when all before it are durable: behind a torn one there is none.
    for behind in (at..bytes.len()).step_by(ALIGNMENT) {
        if let Some((number, _)) = group_at(bytes, behind, salt) {
            return Err(format!("what lies before group {number} is damaged"));
        }
    }
    Ok(Some(kept))
}

fn take_in(kept: &mut Kept, entry: Entry<'_>) -> Result<(), String> {
    match entry {
        Entry::Note(Note::Forgotten, until) => {
            let until = Timestamp::from_millis(until);
            kept.forgotten_until = kept.forgotten_until.max(until);
        }
        // Answers lie in their records here, which are written again without them.
        Entry::Note(Note::AnswersGone | Note::Used, _) => {}
        Entry::Removed(key) => drop(kept.records.remove(&key)),
        Entry::Session(change) => kept.session(&change),
        Entry::Row { table, key, value } => {
            let table = Table::parse(table).map_err(|error| error.to_string())?;
            let rows = kept.tables.entry(table).or_default();
            let key = bytes::Bytes::copy_from_slice(key);
            match value {
                None => drop(rows.remove(&key)),
                Some(value) => {
                    let value = bytes::Bytes::copy_from_slice(value);
                    drop(rows.insert(key, Some(value)));
                }
            }
        }
        Entry::Record(key, bytes) => {
            let record = codec::decode(bytes).map_err(|error| error.to_string())?;
            kept.records.insert(key, record);
        }
        Entry::RecordAndAnswer(..) => {
            return Err("this store keeps answers in their records".to_owned());
        }
    }
    Ok(())
}
