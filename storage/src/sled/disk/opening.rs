//! What a store holds when it is opened: what is in sled, and what is in the log after that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use ::sled::Db;

use super::{
    ANSWERS, Known, META_ANSWERS_GONE, META_FORGOTTEN, META_GROUP, META_LAST_SESSION,
    META_LAST_USED, Notes, SETTLED, Settled, bucket_of, keyed, words,
};
use crate::commit::bucket::Bucket;
use crate::commit::{Change, SessionRow};
use crate::record::{AnswerKept, Record};
use crate::sled::cause::Cause;
use crate::sled::checkpoint::{LENGTH_ROW, Target};
use crate::sled::frame::{self, Kind};
use crate::sled::located::Located;
use crate::sled::log::{Entry, GroupBytes, Groups};
use crate::sled::open_rows::OpenRows;
use crate::sled::page::{PageFile, Pages};
use crate::sled::session_rows::SessionRows;
use crate::sled::sync::SyncPoint;
use crate::sled::tables::Tables;
use crate::{Answer, AnswerFormat, KeyDigest, RetentionOptions, StoreId, Timestamp, codec};

/// What an opening needs besides what is on the disk.
pub(in crate::sled) struct Parts {
    pub(in crate::sled) db: Db,
    pub(in crate::sled) db_file: PathBuf,
    /// Where the files of pages are.
    pub(in crate::sled) folder: PathBuf,
    pub(in crate::sled) point: SyncPoint,
    pub(in crate::sled) lock: File,
}

/// A store in memory, before it serves.
pub(in crate::sled) struct Loaded {
    pub(super) rows: Known,
    pub(super) tables: Tables,
    /// The last group that there is.
    pub(super) group: u64,
    pub(super) db_file: PathBuf,
    target: Target,
    /// The files of pages, and how many pages of each count.
    files: Vec<(Arc<PageFile>, u32)>,
    /// The last to go: who opens it next must not find sled's own lock held.
    pub(super) lock: File,
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
    pub(in crate::sled) fn identity_in(db: &Db) -> Result<Option<StoreId>, Cause> {
        let meta = db.open_tree(META)?;
        let Some(bytes) = meta.get(META_ID)? else {
            return Ok(None);
        };
        let bytes = <[u8; 16]>::try_from(&*bytes).map_err(|_| "the store's id has not 16 bytes")?;
        Ok(Some(StoreId::from_bytes(bytes)))
    }

    /// Reads what is in sled.
    pub(in crate::sled) fn read(parts: Parts, retention: &RetentionOptions) -> Result<Self, Cause> {
        let Parts {
            db,
            db_file,
            folder,
            point,
            lock,
        } = parts;
        let meta = db.open_tree(META)?;
        let open = OpenRows::open(db.open_tree(OPEN)?, || Ok(point.commit(&db)?))?;
        let sessions = SessionRows::open(db.open_tree(SESSIONS)?)?;
        let tables = Tables::open(&db)?;
        let rows = Known {
            folder: folder.clone(),
            answers: BTreeMap::new(),
            settled: BTreeMap::new(),
            open,
            sessions,
            notes: Notes::default(),
            width: Bucket::width(retention),
            removed: BTreeSet::new(),
        };
        let target = Target {
            db,
            meta,
            folder,
            point,
        };
        let mut loaded = Self {
            rows,
            tables,
            group: 0,
            db_file,
            lock,
            target,
            files: Vec::new(),
        };
        loaded.group = loaded.number(META_GROUP)?.unwrap_or(0);
        for row in loaded.target.meta.scan_prefix(LENGTH_ROW) {
            let (row, pages) = row?;
            let name = std::str::from_utf8(&row[LENGTH_ROW.len()..]).map_err(words)?;
            let pages = <[u8; 4]>::try_from(&*pages)
                .map_err(|_| format!("the length of {name} has not 4 bytes"))?;
            loaded.read_file(name, u32::from_le_bytes(pages))?;
        }
        Ok(loaded)
    }

    /// Raises the incarnation, and makes the identity of a new store. In sled, but not durable. Of a
    /// copy that was `restored` nothing before now is known, and what was given since it was made
    /// must not be given again: openings and sessions are fewer than milliseconds.
    pub(in crate::sled) fn identify(
        &mut self,
        id: StoreId,
        now: Timestamp,
        restored: bool,
    ) -> Result<Identity, Cause> {
        let mut incarnation = self.number(META_INCARNATION)?.unwrap_or(0) + 1;
        if restored {
            incarnation = incarnation.max(now.as_millis());
            self.rows.sessions.given(now.as_millis());
            self.rows.notes.forgotten = self.rows.notes.forgotten.max(now.as_millis());
        }
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
        self.target.meta.apply_batch(batch)?;
        Ok(identity)
    }

    /// Takes in what the log has and sled has not.
    pub(in crate::sled) fn take_in(&mut self, log: &Groups) -> Result<(), Cause> {
        let gone = self.number(META_ANSWERS_GONE)?.unwrap_or(0);
        self.rows.notes.answers_gone = gone;
        self.rows.notes.forgotten = self.number(META_FORGOTTEN)?.unwrap_or(0);
        self.rows.notes.used = self.number(META_LAST_USED)?;
        let given = self.number(META_LAST_SESSION)?.unwrap_or(0);
        self.rows.sessions.given(given);
        let (groups, last) = log.after(self.group)?;
        for mut entries in groups {
            // It is in the log already.
            let mut nowhere = GroupBytes::default();
            while !entries.is_empty() {
                entries = self.take_in_one(entries, &mut nowhere)?;
            }
        }
        self.group = last;
        Ok(())
    }

    /// Puts in doubt what an earlier incarnation left in progress, and the like. As a change of
    /// what is in memory it is durable with [`carry_over`](Self::carry_over).
    pub(in crate::sled) fn change(&mut self, changes: Vec<Change>) -> Result<(), Cause> {
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
    pub(in crate::sled) fn carry_over(&mut self) -> Result<(), Cause> {
        self.remove_unfinished()?;
        crate::kill_point!("opening: unfinished pages removed, nothing carried over");
        let checkpoint = self.rows.cut(&mut self.tables, self.group, 0)?;
        let done = self.target.write(checkpoint)?;
        self.rows.written(&done.answered);
        self.tables.written(done.tables);
        // All of it is durable.
        self.rows.hand_over();
        self.rows.hand_over();
        Ok(())
    }

    /// Removes what a checkpoint that was not finished has left, and files that were to go.
    fn remove_unfinished(&self) -> Result<(), Cause> {
        for (file, pages) in &self.files {
            file.end_at(*pages)?;
        }
        let used: BTreeSet<&str> = self.rows.names().collect();
        let files = self.files.iter().map(|(file, _)| file.name());
        let unused = files.filter(|name| !used.contains(name));
        let unused: Vec<_> = unused.map(ToOwned::to_owned).collect();
        self.target.drop_files(&unused)?;
        for entry in fs::read_dir(&self.target.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            let is_ours = name.starts_with(ANSWERS) || name.starts_with(SETTLED);
            if is_ours && !used.contains(name) {
                fs::remove_file(entry.path())?;
            }
        }
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
            folder: self.target.folder.clone(),
            point,
        }
    }

    /// The records that an earlier incarnation left open.
    pub(in crate::sled) fn open_records(&self) -> Vec<(KeyDigest, Record)> {
        let records = self.rows.open.records();
        records.map(|(key, record)| (key, record.clone())).collect()
    }

    /// The last session that was given, and those that are live.
    pub(in crate::sled) fn sessions(&self) -> (u64, Vec<(u64, SessionRow)>) {
        let sessions = &self.rows.sessions;
        (sessions.last(), sessions.rows().collect())
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Cause> {
        let Some(bytes) = self.target.meta.get(name)? else {
            return Ok(None);
        };
        let bytes = <[u8; 8]>::try_from(&*bytes).map_err(|_| format!("{name} has not 8 bytes"))?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    fn read_file(&mut self, name: &str, pages: u32) -> Result<(), Cause> {
        let bucket = bucket_of(SETTLED, name).or_else(|| bucket_of(ANSWERS, name));
        let bucket = bucket.ok_or_else(|| format!("no file has the name {name}"))?;
        let path = self.target.folder.join(name);
        if !path.try_exists()? {
            return Err(format!("the file {name} is missing").into());
        }
        let file = PageFile::open(&self.target.folder, name.to_owned())?;
        let file = Arc::new(file);
        self.files.push((Arc::clone(&file), pages));
        let is_settled = name.starts_with(SETTLED);
        let mut located = Located::new();
        frame::scan(&file, pages, |frame| match frame.kind {
            Kind::Settled if is_settled => {
                let (key, record) = keyed(frame.body)?;
                codec::check_version(record).map_err(words)?;
                located.insert(key, frame.at);
                Ok(())
            }
            Kind::Answer if !is_settled => Ok(()),
            other => Err(format!("{other:?} lies in it")),
        })?;
        let pages = Pages::new(file, pages);
        if is_settled {
            let settled = Settled::new(pages, located);
            self.rows.settled.insert(bucket, settled);
        } else {
            self.rows.answers.insert(bucket, pages);
        }
        Ok(())
    }

    /// Takes in the first of these entries; the others.
    fn take_in_one<'a>(
        &mut self,
        entries: &'a [u8],
        nowhere: &mut GroupBytes,
    ) -> Result<&'a [u8], Cause> {
        let (entry, rest) = Entry::first(entries)?;
        match entry {
            Entry::Note(note, time) => self.rows.noted(note, time),
            Entry::Removed(key) => self.rows.open.remove(key),
            Entry::Session(change) => self.rows.sessions.apply(&change),
            Entry::Row { table, key, value } => self.tables.take_in(table, key, value)?,
            Entry::Record(key, bytes) => {
                let record = codec::decode(bytes).map_err(words)?;
                self.rows.put(key, record, nowhere)?;
            }
            Entry::RecordAndAnswer(key, bytes, _) => {
                let mut record = codec::decode(bytes).map_err(words)?;
                let rest = bring(&mut record, rest)?;
                self.rows.put(key, record, nowhere)?;
                return Ok(rest);
            }
        }
        Ok(rest)
    }
}

/// Puts the answer that follows a record into it; what follows the answer.
pub(in crate::sled) fn bring<'a>(record: &mut Record, rest: &'a [u8]) -> Result<&'a [u8], String> {
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
const SESSIONS: &str = "onlyonce/sessions";

const META_ID: &str = "id";
const META_INCARNATION: &str = "incarnation";
