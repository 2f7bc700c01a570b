//! What a store holds when it is opened: what is in sled, and what is in the log after that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;

use ::sled::{Db, Tree};

use super::{
    ANSWERS, Known, META_ANSWERS_GONE, META_FORGOTTEN, META_GROUP, META_LAST_USED, Notes, SETTLED, Settled,
    bucket_name, bucket_of, keyed, words,
};
use crate::commit::Change;
use crate::commit::bucket::Bucket;
use crate::record::{AnswerKept, Record};
use crate::sled::checkpoint::{Checkpoint, Target};
use crate::sled::frame::{self, Kind};
use crate::sled::located::Located;
use crate::sled::log::{Entry, GroupBytes, Groups};
use crate::sled::open_rows::OpenRows;
use crate::sled::page::Pages;
use crate::sled::sync::SyncPoint;
use crate::{Answer, AnswerFormat, KeyDigest, RetentionOptions, StoreId, Timestamp, codec};

/// What an opening needs besides what is on the disk.
pub(in crate::sled) struct Parts {
    pub(in crate::sled) db: Db,
    pub(in crate::sled) db_file: PathBuf,
    pub(in crate::sled) point: SyncPoint,
    pub(in crate::sled) lock: File,
}

/// A store in memory, before it serves.
pub(in crate::sled) struct Loaded {
    pub(super) rows: Known,
    /// The last group that there is.
    pub(super) group: u64,
    pub(super) db_file: PathBuf,
    pub(super) lock: File,
    target: Target,
    /// Pages of a checkpoint that was not finished.
    unfinished: Vec<(Tree, u32)>,
}

/// What a store knows of itself.
pub(in crate::sled) struct Identity {
    pub(in crate::sled) incarnation: u64,
    pub(in crate::sled) forgotten_until: Timestamp,
    /// When it was last in use, on its clock then.
    pub(in crate::sled) last_used: Option<Timestamp>,
}

// === impl Loaded ===

impl Loaded {
    /// The identity of the store in this database; `None` where there is none yet.
    pub(in crate::sled) fn identity_in(db: &Db) -> Result<Option<StoreId>, String> {
        let meta = db.open_tree(META).map_err(words)?;
        let Some(bytes) = meta.get(META_ID).map_err(words)? else {
            return Ok(None);
        };
        let bytes =
            <[u8; 16]>::try_from(&*bytes).map_err(|_| "the store's id has not 16 bytes")?;
        Ok(Some(StoreId::from_bytes(bytes)))
    }

    /// Reads what is in sled.
    pub(in crate::sled) fn read(
        parts: Parts,
        retention: &RetentionOptions,
    ) -> Result<Self, String> {
        let Parts {
            db,
            db_file,
            point,
            lock,
        } = parts;
        let meta = db.open_tree(META).map_err(words)?;
        let open = OpenRows::open(db.open_tree(OPEN).map_err(words)?)?;
        let rows = Known {
            db: db.clone(),
            answers: BTreeMap::new(),
            settled: BTreeMap::new(),
            open,
            notes: Notes::default(),
            width: Bucket::width(retention),
            removed: BTreeSet::new(),
        };
        let mut loaded = Self {
            rows,
            group: 0,
            db_file,
            lock,
            target: Target { db, meta, point },
            unfinished: Vec::new(),
        };
        loaded.group = loaded.number(META_GROUP)?.unwrap_or(0);
        for name in loaded.target.db.tree_names() {
            if let Some(bucket) = bucket_of(SETTLED, &name) {
                loaded.read_settled(bucket)?;
            } else if let Some(bucket) = bucket_of(ANSWERS, &name) {
                loaded.read_answers(bucket)?;
            }
        }
        Ok(loaded)
    }

    /// Raises the incarnation, and makes the identity of a new store. In sled, but not durable.
    pub(in crate::sled) fn identify(
        &mut self,
        id: StoreId,
        now: Timestamp,
    ) -> Result<Identity, String> {
        let incarnation = self.number(META_INCARNATION)?.unwrap_or(0) + 1;
        // A call first sent before this store existed may have been executed by an earlier one.
        let forgotten = self
            .number(META_FORGOTTEN)?
            .unwrap_or_else(|| now.as_millis());
        let notes = &mut self.rows.notes;
        notes.forgotten = notes.forgotten.max(forgotten);
        let mut batch = ::sled::Batch::default();
        batch.insert(META_ID, id.as_bytes());
        batch.insert(META_INCARNATION, &incarnation.to_le_bytes());
        batch.insert(META_FORGOTTEN, &notes.forgotten.to_le_bytes());
        let identity = Identity {
            incarnation,
            forgotten_until: Timestamp::from_millis(notes.forgotten),
            last_used: notes.used.map(Timestamp::from_millis),
        };
        self.target.meta.apply_batch(batch).map_err(words)?;
        Ok(identity)
    }

    /// Takes in what the log has and sled has not.
    pub(in crate::sled) fn take_in(&mut self, log: &Groups) -> Result<(), String> {
        let gone = self.number(META_ANSWERS_GONE)?.unwrap_or(0);
        self.rows.notes.answers_gone = gone;
        self.rows.notes.forgotten = self.number(META_FORGOTTEN)?.unwrap_or(0);
        self.rows.notes.used = self.number(META_LAST_USED)?;
        let (groups, last) = log.after(self.group)?;
        for mut entries in groups {
            while !entries.is_empty() {
                entries = self.take_in_one(entries)?;
            }
        }
        self.group = last;
        Ok(())
    }

    /// Puts in doubt what an earlier incarnation left in progress, and the like. As a change of
    /// what is in memory it is durable with [`carry_over`](Self::carry_over).
    pub(in crate::sled) fn change(&mut self, changes: Vec<Change>) -> Result<(), String> {
        let mut nowhere = GroupBytes::default();
        for change in changes {
            self.rows.apply(change, &mut nowhere)?;
        }
        Ok(())
    }

    pub(in crate::sled) fn note_used(&mut self, now: Timestamp) {
        self.rows.notes.used = Some(now.as_millis());
    }

    /// Carries everything over to sled. Durable when it returns.
    pub(in crate::sled) fn carry_over(&mut self) -> Result<(), String> {
        for (tree, page) in std::mem::take(&mut self.unfinished) {
            tree.remove(page.to_be_bytes()).map_err(words)?;
        }
        crate::kill_point!("opening: unfinished pages removed, nothing carried over");
        // No page is written again before those that were in its place are gone for good.
        self.target.point.commit(&self.target.db).map_err(words)?;
        let checkpoint: Checkpoint = self.rows.cut(self.group, 0)?;
        let answered = checkpoint.open.answered();
        self.target.write(checkpoint)?;
        self.rows.written(&answered);
        Ok(())
    }

    /// The last group that there is.
    pub(in crate::sled) const fn group(&self) -> u64 {
        self.group
    }

    /// A second handle for the thread that makes checkpoints.
    pub(in crate::sled) fn target(&self, point: SyncPoint) -> Target {
        Target {
            db: self.target.db.clone(),
            meta: self.target.meta.clone(),
            point,
        }
    }

    /// The records that an earlier incarnation left open.
    pub(in crate::sled) fn open_records(&self) -> Vec<(KeyDigest, Record)> {
        let records = self.rows.open.records();
        records.map(|(key, record)| (key, record.clone())).collect()
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(bytes) = self.target.meta.get(name).map_err(words)? else {
            return Ok(None);
        };
        let bytes = <[u8; 8]>::try_from(&*bytes).map_err(|_| format!("{name} has not 8 bytes"))?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    fn read_settled(&mut self, bucket: Bucket) -> Result<(), String> {
        let tree = self.rows.tree(SETTLED, bucket)?;
        let mut located = Located::new();
        let next = self.scan(SETTLED, bucket, &tree, |frame| {
            if frame.kind != Kind::Settled {
                return Err(format!("{:?} lies among the settled", frame.kind));
            }
            let (key, _) = keyed(frame.body)?;
            located.insert(key, frame.at);
            Ok(())
        })?;
        let pages = Pages::new(tree, next);
        self.rows.settled.insert(bucket, Settled { pages, located });
        Ok(())
    }

    fn read_answers(&mut self, bucket: Bucket) -> Result<(), String> {
        let tree = self.rows.tree(ANSWERS, bucket)?;
        let next = self.scan(ANSWERS, bucket, &tree, |frame| match frame.kind {
            Kind::Answer => Ok(()),
            other @ Kind::Settled => Err(format!("{other:?} lies among the answers")),
        })?;
        self.rows.answers.insert(bucket, Pages::new(tree, next));
        Ok(())
    }

    fn scan(
        &mut self,
        kind: &str,
        bucket: Bucket,
        tree: &Tree,
        found: impl FnMut(frame::Found<'_>) -> Result<(), String>,
    ) -> Result<u32, String> {
        let extent = frame::scan(tree, self.group, found)
            .map_err(|damage| format!("bucket {}: {damage}", bucket_name(kind, bucket)))?;
        let unfinished = extent.unfinished.into_iter();
        self.unfinished
            .extend(unfinished.map(|page| (tree.clone(), page)));
        Ok(extent.next)
    }

    /// Takes in the first of these entries; the others.
    fn take_in_one<'a>(&mut self, entries: &'a [u8]) -> Result<&'a [u8], String> {
        let (entry, rest) = Entry::first(entries)?;
        match entry {
            Entry::Note(note, time) => self.rows.notes.raise(note, time),
            Entry::Removed(key) => self.rows.open.remove(key),
            Entry::Record(key, bytes) => {
                let record = codec::decode(bytes).map_err(words)?;
                self.rows.put(key, record, None)?;
            }
            Entry::RecordAndAnswer(key, bytes, _) => {
                let mut record = codec::decode(bytes).map_err(words)?;
                let rest = bring(&mut record, rest)?;
                self.rows.put(key, record, None)?;
                return Ok(rest);
            }
        }
        Ok(rest)
    }
}

/// Puts the answer that follows a record into it; what follows the answer.
fn bring<'a>(record: &mut Record, rest: &'a [u8]) -> Result<&'a [u8], String> {
    let kept = match record {
        Record::Call(call) => call.kept_mut(),
        Record::Sealed { .. } => None,
    };
    let Some(kept) = kept else {
        return Err("an answer follows a record that has none".to_owned());
    };
    let AnswerKept::Beside { format, length, .. } = *kept else {
        return Err("an answer follows a record that has another".to_owned());
    };
    let (body, rest) = rest
        .split_at_checked(length as usize)
        .ok_or("an answer is cut off")?;
    *kept = AnswerKept::Here(Answer::new(AnswerFormat::new(format), body.to_vec()));
    Ok(rest)
}

const META: &str = "onlyonce/meta";
const OPEN: &str = "onlyonce/open";

const META_ID: &str = "id";
const META_INCARNATION: &str = "incarnation";
