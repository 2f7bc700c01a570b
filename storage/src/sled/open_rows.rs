//! What is in progress, in doubt or held for a session: all of it in memory, and what a checkpoint found open in a tree.
//!
//! Most calls are claimed and answered between two checkpoints and never come here. What is open
//! for longer has one row, which is overwritten and removed:
//!
//! ```text
//! key:    key digest (32)                                 value:  record
//! key:    key digest (32) | number from 0, big endian (4) value:  a part of the answer that is
//!                                                                 kept with it, at most 4,000 bytes
//! ```
//!
//! The parts together are a checksum (8) and the answer.

use ::sled::{IVec, Tree};
use hashbrown::HashMap;

use super::cause::Cause;
use super::frame::{SUM_BYTES, Whole};
use crate::record::{AnswerKept, CallRecord, Record};
use crate::{Answer, KeyDigest, StoreError, codec};

/// The open calls of a store.
#[derive(Debug)]
pub(super) struct OpenRows {
    tree: Tree,
    calls: HashMap<KeyDigest, Open>,
    /// Calls that changed since the last checkpoint; some are no longer open.
    changed: Vec<KeyDigest>,
    /// Rows that are in the tree and are to go: the key, and how many parts its answer has.
    gone: Vec<Gone>,
}

/// A call that is in progress or in doubt.
#[derive(Debug)]
struct Open {
    /// Of an answer it says only that there is one.
    record: Record,
    /// The answer, until a checkpoint has put it into the tree.
    answer: Option<Answer>,
    /// Whether the tree has a row, and how many parts the answer in it has.
    stored: Option<u32>,
    changed: bool,
}

/// What a checkpoint writes of it.
#[derive(Debug)]
pub(super) struct OpenChanges {
    tree: Tree,
    gone: Vec<Gone>,
    put: Vec<Put>,
}

/// A row that a checkpoint removes, or only the parts of it.
#[derive(Clone, Copy, Debug)]
struct Gone {
    key: KeyDigest,
    parts: u32,
    /// About how long each of them is.
    part_bytes: usize,
}

/// A row that a checkpoint writes.
#[derive(Debug)]
struct Put {
    key: KeyDigest,
    record: Vec<u8>,
    answer: Option<(Whole, Answer)>,
}

// === impl OpenRows ===

impl OpenRows {
    /// Reads what the tree holds, with `sync` now and then: reading makes sled write nodes again that
    /// were changed often.
    pub(super) fn open(
        tree: Tree,
        mut sync: impl FnMut() -> Result<(), Cause>,
    ) -> Result<Self, Cause> {
        let mut read = 0;
        let mut calls: HashMap<KeyDigest, Open> = HashMap::new();
        for row in &tree {
            let (row, value) = row?;
            let (key, part) = row_of(&row)?;
            read += row.len() + value.len();
            if read >= READ_BYTES_MAX {
                read = 0;
                sync()?;
            }
            if part.is_none() {
                let record = codec::decode(&value)
                    .map_err(|damage| format!("the row of an open call: {damage}"))?;
                let open = Open {
                    record,
                    answer: None,
                    stored: Some(0),
                    changed: false,
                };
                calls.insert(key, open);
                continue;
            }
            // Rows are in order: the record comes before its parts.
            let stored = calls.get_mut(&key).and_then(|open| open.stored.as_mut());
            let parts = stored.ok_or("a part of an answer lies without its record")?;
            if part != Some(*parts) {
                return Err(format!("part {parts} of an open call's answer is missing").into());
            }
            *parts += 1;
        }
        Ok(Self {
            tree,
            calls,
            changed: Vec::new(),
            gone: Vec::new(),
        })
    }

    pub(super) fn records(&self) -> impl Iterator<Item = (KeyDigest, &Record)> {
        self.calls.iter().map(|(key, open)| (*key, &open.record))
    }

    pub(super) fn record(&self, key: KeyDigest) -> Option<&Record> {
        self.calls.get(&key).map(|open| &open.record)
    }

    /// The record of a call that is open from now on; the answer that comes with it, if one does.
    pub(super) fn put(&mut self, key: KeyDigest, record: Record, answer: Option<Answer>) {
        let is_kept = record.call().is_some_and(|call| call.kept().is_some());
        let before = self.calls.get_mut(&key);
        if before.as_ref().is_none_or(|before| !before.changed) {
            self.changed.push(key);
        }
        if let Some(open) = before {
            let kept = answer.or(open.answer.take());
            open.answer = kept.filter(|_| is_kept);
            open.record = record;
            open.changed = true;
        } else {
            let open = Open {
                record,
                answer: answer.filter(|_| is_kept),
                stored: None,
                changed: true,
            };
            self.calls.insert(key, open);
        }
    }

    pub(super) fn remove(&mut self, key: KeyDigest) {
        let Some(open) = self.calls.remove(&key) else {
            return;
        };
        if let Some(parts) = open.stored {
            let kept = open.record.call().and_then(CallRecord::kept);
            let part_bytes = match kept {
                Some(AnswerKept::Beside { length, .. }) => SUM_BYTES + *length as usize,
                _ => PART_BYTES,
            };
            self.gone.push(Gone {
                key,
                parts,
                part_bytes: part_bytes.min(PART_BYTES),
            });
        }
    }

    /// The answer that is kept with an open call.
    pub(super) fn answer(
        &self,
        key: KeyDigest,
        call: &CallRecord,
    ) -> Result<Option<Answer>, StoreError> {
        let Some(open) = self.calls.get(&key) else {
            return Ok(None);
        };
        if let Some(answer) = &open.answer {
            return Ok(Some(answer.clone()));
        }
        let Some(&AnswerKept::Beside { format, length, .. }) = call.kept() else {
            return Ok(None);
        };
        let whole = Whole {
            key,
            token: call.token,
            format,
            length,
        };
        let mut bytes = Vec::new();
        for part in 0..open.stored.unwrap_or(0) {
            let value = self.tree.get(row(key, Some(part)));
            match value.map_err(super::disk::unreadable_row)? {
                Some(value) => bytes.extend_from_slice(&value),
                None => return Ok(None),
            }
        }
        Ok(whole.checked(bytes))
    }

    /// What changed since the last time, for a checkpoint.
    pub(super) fn cut(&mut self) -> OpenChanges {
        let mut put = Vec::new();
        for key in std::mem::take(&mut self.changed) {
            let Some(open) = self.calls.get_mut(&key).filter(|open| open.changed) else {
                continue;
            };
            open.changed = false;
            let answer = open.answer.clone().and_then(|answer| {
                let whole = Whole::of(key, open.record.call()?, &answer)?;
                Some((whole, answer))
            });
            let is_kept = open.record.call().is_some_and(|call| call.kept().is_some());
            let parts = match &answer {
                Some((_, answer)) => parts_of(answer),
                None if is_kept => open.stored.unwrap_or(0),
                None => 0,
            };
            if let Some(stored) = open.stored.filter(|stored| *stored > 0)
                && (answer.is_some() || !is_kept)
            {
                // The parts of an earlier answer. The row itself is overwritten.
                self.gone.push(Gone {
                    key,
                    parts: stored,
                    part_bytes: PART_BYTES,
                });
            }
            open.stored = Some(parts);
            put.push(Put {
                key,
                record: codec::encode(&open.record),
                answer,
            });
        }
        OpenChanges {
            tree: self.tree.clone(),
            gone: std::mem::take(&mut self.gone),
            put,
        }
    }

    /// What was cut is in the tree: answers need not be kept in memory.
    pub(super) fn written(&mut self, keys: &[KeyDigest]) {
        for key in keys {
            if let Some(open) = self.calls.get_mut(key)
                && !open.changed
            {
                open.answer = None;
            }
        }
    }
}

// === impl OpenChanges ===

impl OpenChanges {
    /// The calls whose answers it brings.
    pub(super) fn answered(&self) -> Vec<KeyDigest> {
        let answered = self.put.iter().filter(|put| put.answer.is_some());
        answered.map(|put| put.key).collect()
    }

    /// Writes it, with `sync` after every row and what it may have made sled write. A crash in
    /// between leaves a part of it. Of a key that is put its row is never absent: what an opening
    /// puts in doubt is in no log.
    pub(super) fn write(
        self,
        mut sync: impl FnMut(usize) -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        let Self {
            tree,
            mut gone,
            mut put,
        } = self;
        // In the order of the tree, so that sled writes a node again for many rows and not for each.
        gone.sort_unstable_by_key(|gone| gone.key);
        put.sort_unstable_by_key(|put| put.key);
        for gone in gone {
            let Gone {
                key,
                parts,
                part_bytes,
            } = gone;
            // The last first, and the row itself behind them: no part is ever without the others.
            for part in (0..parts).rev() {
                tree.remove(row(key, Some(part)))?;
                sync(part_cost(part_bytes))?;
            }
            if put.binary_search_by_key(&key, |put| put.key).is_err() {
                tree.remove(row(key, None))?;
                sync(ROW_COST)?;
            }
        }
        for put in put {
            let Put {
                key,
                record,
                answer,
            } = put;
            let cost = record.len() + ROW_COST;
            tree.insert(row(key, None), record)?;
            crate::kill_point!("checkpoint: one row written, the next not");
            sync(cost)?;
            let Some((whole, answer)) = answer else {
                continue;
            };
            let mut content = whole.sum(answer.body()).to_vec();
            content.extend_from_slice(answer.body());
            for (part, content) in (0..).zip(content.chunks(PART_BYTES)) {
                tree.insert(row(key, Some(part)), content)?;
                sync(part_cost(content.len()))?;
            }
        }
        Ok(())
    }
}

fn parts_of(answer: &Answer) -> u32 {
    (SUM_BYTES + answer.body().len()).div_ceil(PART_BYTES) as u32
}

fn row(key: KeyDigest, part: Option<u32>) -> IVec {
    let mut row = [0; 36];
    row[..32].copy_from_slice(key.as_bytes());
    match part {
        None => IVec::from(&row[..32]),
        Some(part) => {
            row[32..].copy_from_slice(&part.to_be_bytes());
            IVec::from(&row[..])
        }
    }
}

fn row_of(row: &[u8]) -> Result<(KeyDigest, Option<u32>), String> {
    let (key, part) = super::disk::keyed(row)?;
    if part.is_empty() {
        return Ok((key, None));
    }
    let part = <[u8; 4]>::try_from(part).map_err(|_| "the row of an open call has another key")?;
    Ok((key, Some(u32::from_be_bytes(part))))
}

/// With key and head below 4 KiB.
const PART_BYTES: usize = 4_000;
/// What sled writes for a row: some of its node again, by trace 1.2 KB.
const ROW_COST: usize = 1024;
/// The same for a part: large values make large nodes, by trace 140 KB for one of the largest in
/// random order.
const fn part_cost(bytes: usize) -> usize {
    ROW_COST + 16 * bytes
}

/// What is read between two syncs; what sled writes for that is about twice as much.
const READ_BYTES_MAX: usize = 256 * 1024;
