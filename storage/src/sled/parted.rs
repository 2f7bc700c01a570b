//! Records that are too large for one row of the tree of open calls: those with a large journal.
//!
//! ```text
//! key:    key digest (32)                                 value:  255 | generation (8) | parts (4)
//! key:    key digest (32) | generation, big endian (8)    value:  a part of the record, at most
//!         | number from 0, big endian (4)                         4,000 bytes
//! ```
//!
//! In a value numbers are little endian. The parts of a generation are written before the row that names
//! it, and those of the one before it are removed behind that: whatever a crash leaves, the parts which
//! a row names are all there. Others are removed when they are found.

use ::sled::{IVec, Tree};
use hashbrown::HashMap;

use super::cause::Cause;
use super::disk::keyed;
use crate::record::Record;
use crate::{KeyDigest, codec};

/// What the tree of open calls holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) calls: HashMap<KeyDigest, FoundCall>,
    /// Parts that no row names.
    pub(super) left: Vec<PartRow>,
    /// The largest generation that was ever seen.
    pub(super) generation: u64,
}

/// An open call as it is found.
#[derive(Debug)]
pub(super) struct FoundCall {
    pub(super) record: Record,
    /// Where its record is in parts, which.
    pub(super) parts: Option<Parts>,
    /// How many parts its answer has.
    pub(super) answer_parts: u32,
}

/// The parts of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Never the same twice.
    pub(super) generation: u64,
    pub(super) count: u32,
}

/// The row of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PartRow {
    // Field order is the order of the tree.
    pub(super) key: KeyDigest,
    pub(super) generation: u64,
    pub(super) part: u32,
}

/// The rows of one call, as they come.
struct Reading {
    key: KeyDigest,
    head: Option<Head>,
    answer_parts: u32,
}

enum Head {
    Parted {
        parts: Parts,
        bytes: Vec<u8>,
        read: u32,
    },
    Whole(Record),
}

/// What a row is.
enum Row {
    AnswerPart(u32),
    Head,
    RecordPart(u64, u32),
}

/// Reads what the tree holds, with `sync` now and then: reading makes sled write nodes again that were
/// changed often.
pub(super) fn read(
    tree: &Tree,
    mut sync: impl FnMut() -> Result<(), Cause>,
) -> Result<Found, Cause> {
    let mut found = Found::default();
    let mut reading: Option<Reading> = None;
    let mut read = 0;
    for row in tree {
        let (row, value) = row?;
        let (key, row_kind) = row_of(&row)?;
        read += row.len() + value.len();
        if read >= READ_BYTES_MAX {
            read = 0;
            sync()?;
        }
        // All rows of a key follow each other.
        if let Some(before) = reading.take_if(|reading| reading.key != key) {
            found.add(before)?;
        }
        let reading = reading.get_or_insert_with(|| Reading::of(key));
        match row_kind {
            Row::Head => reading.head = Some(Head::read(&value)?),
            Row::AnswerPart(part) => reading.answer_part(part)?,
            Row::RecordPart(generation, part) => {
                found.generation = found.generation.max(generation);
                if !reading.record_part(generation, part, &value)? {
                    found.left.push(PartRow {
                        key,
                        generation,
                        part,
                    });
                }
            }
        }
    }
    if let Some(last) = reading {
        found.add(last)?;
    }
    Ok(found)
}

// === impl Found ===

impl Found {
    fn add(&mut self, reading: Reading) -> Result<(), Cause> {
        let Reading {
            key,
            head,
            answer_parts,
        } = reading;
        let damaged = |damage| format!("the row of an open call: {damage}");
        let (record, parts) = match head {
            // A crash before the row that was to name its parts.
            None => return Ok(()),
            Some(Head::Whole(record)) => (record, None),
            Some(Head::Parted { parts, bytes, read }) => {
                if read != parts.count {
                    return Err(format!("part {read} of an open call's record is missing").into());
                }
                let record = codec::decode(&bytes).map_err(damaged)?;
                self.generation = self.generation.max(parts.generation);
                (record, Some(parts))
            }
        };
        let call = FoundCall {
            record,
            parts,
            answer_parts,
        };
        self.calls.insert(key, call);
        Ok(())
    }
}

// === impl Reading ===

impl Reading {
    const fn of(key: KeyDigest) -> Self {
        Self {
            key,
            head: None,
            answer_parts: 0,
        }
    }

    fn answer_part(&mut self, part: u32) -> Result<(), Cause> {
        if self.head.is_none() {
            return Err("a part of an answer lies without its record".into());
        }
        // Rows are in order.
        if part != self.answer_parts {
            let missing = self.answer_parts;
            return Err(format!("part {missing} of an open call's answer is missing").into());
        }
        self.answer_parts += 1;
        Ok(())
    }

    /// Whether the part is one that the call's row names.
    fn record_part(&mut self, generation: u64, part: u32, value: &[u8]) -> Result<bool, Cause> {
        let Some(Head::Parted { parts, bytes, read }) = &mut self.head else {
            return Ok(false);
        };
        if generation != parts.generation {
            return Ok(false);
        }
        if part != *read || part >= parts.count {
            return Err(format!("part {read} of an open call's record is missing").into());
        }
        bytes.extend_from_slice(value);
        *read += 1;
        Ok(true)
    }
}

// === impl Head ===

impl Head {
    fn read(value: &[u8]) -> Result<Self, Cause> {
        let Some(parts) = Parts::named_in(value)? else {
            let record = codec::decode(value);
            let record = record.map_err(|damage| format!("the row of an open call: {damage}"))?;
            return Ok(Self::Whole(record));
        };
        let (bytes, read) = (Vec::new(), 0);
        Ok(Self::Parted { parts, bytes, read })
    }
}

// === impl Parts ===

impl Parts {
    /// The row that names them.
    pub(super) fn head(self) -> Vec<u8> {
        let mut head = vec![PARTED];
        head.extend_from_slice(&self.generation.to_le_bytes());
        head.extend_from_slice(&self.count.to_le_bytes());
        head
    }

    /// Their rows.
    pub(super) fn rows(self, key: KeyDigest) -> impl Iterator<Item = PartRow> {
        let generation = self.generation;
        (0..self.count).map(move |part| PartRow {
            key,
            generation,
            part,
        })
    }

    /// What a row names; `None` where it is a record.
    fn named_in(value: &[u8]) -> Result<Option<Self>, Cause> {
        let Some((&PARTED, rest)) = value.split_first() else {
            return Ok(None);
        };
        let head = rest.split_first_chunk::<8>();
        let head = head.and_then(|(generation, count)| Some((generation, count.try_into().ok()?)));
        let (generation, count) = head.ok_or("the row of an open call's parts has not 13 bytes")?;
        Ok(Some(Self {
            generation: u64::from_le_bytes(*generation),
            count: u32::from_le_bytes(count),
        }))
    }
}

// === impl PartRow ===

impl PartRow {
    pub(super) fn bytes(self) -> IVec {
        let mut row = [0; 44];
        row[..32].copy_from_slice(self.key.as_bytes());
        row[32..40].copy_from_slice(&self.generation.to_be_bytes());
        row[40..].copy_from_slice(&self.part.to_be_bytes());
        IVec::from(&row[..])
    }
}

fn row_of(row: &[u8]) -> Result<(KeyDigest, Row), String> {
    let (key, part) = keyed(row)?;
    let other = || "the row of an open call has another key";
    if part.is_empty() {
        return Ok((key, Row::Head));
    }
    if let Ok(part) = <[u8; 4]>::try_from(part) {
        return Ok((key, Row::AnswerPart(u32::from_be_bytes(part))));
    }
    let (generation, part) = part.split_first_chunk::<8>().ok_or_else(other)?;
    let part = part.try_into().map_err(|_| other())?;
    let generation = u64::from_be_bytes(*generation);
    Ok((key, Row::RecordPart(generation, u32::from_be_bytes(part))))
}

/// Where a record would begin with the number of its format: no version has one of this number, and one
/// that knows nothing of parts says so.
const PARTED: u8 = 255;

/// What is read between two syncs; what sled writes for that is about twice as much.
const READ_BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use ::sled::Db;
    use bytes::Bytes;

    use super::*;
    use crate::journal::Step;
    use crate::record::{CallRecord, State};
    use crate::sled::open_rows::OpenRows;
    use crate::{
        AttemptId, CallJournal, FencingToken, Fingerprint, FingerprintAlgorithm, IdempotencyKey,
        Lease, Scope, ScopedKey, StepName, Timestamp,
    };

    const KEY: KeyDigest = KeyDigest::from_bytes([0x4b; 32]);

    fn database() -> Db {
        let config = ::sled::Config::new().temporary(true).flush_every_ms(None);
        config.open().unwrap()
    }

    /// A call in progress, with a request of so many bytes of this value.
    fn journaled(length: usize, value: u8) -> Record {
        let step = Step::done(StepName::parse("reserve").unwrap(), Bytes::from("seat 12a"));
        let journal = CallJournal::with_steps(Bytes::from(vec![value; length]), vec![step]);
        Record::Call(CallRecord {
            journal: Some(Box::new(journal)),
            key: ScopedKey::new(
                Scope::global(),
                IdempotencyKey::parse("order-4711").unwrap(),
            ),
            fingerprint: Fingerprint::builder(FingerprintAlgorithm::new(1)).finish(),
            token: FencingToken::new(2, 3),
            attempt: AttemptId::from_bytes([3; 16]),
            claimed_at: Timestamp::from_millis(1_700_000_000_000),
            first_sent: None,
            session: None,
            retention: None,
            state: State::InProgress {
                lease: Lease::until(Timestamp::from_millis(1_700_000_030_000)),
            },
        })
    }

    fn opened(tree: &Tree) -> Result<OpenRows, String> {
        OpenRows::open(tree.clone(), || Ok(())).map_err(|error| error.to_string())
    }

    #[test]
    fn a_record_in_parts_has_these_rows_and_is_read_from_them() {
        let db = database();
        let tree = db.open_tree("open").unwrap();
        let mut rows = opened(&tree).unwrap();
        let record = journaled(9_000, 7);
        rows.put(KEY, record.clone(), None);
        rows.cut().write(|_| Ok(())).unwrap();
        let hex =
            |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        let found: Vec<_> = tree.iter().map(Result::unwrap).collect();
        let places: Vec<_> = found.iter().map(|(place, _)| hex(place)).collect();
        let digest = "4b".repeat(32);
        let part = |part: u8| format!("{digest}0000000000000001000000{part:02x}");
        assert_eq!(places, [digest.clone(), part(0), part(1), part(2)]);
        assert_eq!(hex(&found[0].1), "ff010000000000000003000000");
        let whole: Vec<u8> = found[1..]
            .iter()
            .flat_map(|(_, part)| part.to_vec())
            .collect();
        assert_eq!(whole, codec::encode(&record));
        assert_eq!(found[1].1.len(), 4_000);
        assert_eq!(opened(&tree).unwrap().record(KEY), Some(&record));
        // One that fits into a row leaves no parts behind.
        let short = journaled(10, 7);
        rows.put(KEY, short.clone(), None);
        rows.cut().write(|_| Ok(())).unwrap();
        assert_eq!(tree.len(), 1);
        assert_eq!(opened(&tree).unwrap().record(KEY), Some(&short));
    }

    /// G5: whatever was written last before a crash, what an opening finds is one of the records that
    /// were there, whole; and what is left of others is gone after the next checkpoint.
    #[test]
    fn a_crash_at_any_row_leaves_the_record_before_or_the_one_after() {
        let lengths = [9_000, 5_000, 10, 20_000, 20_000];
        let mut crashes = 0;
        for (before, after) in lengths.iter().zip(&lengths[1..]) {
            for crash_at in 0.. {
                let db = database();
                let tree = db.open_tree("open").unwrap();
                let mut rows = opened(&tree).unwrap();
                let (old, new) = (journaled(*before, 1), journaled(*after, 2));
                rows.put(KEY, old.clone(), None);
                rows.cut().write(|_| Ok(())).unwrap();
                // Opened anew in between: what generations were given is read from the tree.
                let mut rows = opened(&tree).unwrap();
                rows.put(KEY, new.clone(), None);
                let mut written = 0;
                let done = rows.cut().write(|_| {
                    written += 1;
                    if written > crash_at {
                        return Err("the process was killed".into());
                    }
                    Ok(())
                });
                let mut left = opened(&tree).unwrap();
                let found = left.record(KEY).cloned();
                assert!(
                    found.as_ref() == Some(&old) || found.as_ref() == Some(&new),
                    "{before} to {after}, at {crash_at}"
                );
                left.put(KEY, old.clone(), None);
                left.cut().write(|_| Ok(())).unwrap();
                assert_eq!(opened(&tree).unwrap().record(KEY), Some(&old));
                left.remove(KEY);
                left.cut().write(|_| Ok(())).unwrap();
                assert_eq!(tree.len(), 0, "{before} to {after}, at {crash_at}");
                if done.is_ok() {
                    break;
                }
                crashes += 1;
            }
        }
        assert!(crashes > 20, "{crashes}");
    }

    /// The same where a key is freed and used again between two checkpoints, and where it is freed.
    #[test]
    fn a_crash_at_any_row_of_a_key_that_is_used_again_leaves_one_whole_record() {
        for is_used_again in [true, false] {
            for crash_at in 0.. {
                let db = database();
                let tree = db.open_tree("open").unwrap();
                let mut rows = opened(&tree).unwrap();
                let (old, new) = (journaled(9_000, 1), journaled(9_000, 2));
                rows.put(KEY, old.clone(), None);
                rows.cut().write(|_| Ok(())).unwrap();
                rows.remove(KEY);
                if is_used_again {
                    rows.put(KEY, new.clone(), None);
                }
                let mut written = 0;
                let done = rows.cut().write(|_| {
                    written += 1;
                    if written > crash_at {
                        return Err("the process was killed".into());
                    }
                    Ok(())
                });
                let left = opened(&tree).unwrap();
                if let Some(found) = left.record(KEY) {
                    let is_one = *found == old || *found == new && is_used_again;
                    assert!(is_one, "at {crash_at}");
                }
                if done.is_ok() {
                    assert_eq!(left.record(KEY).is_some(), is_used_again);
                    break;
                }
            }
        }
    }

    /// F10: what is missing or damaged where something was acknowledged keeps the store shut.
    #[test]
    fn a_record_of_which_a_part_is_missing_or_damaged_is_an_error() {
        let db = database();
        let tree = db.open_tree("open").unwrap();
        let mut rows = opened(&tree).unwrap();
        rows.put(KEY, journaled(9_000, 7), None);
        rows.cut().write(|_| Ok(())).unwrap();
        let found: Vec<_> = tree.iter().map(Result::unwrap).collect();
        for (at, (place, value)) in found.iter().enumerate().skip(1) {
            tree.remove(place).unwrap();
            let refused = opened(&tree).unwrap_err();
            assert!(refused.contains("is missing"), "{refused}");
            let mut damaged = value.to_vec();
            damaged[17] ^= 1;
            tree.insert(place, damaged).unwrap();
            let refused = opened(&tree).unwrap_err();
            assert!(refused.contains("checksum"), "{at}: {refused}");
            tree.insert(place, value).unwrap();
        }
        let (place, head) = &found[0];
        tree.insert(place, &head[..12]).unwrap();
        let refused = opened(&tree).unwrap_err();
        assert!(refused.contains("13 bytes"), "{refused}");
        tree.insert(place, head).unwrap();
        let other = [&KEY.as_bytes()[..], &[0; 11]].concat();
        tree.insert(other, b"part").unwrap();
        assert!(opened(&tree).unwrap_err().contains("another key"));
    }
}
