//! sled and the log behind the writer's seam.

mod inspecting;
mod opening;
mod reading;
mod replaying;
#[cfg(test)]
mod tests;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

#[cfg(feature = "fuzzing")]
pub(super) use self::opening::bring;
pub(super) use self::opening::{Identity, Loaded, Parts};
use self::reading::{answer_in, read_settled_record};
pub(super) use self::replaying::SettledReader;
use super::checkpoint::{Checkpoint, Checkpoints, Done};
use super::located::Located;
use super::log::{GroupBytes, LogFiles, Note};
use super::open_rows::OpenRows;
use super::page::{PageFile, Pages, Position, Wait};
use super::session_rows::SessionRows;
use super::tables::Tables;
use crate::commit::bucket::Bucket;
use crate::commit::disk::{Disk, Due, Syncer, Written};
use crate::commit::{Change, Rows, Scan, SessionChange};
use crate::inspect::BucketStats;
use crate::record::{CallRecord, Record};
use crate::transaction::{KeyBounds, Table, Writes};
use crate::{Answer, KeyDigest, RetentionOptions, StoreError, Swept, Timestamp, transition};

/// An opened store. Only the thread that owns it changes anything; another one writes groups to
/// the log, a third carries them over to sled.
pub(super) struct SledDisk {
    /// Only this thread writes to it, and holds it locked for a moment then.
    rows: Arc<RwLock<Known>>,
    /// Read by this thread alone.
    tables: Tables,
    log: Arc<LogFiles>,
    /// What was applied since the last group.
    group_bytes: GroupBytes,
    /// The last group that was handed over.
    group: u64,
    /// Where in the log it was.
    turn: u64,
    offset: u64,
    /// Where a file of it is full. A group of large answers may go beyond.
    log_bytes: u64,
    checkpoints: Checkpoints,
    /// What a full file holds, until the last group in it is durable.
    next: Option<Checkpoint>,
    db_file: PathBuf,
    /// Held until everything else is closed.
    lock: File,
}

/// Everything that is remembered: in memory, or in sled and in memory where.
pub(super) struct Known {
    folder: PathBuf,
    answers: BTreeMap<Bucket, Pages>,
    settled: BTreeMap<Bucket, Settled>,
    open: OpenRows,
    sessions: SessionRows,
    notes: Notes,
    width: Duration,
    /// Buckets whose files are being removed.
    removed: BTreeSet<Bucket>,
}

/// The settled records of a bucket.
#[derive(Debug)]
struct Settled {
    pages: Pages,
    located: Located,
    /// What lies before is durable.
    durable: Position,
    /// What lies before is in a group that was handed over.
    handed_over: Position,
}

/// Times, in milliseconds, that only grow.
#[derive(Clone, Copy, Debug, Default)]
struct Notes {
    used: Option<u64>,
    forgotten: u64,
    /// Answers that were settled before this time are gone, and that is no damage.
    answers_gone: u64,
}

// === impl SledDisk ===

impl SledDisk {
    /// Takes up what an opening has loaded. The log's turns up to `turn` have begun, the last one
    /// to come next.
    pub(super) fn new(
        loaded: Loaded,
        log: Arc<LogFiles>,
        turn: u64,
        log_bytes: u64,
        checkpoints: Checkpoints,
    ) -> Self {
        let Loaded {
            rows,
            tables,
            group,
            db_file,
            lock,
            ..
        } = loaded;
        Self {
            rows: Arc::new(RwLock::new(rows)),
            tables,
            log,
            group_bytes: GroupBytes::default(),
            group,
            turn,
            offset: LogFiles::first_offset(),
            log_bytes,
            checkpoints,
            next: None,
            db_file,
            lock,
        }
    }

    /// Reads what is settled and durable, from any thread, until this is closed.
    pub(super) fn reader(&self) -> SettledReader {
        SettledReader::new(Arc::downgrade(&self.rows))
    }

    /// Takes note of a checkpoint that was done.
    fn checkpointed(&mut self, done: Option<Done>) {
        if let Some(done) = done {
            let Done { answered, tables } = done;
            self.rows.write().written(&answered);
            self.tables.written(tables);
        }
    }

    /// Gives a full file to sled, once everything in it is durable.
    fn begin_checkpoint(&mut self) -> Result<bool, String> {
        let Some(checkpoint) = self.next.take() else {
            return Ok(false);
        };
        self.checkpoints.begin(checkpoint)?;
        Ok(true)
    }

    fn fill_checkpoint(&mut self) -> Result<(), String> {
        // One at a time: where sled is behind, callers wait.
        let done = self.checkpoints.wait()?;
        self.checkpointed(done);
        // The file that is full now is free for the turn after the next.
        let mut rows = self.rows.write();
        let cut = rows.cut(&mut self.tables, self.group, self.turn + 2)?;
        drop(rows);
        self.next = Some(cut);
        Ok(())
    }
}

impl Rows for SledDisk {
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        self.rows.read().record(key)
    }

    fn answer(&self, key: KeyDigest, call: &CallRecord) -> Result<Option<Answer>, StoreError> {
        self.rows.read().answer(key, call)
    }

    fn scan<'a>(&'a self, table: &Table, bounds: KeyBounds<'a>) -> Scan<'a> {
        self.tables.scan(table, bounds)
    }

    fn room_for(&self, writes: &Writes) -> Result<(), StoreError> {
        self.tables.room_for(writes)
    }
}

impl Disk for SledDisk {
    fn apply(&mut self, changes: Vec<Change>, _now: Timestamp) -> Result<(), String> {
        let mut rows = self.rows.write();
        for change in changes {
            let applied = rows.apply(change, &mut self.group_bytes);
            applied.map_err(words)?;
        }
        Ok(())
    }

    fn apply_sessions(&mut self, changes: Vec<SessionChange>) -> Result<(), String> {
        let mut rows = self.rows.write();
        for change in &changes {
            rows.sessions.apply(change);
            self.group_bytes.session(change);
        }
        Ok(())
    }

    fn apply_rows(&mut self, writes: Writes) -> Result<(), String> {
        for (table, rows) in &writes {
            for (key, value) in rows {
                self.group_bytes.row(table, key, value.as_deref())?;
            }
        }
        self.tables.apply(writes);
        Ok(())
    }

    fn hand_over(&mut self, memory: Vec<u8>) -> Result<Option<Written>, String> {
        let done = self.checkpoints.poll()?;
        self.checkpointed(done);
        self.rows.write().hand_over();
        if self.group_bytes.is_empty() {
            return Ok(None);
        }
        let begins_file = self.begin_checkpoint()?;
        if begins_file {
            self.turn += 1;
            self.offset = LogFiles::first_offset();
        }
        let bytes = std::mem::replace(&mut self.group_bytes, GroupBytes::in_memory(memory));
        self.group += 1;
        let bytes = bytes.finish(self.log.salt(self.turn), self.group)?;
        self.offset += bytes.len() as u64;
        if self.offset >= self.log_bytes {
            self.fill_checkpoint()?;
        }
        Ok(Some(Written { bytes, begins_file }))
    }

    fn note_used(&mut self, now: Timestamp) -> Result<(), String> {
        self.rows
            .write()
            .note(Note::Used, now.as_millis(), &mut self.group_bytes);
        Ok(())
    }

    fn due(&self, retention: &RetentionOptions, now: Timestamp) -> Due {
        let past = |kept| move |bucket: &&Bucket| bucket.is_past(kept, now);
        let rows = self.rows.read();
        let (answers, settled) = (rows.answers.keys(), rows.settled.keys());
        Due {
            answers: answers.filter(past(retention.answer)).copied().collect(),
            indexes: settled.filter(past(retention.horizon)).copied().collect(),
        }
    }

    fn note(&mut self, due: &Due) -> Result<(), String> {
        if let Some(until) = due.forgotten_until() {
            let until = until.as_millis();
            self.rows
                .write()
                .note(Note::Forgotten, until, &mut self.group_bytes);
        }
        if let Some(until) = due.answers_until() {
            let until = until.as_millis();
            self.rows
                .write()
                .note(Note::AnswersGone, until, &mut self.group_bytes);
        }
        Ok(())
    }

    fn remove(&mut self, due: &Due) -> Result<Swept, String> {
        let mut drops = Vec::new();
        let mut rows = self.rows.write();
        let due_buckets = due.answers.iter().chain(&due.indexes);
        rows.removed.extend(due_buckets.copied());
        for bucket in &due.answers {
            rows.answers.remove(bucket);
            drops.push(bucket_name(ANSWERS, *bucket));
        }
        for bucket in &due.indexes {
            rows.settled.remove(bucket);
            drops.push(bucket_name(SETTLED, *bucket));
        }
        let swept = Swept {
            answers: due.answers.len() as u64,
            tombstones: due.indexes.len() as u64,
            ..Swept::default()
        };
        // Behind whatever may still write to these files.
        match &mut self.next {
            Some(next) => next.drops.extend(drops),
            None => self.checkpoints.drop_files(drops)?,
        }
        Ok(swept)
    }

    fn buckets(&self) -> Vec<BucketStats> {
        self.rows.read().buckets()
    }

    fn close(self: Box<Self>, syncer: Box<dyn Syncer>, failed: bool) {
        let mut this = *self;
        if !failed {
            // OK to ignore because everything is in the log; the next opening carries it over.
            let _ = this.carry_over();
        }
        // By name: what is not dropped before the wait keeps the database open for all of it.
        let Self {
            rows,
            tables,
            next,
            checkpoints,
            db_file,
            lock,
            ..
        } = this;
        // OK to ignore for the same reason.
        let _ = checkpoints.stop();
        crate::kill_point!("disk: checkpoints ended, database not closed");
        drop((rows, tables, next, syncer));
        crate::kill_point!("disk: database closed, lock held");
        wait_until_free(&db_file);
        drop(lock);
    }
}

impl SledDisk {
    /// Carries everything over to sled, so that the next opening has less to do.
    fn carry_over(&mut self) -> Result<(), String> {
        if self.begin_checkpoint()? {
            self.turn += 1;
        }
        self.fill_checkpoint()?;
        self.begin_checkpoint().map(drop)
    }
}

// === impl Known ===

impl Known {
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        match self.open.record(key) {
            Some(record) => Ok(Some(record.clone())),
            None => self.settled_record(key),
        }
    }

    fn answer(&self, key: KeyDigest, call: &CallRecord) -> Result<Option<Answer>, StoreError> {
        let damaged = || StoreError::Corrupt("its answer is missing or damaged".to_owned());
        if self.open.record(key).is_some() {
            return self.open.answer(key, call)?.map(Some).ok_or_else(damaged);
        }
        let time = transition::forgotten_with(&Record::Call(call.clone())).unwrap_or_default();
        let gone = time.as_millis() < self.notes.answers_gone;
        // More than one where the width of a bucket was changed between openings, or one was needed
        // again. In the other one anything may lie at this place.
        let mut damage = damaged();
        for (_, pages) in self.answers.iter().filter(|(at, _)| at.contains(time)) {
            match answer_in(pages, key, call, Wait::ForTheDisk) {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(corrupt @ StoreError::Corrupt(_)) => damage = corrupt,
                Err(error) => return Err(error),
            }
        }
        if gone { Ok(None) } else { Err(damage) }
    }

    fn settled_record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        // Newest first: duplicates are mostly young.
        for Settled { pages, located, .. } in self.settled.values().rev() {
            for at in located.candidates(key) {
                if let Some(record) = read_settled_record(key, pages, at, Wait::ForTheDisk)? {
                    return Ok(Some(record));
                }
            }
        }
        Ok(None)
    }

    fn file(&self, kind: &str, bucket: Bucket) -> io::Result<Arc<PageFile>> {
        PageFile::open(&self.folder, bucket_name(kind, bucket)).map(Arc::new)
    }

    /// Everything that was handed over before is durable, and everything else is handed over now.
    fn hand_over(&mut self) {
        for settled in self.settled.values_mut() {
            settled.durable = settled.handed_over;
            settled.handed_over = settled.pages.end();
        }
    }

    /// The names of the files in use.
    fn names(&self) -> impl Iterator<Item = &str> {
        let settled = self.settled.values().map(|settled| &settled.pages);
        self.answers.values().chain(settled).map(Pages::name)
    }

    /// Everything that is not in sled yet.
    pub(super) fn cut(
        &mut self,
        tables: &mut Tables,
        group: u64,
        next_turn: u64,
    ) -> Result<Checkpoint, String> {
        let mut pages = Vec::new();
        let settled = self.settled.values_mut().map(|settled| &mut settled.pages);
        for file in self.answers.values_mut().chain(settled) {
            pages.extend(file.cut()?);
        }
        let mut numbers = self.notes.numbers();
        numbers.push((META_LAST_SESSION, self.sessions.last()));
        Ok(Checkpoint {
            group,
            pages,
            open: self.open.cut(),
            sessions: self.sessions.cut(),
            tables: tables.cut(),
            numbers,
            next_turn,
            drops: Vec::new(),
        })
    }

    /// What was cut is in sled.
    pub(super) fn written(&mut self, answered: &[KeyDigest]) {
        self.answers.values_mut().for_each(Pages::written);
        let settled = self.settled.values_mut();
        settled.for_each(|settled| settled.pages.written());
        self.open.written(answered);
    }

    fn note(&mut self, note: Note, time: u64, group: &mut GroupBytes) {
        self.notes.raise(note, time);
        group.note(note, time);
    }

    /// Takes in a note of an earlier opening: what was to go after it is gone.
    fn noted(&mut self, note: Note, time: u64) {
        // Their files count until they are removed: what comes later must not be written over them.
        let removed = &mut self.removed;
        let mut stays = |bucket: &Bucket| {
            let stays = bucket.end().as_millis() > time;
            if !stays {
                removed.insert(*bucket);
            }
            stays
        };
        match note {
            Note::Used => {}
            Note::Forgotten => self.settled.retain(|bucket, _| stays(bucket)),
            Note::AnswersGone => self.answers.retain(|bucket, _| stays(bucket)),
        }
        self.notes.raise(note, time);
    }
}

// === impl Settled ===

impl Settled {
    /// Of which nothing is known to be durable.
    const fn new(pages: Pages, located: Located) -> Self {
        let begin = Position { page: 0, offset: 0 };
        Self {
            pages,
            located,
            durable: begin,
            handed_over: begin,
        }
    }
}

// === impl Notes ===

impl Notes {
    fn raise(&mut self, note: Note, time: u64) {
        match note {
            // The clock may have been set back, and that was found to be right.
            Note::Used => self.used = Some(time),
            Note::Forgotten => self.forgotten = self.forgotten.max(time),
            Note::AnswersGone => self.answers_gone = self.answers_gone.max(time),
        }
    }

    fn numbers(&self) -> Vec<(&'static str, u64)> {
        let mut numbers = vec![
            (META_ANSWERS_GONE, self.answers_gone),
            (META_FORGOTTEN, self.forgotten),
        ];
        numbers.extend(self.used.map(|used| (META_LAST_USED, used)));
        numbers
    }
}

/// sled gives its file back only when the last of its own threads lets go of it, which may be a
/// moment after the last handle is dropped.
pub(in crate::sled) fn wait_until_free(db_file: &std::path::Path) {
    for _ in 0..FREE_ATTEMPTS_MAX {
        let Ok(file) = File::open(db_file) else {
            return;
        };
        if file.try_lock().is_ok() {
            return;
        }
        std::thread::park_timeout(FREE_PAUSE);
    }
}

/// The digest in front of a body, and the rest.
pub(super) fn keyed(body: &[u8]) -> Result<(KeyDigest, &[u8]), String> {
    let (key, rest) = body
        .split_first_chunk::<32>()
        .ok_or("something is shorter than its key")?;
    Ok((KeyDigest::from_bytes(*key), rest))
}

pub(super) fn bucket_name(kind: &str, bucket: Bucket) -> String {
    let (start, end) = (bucket.start().as_millis(), bucket.end().as_millis());
    format!("{kind}{start:016x}-{end:016x}")
}

fn bucket_of(kind: &str, name: &str) -> Option<Bucket> {
    let text = name.strip_prefix(kind)?;
    let (start, end) = text.split_once('-')?;
    let time = |text| u64::from_str_radix(text, 16).map(Timestamp::from_millis);
    Some(Bucket::between(time(start).ok()?, time(end).ok()?))
}

/// For `map_err`.
#[expect(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
pub(super) fn words(error: impl ToString) -> String {
    error.to_string()
}

pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// A read that fails says nothing about whether the key is there.
pub(super) fn unreadable(error: &io::Error) -> StoreError {
    StoreError::Unavailable {
        reason: format!("a record could not be read: {error}"),
        retry_after: Duration::from_secs(1),
    }
}

/// The same of a row in sled.
pub(super) fn unreadable_row(error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Io(error) => unreadable(&error),
        other => StoreError::Corrupt(other.to_string()),
    }
}

const ANSWERS: &str = "answers-";
const SETTLED: &str = "settled-";

const META_ANSWERS_GONE: &str = "answers_gone_until";
const META_FORGOTTEN: &str = "forgotten_until";
/// The last group that is in sled.
pub(super) const META_GROUP: &str = "group";
const META_LAST_SESSION: &str = "last_session";
const META_LAST_USED: &str = "last_used";

/// Five seconds in all: sled needs milliseconds, and a store that cannot be reopened at once is
/// better than a closing that hangs.
const FREE_ATTEMPTS_MAX: u32 = 1_000;
const FREE_PAUSE: Duration = Duration::from_millis(5);
