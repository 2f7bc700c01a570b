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
//! The parts together are a checksum (8) and the answer. A record that is larger than a part is in parts
//! as well: see `parted.rs`.

use ::sled::{IVec, Tree};
use hashbrown::HashMap;

use super::cause::Cause;
use super::frame::{SUM_BYTES, Whole};
use super::parted::{self, PartRow, Parts};
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
    /// Parts of records that are in the tree and are to go.
    gone_parts: Vec<PartRow>,
    /// The last that was given to parts of a record.
    generation: u64,
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
    /// In which parts its record is in the tree, where it is in parts.
    parts: Option<Parts>,
    changed: bool,
}

/// What a checkpoint writes of it.
#[derive(Debug)]
pub(super) struct OpenChanges {
    tree: Tree,
    gone: Vec<Gone>,
    put: Vec<Put>,
    gone_parts: Vec<PartRow>,
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
    /// In which parts the record goes, where it does.
    parts: Option<Parts>,
    answer: Option<(Whole, Answer)>,
}

// === impl OpenRows ===

impl OpenRows {
    /// Reads what the tree holds, with `sync` now and then.
    pub(super) fn open(tree: Tree, sync: impl FnMut() -> Result<(), Cause>) -> Result<Self, Cause> {
        let found = parted::read(&tree, sync)?;
        let calls = found.calls.into_iter().map(|(key, call)| {
            let open = Open {
                record: call.record,
                answer: None,
                stored: Some(call.answer_parts),
                parts: call.parts,
                changed: false,
            };
            (key, open)
        });
        Ok(Self {
            calls: calls.collect(),
            tree,
            changed: Vec::new(),
            gone: Vec::new(),
            gone_parts: found.left,
            generation: found.generation,
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
                parts: None,
                changed: true,
            };
            self.calls.insert(key, open);
        }
    }

    pub(super) fn remove(&mut self, key: KeyDigest) {
        let Some(open) = self.calls.remove(&key) else {
            return;
        };
        if let Some(parts) = open.parts {
            self.gone_parts.extend(parts.rows(key));
        }
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
            let record = codec::encode(&open.record);
            let in_parts = (record.len() > PART_BYTES).then(|| {
                self.generation += 1;
                Parts {
                    generation: self.generation,
                    count: record.len().div_ceil(PART_BYTES) as u32,
                }
            });
            if let Some(before) = std::mem::replace(&mut open.parts, in_parts) {
                self.gone_parts.extend(before.rows(key));
            }
            put.push(Put {
                key,
                record,
                parts: in_parts,
                answer,
            });
        }
        OpenChanges {
            tree: self.tree.clone(),
            gone: std::mem::take(&mut self.gone),
            put,
            gone_parts: std::mem::take(&mut self.gone_parts),
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
            mut gone_parts,
        } = self;
        // In the order of the tree, so that sled writes a node again for many rows and not for each.
        gone.sort_unstable_by_key(|gone| gone.key);
        put.sort_unstable_by_key(|put| put.key);
        gone_parts.sort_unstable();
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
                parts,
                answer,
            } = put;
            let record = match parts {
                None => record,
                Some(parts) => {
                    for (part, content) in parts.rows(key).zip(record.chunks(PART_BYTES)) {
                        tree.insert(part.bytes(), content)?;
                        sync(part_cost(content.len()))?;
                    }
                    crate::kill_point!("checkpoint: parts of a record written, not named");
                    parts.head()
                }
            };
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
        // Behind the rows that named them.
        for part in gone_parts {
            tree.remove(part.bytes())?;
            sync(part_cost(PART_BYTES))?;
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

/// With key and head below 4 KiB.
const PART_BYTES: usize = 4_000;
/// What sled writes for a row: some of its node again, by trace 1.2 KB.
const ROW_COST: usize = 1024;
/// The same for a part: large values make large nodes, by trace 140 KB for one of the largest in
/// random order.
const fn part_cost(bytes: usize) -> usize {
    ROW_COST + 16 * bytes
}
