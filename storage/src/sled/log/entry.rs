//! Entries of a group: what changed, in the order in which it did.

use std::ops::Range;

use crate::commit::SessionChange;
use crate::record::Record;
use crate::transaction::Table;
use crate::{KeyDigest, ScopeDigest, codec};

/// What one entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    Note(Note, u64),
    /// The record of a key, in the crate's codec, and the rest of the group: the answer that
    /// follows, as long as the record says.
    RecordAndAnswer(KeyDigest, &'a [u8], &'a [u8]),
    /// The record of a key, whose answer (if any) lies where it lay before.
    Record(KeyDigest, &'a [u8]),
    Removed(KeyDigest),
    Session(SessionChange),
    /// What a row of a handlers' table holds, or that it is gone.
    Row {
        table: &'a str,
        key: &'a [u8],
        value: Option<&'a [u8]>,
    },
}

/// What a time means. The latest that is noted counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// The store was in use.
    Used,
    /// Calls first sent at or before are forgotten.
    Forgotten,
    /// Answers settled before are gone.
    AnswersGone,
}

/// The bytes of a group in the making.
#[derive(Debug, Default)]
pub(crate) struct GroupBytes {
    bytes: Vec<u8>,
}

// === impl GroupBytes ===

impl GroupBytes {
    /// An empty group in this memory.
    pub(crate) fn in_memory(mut memory: Vec<u8>) -> Self {
        memory.clear();
        // What a group of large answers needed is not kept for ever.
        memory.shrink_to(MEMORY_KEPT_MAX);
        Self { bytes: memory }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn note(&mut self, note: Note, time: u64) {
        self.begin(4);
        self.bytes.push(note.number());
        self.bytes.extend_from_slice(&time.to_le_bytes());
    }

    /// Puts a record there, and the answer that comes with it. Answers where its bytes are.
    pub(crate) fn record(
        &mut self,
        key: KeyDigest,
        record: &Record,
        answer: Option<&[u8]>,
    ) -> Result<Range<usize>, String> {
        self.begin(if answer.is_some() { 2 } else { 1 });
        self.bytes.extend_from_slice(key.as_bytes());
        let length_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let begin = self.bytes.len();
        codec::encode_into(record, &mut self.bytes);
        let end = self.bytes.len();
        let length = u32::try_from(end - begin).map_err(|_| "a record has less than 4 GiB")?;
        self.bytes[length_at..begin].copy_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(answer.unwrap_or_default());
        Ok(begin..end)
    }

    pub(crate) fn at(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    pub(crate) fn removed(&mut self, key: KeyDigest) {
        self.begin(3);
        self.bytes.extend_from_slice(key.as_bytes());
    }

    pub(crate) fn session(&mut self, change: &SessionChange) {
        match change {
            SessionChange::Opened { session, scope } => {
                self.begin(5);
                self.bytes.extend_from_slice(&session.to_le_bytes());
                self.bytes.extend_from_slice(scope.as_bytes());
            }
            SessionChange::Raised {
                session,
                first_unanswered,
            } => {
                self.begin(6);
                self.bytes.extend_from_slice(&session.to_le_bytes());
                self.bytes
                    .extend_from_slice(&first_unanswered.to_le_bytes());
            }
            SessionChange::Ended { session } => {
                self.begin(7);
                self.bytes.extend_from_slice(&session.to_le_bytes());
            }
        }
    }

    /// Puts a row of a handlers' table there, or says that it is gone.
    pub(crate) fn row(
        &mut self,
        table: &Table,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), String> {
        self.begin(if value.is_some() { 8 } else { 9 });
        let name = table.name().as_bytes();
        let name_length = u8::try_from(name.len()).map_err(|_| "a table has a short name")?;
        let key_length = u16::try_from(key.len()).map_err(|_| "a row has a short key")?;
        self.bytes.push(name_length);
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(&key_length.to_le_bytes());
        self.bytes.extend_from_slice(key);
        if let Some(value) = value {
            let length = u32::try_from(value.len()).map_err(|_| "a row has a small value")?;
            self.bytes.extend_from_slice(&length.to_le_bytes());
            self.bytes.extend_from_slice(value);
        }
        Ok(())
    }

    /// The group as it is written.
    pub(crate) fn finish(self, salt: u64, number: u64) -> Result<Vec<u8>, String> {
        let mut bytes = self.bytes;
        let length = bytes.len() - GROUP_HEAD_BYTES;
        let length = u32::try_from(length).map_err(|_| "a group has less than 4 GiB")?;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[8..16].copy_from_slice(&salt.to_le_bytes());
        bytes[16..24].copy_from_slice(&number.to_le_bytes());
        let sum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        Ok(bytes)
    }

    fn begin(&mut self, kind: u8) {
        if self.bytes.is_empty() {
            // Room for its head.
            self.bytes.resize(GROUP_HEAD_BYTES, 0);
        }
        self.bytes.push(kind);
    }
}

// === impl Entry ===

impl<'a> Entry<'a> {
    /// The first entry of these bytes, and what follows. Of one with an answer the caller takes
    /// the answer from what follows.
    pub(crate) fn first(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), String> {
        let cut = || "an entry is cut off".to_owned();
        let (&kind, rest) = bytes.split_first().ok_or_else(cut)?;
        if kind == 4 {
            let (&what, rest) = rest.split_first().ok_or_else(cut)?;
            let (time, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
            let note = Note::of(what).ok_or_else(|| format!("note {what} is unknown"))?;
            return Ok((Self::Note(note, u64::from_le_bytes(*time)), rest));
        }
        if let 5..=7 = kind {
            let (session, rest) = number(rest).ok_or_else(cut)?;
            let (change, rest) = match kind {
                5 => {
                    let (scope, rest) = rest.split_first_chunk::<32>().ok_or_else(cut)?;
                    let scope = ScopeDigest::from_bytes(*scope);
                    (SessionChange::Opened { session, scope }, rest)
                }
                6 => {
                    let (first_unanswered, rest) = number(rest).ok_or_else(cut)?;
                    let change = SessionChange::Raised {
                        session,
                        first_unanswered,
                    };
                    (change, rest)
                }
                _ => (SessionChange::Ended { session }, rest),
            };
            return Ok((Self::Session(change), rest));
        }
        if kind == 8 || kind == 9 {
            return Self::row(rest, kind == 8).ok_or_else(cut);
        }
        let (key, rest) = rest.split_first_chunk::<32>().ok_or_else(cut)?;
        let key = KeyDigest::from_bytes(*key);
        if kind == 3 {
            return Ok((Self::Removed(key), rest));
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (record, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        match kind {
            1 => Ok((Self::Record(key, record), rest)),
            2 => Ok((Self::RecordAndAnswer(key, record, rest), rest)),
            other => Err(format!("entry kind {other} is unknown")),
        }
    }
}

impl<'a> Entry<'a> {
    /// `None` where it is cut off, or no text.
    fn row(bytes: &'a [u8], has_value: bool) -> Option<(Self, &'a [u8])> {
        let (&length, rest) = bytes.split_first()?;
        let (table, rest) = rest.split_at_checked(usize::from(length))?;
        let table = std::str::from_utf8(table).ok()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        if !has_value {
            let value = None;
            return Some((Self::Row { table, key, value }, rest));
        }
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let value = Some(value);
        Some((Self::Row { table, key, value }, rest))
    }
}

// === impl Note ===

impl Note {
    const fn number(self) -> u8 {
        match self {
            Self::Used => 1,
            Self::Forgotten => 2,
            Self::AnswersGone => 3,
        }
    }

    const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Used),
            2 => Some(Self::Forgotten),
            3 => Some(Self::AnswersGone),
            _ => None,
        }
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

/// Checksum, length, salt, number.
pub(super) const GROUP_HEAD_BYTES: usize = 24;

/// Where a group can begin.
pub(crate) const ALIGNMENT: usize = 8;

const MEMORY_KEPT_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table::new("seats");

    #[test]
    fn a_row_has_these_bytes_and_is_read_from_them() {
        let mut group = GroupBytes::default();
        group.row(&TABLE, b"12a", Some(b"alice")).unwrap();
        group.row(&TABLE, b"12b", None).unwrap();
        let bytes = &group.bytes[GROUP_HEAD_BYTES..];
        assert_eq!(
            bytes,
            b"\x08\x05seats\x03\x0012a\x05\0\0\0alice\x09\x05seats\x03\x0012b"
        );
        let row = |key, value| Entry::Row {
            table: "seats",
            key,
            value,
        };
        let (first, rest) = Entry::first(bytes).unwrap();
        assert_eq!(first, row(b"12a", Some(&b"alice"[..])));
        let (second, rest) = Entry::first(rest).unwrap();
        assert_eq!(second, row(b"12b", None));
        assert_eq!(rest, b"");
    }

    #[test]
    fn a_row_that_is_cut_off_anywhere_is_an_error() {
        let mut group = GroupBytes::default();
        group.row(&TABLE, b"12a", Some(b"alice")).unwrap();
        let bytes = &group.bytes[GROUP_HEAD_BYTES..];
        for length in 0..bytes.len() {
            assert!(Entry::first(&bytes[..length]).is_err(), "{length}");
        }
    }
}
