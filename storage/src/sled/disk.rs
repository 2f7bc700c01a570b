//! sled behind the writer's seam.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use ::sled::{Db, Tree};

use super::frame::{self, Extent, Found, Kind, Whole};
use super::located::Located;
use super::mark::Mark;
use super::page::{Pages, Position};
use super::sync::SyncPoint;
use crate::commit::bucket::Bucket;
use crate::commit::disk::{Disk, Due, Syncer};
use crate::commit::{Change, Rows};
use crate::record::{AnswerKept, CallRecord, Record, State};
use crate::{
    Answer, FencingToken, KeyDigest, RetentionOptions, StoreError, StoreId, Swept, Timestamp,
    codec, transition,
};

/// An opened database. Only the thread that owns it reads and writes; another one syncs.
pub(super) struct SledDisk {
    db: Db,
    meta: Tree,
    /// What goes with the answers: answers, and what was open meanwhile.
    recent: BTreeMap<Bucket, Pages>,
    /// What stays until the horizon.
    settled: BTreeMap<Bucket, Settled>,
    open: HashMap<KeyDigest, Open>,
    /// Claims of settled calls that lie in a later bucket than what says so, which a clock that was
    /// set back can cause. Their end is written by the next group: never before they are settled.
    outliving: Vec<(KeyDigest, Open)>,
    /// Where this group writes what is open: one place, so that its frames have an order.
    open_bucket: Option<Bucket>,
    /// Answers that were settled before this time are gone, and that is no damage.
    answers_gone_until: Timestamp,
    width: Duration,
    /// The last group that was handed over.
    group: u64,
    /// Bytes that were given to sled since then.
    unsynced: usize,
    point: SyncPoint,
    db_file: PathBuf,
    /// Held until everything else is closed.
    lock: File,
}

/// The settled records of a bucket.
#[derive(Debug)]
struct Settled {
    pages: Pages,
    located: Located,
}

/// A call that is in progress or in doubt.
#[derive(Debug)]
struct Open {
    record: Record,
    /// Where its newest frame is, and the answer that is kept with it.
    bucket: Bucket,
    /// The latest bucket that has a frame of its claim.
    latest: Bucket,
}

/// What an opening finds of a claim.
struct Claimed {
    token: FencingToken,
    closed: bool,
    group: u64,
    bucket: Bucket,
    latest: Bucket,
    at: Position,
}

/// What an opening needs besides the trees.
pub(super) struct Parts {
    pub(super) db: Db,
    pub(super) db_file: PathBuf,
    pub(super) point: SyncPoint,
    pub(super) lock: File,
}

/// What a store knows of itself.
pub(super) struct Identity {
    pub(super) id: StoreId,
    pub(super) incarnation: u64,
    pub(super) forgotten_until: Timestamp,
    /// When it was last in use, on its clock then.
    pub(super) last_used: Option<Timestamp>,
}

// === impl SledDisk ===

impl SledDisk {
    /// Reads what the trees hold.
    pub(super) fn open(parts: Parts, retention: &RetentionOptions) -> Result<Self, String> {
        let Parts {
            db,
            db_file,
            point,
            lock,
        } = parts;
        let meta = db.open_tree("onlyonce/meta").map_err(words)?;
        let mut disk = Self {
            db,
            meta,
            recent: BTreeMap::new(),
            settled: BTreeMap::new(),
            open: HashMap::new(),
            outliving: Vec::new(),
            open_bucket: None,
            answers_gone_until: Timestamp::default(),
            width: Bucket::width(retention),
            group: 0,
            unsynced: 0,
            point,
            db_file,
            lock,
        };
        disk.group = disk.number(META_GROUP)?.unwrap_or(0);
        let names = disk.db.tree_names();
        // The settled first: what is settled is no longer open.
        for name in &names {
            if let Some(bucket) = bucket_of(SETTLED, name) {
                disk.read_settled(bucket)?;
            }
        }
        let mut claimed = HashMap::new();
        for name in &names {
            if let Some(bucket) = bucket_of(RECENT, name) {
                disk.read_recent(bucket, &mut claimed)?;
            }
        }
        disk.adopt_open(claimed)?;
        Ok(disk)
    }

    /// Raises the incarnation, and makes the identity of a new store. Not yet durable.
    ///
    /// Fails when the database is not the one that was marked, or ends before the mark.
    pub(super) fn identify(
        &mut self,
        now: Timestamp,
        mark: Option<Mark>,
    ) -> Result<Identity, String> {
        let id = match self.meta.get(META_ID).map_err(words)? {
            None => None,
            Some(bytes) => Some(StoreId::from_bytes(
                <[u8; 16]>::try_from(&*bytes).map_err(|_| "the store's id has not 16 bytes")?,
            )),
        };
        match mark {
            Some(mark) if id != Some(mark.id) || self.group < mark.group => {
                return Err(format!(
                    "it ends at group {}, and group {} was acknowledged: sled has dropped a \
                     damaged part of its log",
                    self.group, mark.group
                ));
            }
            // Only a first opening that crashed has none, and then nothing was acknowledged.
            None if self.group > 0 => {
                return Err(format!(
                    "the file MARK is missing, so nobody knows whether group {} is the last that \
                     was acknowledged",
                    self.group
                ));
            }
            Some(_) | None => {}
        }
        let id = id.unwrap_or_else(StoreId::random);
        let incarnation = self.number(META_INCARNATION)?.unwrap_or(0) + 1;
        // A call first sent before this store existed may have been executed by an earlier one.
        let forgotten_until = self
            .number(META_FORGOTTEN)?
            .unwrap_or_else(|| now.as_millis());
        let gone = self.number(META_ANSWERS_GONE)?.unwrap_or(0);
        self.answers_gone_until = Timestamp::from_millis(gone);
        let mut batch = ::sled::Batch::default();
        batch.insert(META_ID, id.as_bytes());
        batch.insert(META_INCARNATION, &incarnation.to_le_bytes());
        batch.insert(META_FORGOTTEN, &forgotten_until.to_le_bytes());
        self.meta.apply_batch(batch).map_err(words)?;
        Ok(Identity {
            id,
            incarnation,
            forgotten_until: Timestamp::from_millis(forgotten_until),
            last_used: self.number(META_LAST_USED)?.map(Timestamp::from_millis),
        })
    }

    /// The records that an earlier incarnation left open.
    pub(super) fn open_records(&self) -> Vec<(KeyDigest, Record)> {
        self.open
            .iter()
            .map(|(key, open)| (*key, open.record.clone()))
            .collect()
    }

    pub(super) const fn db(&self) -> &Db {
        &self.db
    }

    /// The last group that was handed over.
    pub(super) const fn group(&self) -> u64 {
        self.group
    }

    fn read_settled(&mut self, bucket: Bucket) -> Result<(), String> {
        let tree = self.tree(SETTLED, bucket)?;
        let mut located = Located::new();
        let extent = frame::scan(&tree, |frame| {
            if frame.kind != Kind::Settled {
                return Err(format!("{:?} lies among the settled", frame.kind));
            }
            let (key, _) = keyed(frame.body)?;
            located.insert(key, frame.at);
            Ok(())
        })
        .map_err(|damage| format!("bucket {}: {damage}", bucket_name(SETTLED, bucket)))?;
        self.group = self.group.max(extent.group);
        let pages = Pages::new(tree, extent.next);
        self.settled.insert(bucket, Settled { pages, located });
        Ok(())
    }

    fn read_recent(
        &mut self,
        bucket: Bucket,
        claimed: &mut HashMap<KeyDigest, Claimed>,
    ) -> Result<(), String> {
        let tree = self.tree(RECENT, bucket)?;
        let extent = frame::scan(&tree, |frame| {
            let Found {
                kind,
                at,
                group,
                body,
            } = frame;
            let closed = match kind {
                Kind::Answer => return Ok(()),
                Kind::Open => false,
                Kind::Closed => true,
                Kind::Settled => return Err("something settled lies among the open".to_owned()),
            };
            let (key, rest) = keyed(body)?;
            if self.is_settled(key)? {
                return Ok(());
            }
            let (token, _) = tokened(rest)?;
            let new = Claimed {
                token,
                closed,
                group,
                bucket,
                latest: bucket,
                at,
            };
            match claimed.get_mut(&key) {
                None => drop(claimed.insert(key, new)),
                Some(known) => known.join(new),
            }
            Ok(())
        });
        let Extent { next, group } =
            extent.map_err(|damage| format!("bucket {}: {damage}", bucket_name(RECENT, bucket)))?;
        self.group = self.group.max(group);
        self.recent.insert(bucket, Pages::new(tree, next));
        Ok(())
    }

    fn adopt_open(&mut self, claimed: HashMap<KeyDigest, Claimed>) -> Result<(), String> {
        for (key, claimed) in claimed {
            if claimed.closed {
                continue;
            }
            let Claimed {
                bucket, latest, at, ..
            } = claimed;
            let record = self.read_open(bucket, at).map_err(words)?;
            let open = Open {
                record,
                bucket,
                latest,
            };
            self.open.insert(key, open);
        }
        Ok(())
    }

    fn read_open(&self, bucket: Bucket, at: Position) -> Result<Record, StoreError> {
        let missing = || StoreError::Corrupt("an open record is missing".to_owned());
        let pages = self.recent.get(&bucket).ok_or_else(missing)?;
        let mut reader = pages.read(at)?.ok_or_else(missing)?;
        let length = Kind::Open.expect(&mut reader)?;
        let body = reader.take(length)?;
        let (_, rest) = keyed(&body).map_err(StoreError::Corrupt)?;
        let (_, record) = tokened(rest).map_err(StoreError::Corrupt)?;
        codec::decode(record)
    }

    /// The record at a place that may be another key's.
    fn read_settled_record(
        &self,
        key: KeyDigest,
        pages: &Pages,
        at: Position,
    ) -> Result<Option<Record>, StoreError> {
        let missing = || StoreError::Corrupt("a page of settled records is missing".to_owned());
        let mut reader = pages.read(at)?.ok_or_else(missing)?;
        let length = Kind::Settled.expect(&mut reader)?;
        let body = reader.take(length)?;
        let (found, record) = keyed(&body).map_err(StoreError::Corrupt)?;
        if found != key {
            return Ok(None);
        }
        codec::decode(record).map(Some)
    }

    fn settled_record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        // Newest first: duplicates are mostly young.
        for Settled { pages, located } in self.settled.values().rev() {
            for at in located.candidates(key) {
                if let Some(record) = self.read_settled_record(key, pages, at)? {
                    return Ok(Some(record));
                }
            }
        }
        Ok(None)
    }

    fn is_settled(&self, key: KeyDigest) -> Result<bool, String> {
        let known = self
            .settled
            .values()
            .any(|settled| settled.located.candidates(key).next().is_some());
        // Nearly always the record: a part of the digest is all that is in memory.
        Ok(known && self.settled_record(key).map_err(words)?.is_some())
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(bytes) = self.meta.get(name).map_err(words)? else {
            return Ok(None);
        };
        let bytes = <[u8; 8]>::try_from(&*bytes).map_err(|_| format!("{name} has not 8 bytes"))?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    fn set_number(&self, name: &str, number: u64) -> Result<(), String> {
        let written = self.meta.insert(name, &number.to_le_bytes());
        written.map(drop).map_err(words)
    }

    fn tree(&self, kind: &str, bucket: Bucket) -> Result<Tree, String> {
        self.db.open_tree(bucket_name(kind, bucket)).map_err(words)
    }

    fn recent_pages(&mut self, bucket: Bucket) -> Result<&mut Pages, String> {
        if !self.recent.contains_key(&bucket) {
            let pages = Pages::new(self.tree(RECENT, bucket)?, 0);
            crate::kill_point!("disk: recent bucket made, nothing in it");
            self.recent.insert(bucket, pages);
        }
        self.recent
            .get_mut(&bucket)
            .ok_or_else(|| "a bucket that was just made is gone".to_owned())
    }

    fn settled_in(&mut self, bucket: Bucket) -> Result<&mut Settled, String> {
        if !self.settled.contains_key(&bucket) {
            let pages = Pages::new(self.tree(SETTLED, bucket)?, 0);
            crate::kill_point!("disk: settled bucket made, nothing in it");
            let located = Located::new();
            self.settled.insert(bucket, Settled { pages, located });
        }
        self.settled
            .get_mut(&bucket)
            .ok_or_else(|| "a bucket that was just made is gone".to_owned())
    }

    /// Puts the answer that came with a record where answers lie, and notes in the record where.
    fn put_answer(
        &mut self,
        key: KeyDigest,
        record: &mut Record,
        bucket: Bucket,
    ) -> Result<(), String> {
        let Record::Call(call) = record else {
            return Ok(());
        };
        let Some(AnswerKept::Here(answer)) = kept(call).cloned() else {
            return Ok(());
        };
        let whole = Whole::of(key, call, &answer).ok_or("an answer has less than 4 GiB")?;
        let sum = whole.sum(answer.body());
        let head = Kind::Answer.head(sum.len() + answer.body().len())?;
        let group = self.group + 1;
        let pages = self.recent_pages(bucket)?;
        let at = pages.append(&[&head, &sum, answer.body()])?;
        // An answer that nothing refers to is harmless, so these pages need not wait.
        self.unsynced += pages.insert_full(group)?;
        set_beside(call, &whole, at);
        self.sync_if_much()
    }

    fn settle(&mut self, key: KeyDigest, mut record: Record) -> Result<(), String> {
        let bucket = Bucket::of(&record, self.width).ok_or("a settled record has a bucket")?;
        self.put_answer(key, &mut record, bucket)?;
        let record = codec::encode(&record);
        let head = Kind::Settled.head(32 + record.len())?;
        let settled = self.settled_in(bucket)?;
        let at = settled.pages.append(&[&head, key.as_bytes(), &record])?;
        settled.located.insert(key, at);
        if let Some(open) = self.open.remove(&key)
            && open.latest > bucket
        {
            self.outliving.push((key, open));
        }
        Ok(())
    }

    fn put_open(
        &mut self,
        key: KeyDigest,
        mut record: Record,
        now: Timestamp,
    ) -> Result<(), String> {
        let width = self.width;
        let bucket = *self
            .open_bucket
            .get_or_insert_with(|| Bucket::at(now.plus(transition::CLOCK_DIFFERENCE_MAX), width));
        let before = self.open.get(&key).map(|open| (open.bucket, open.latest));
        if let (Record::Call(call), Some((kept_in, _))) = (&mut record, before)
            && kept_in != bucket
            && matches!(kept(call), Some(AnswerKept::Beside { .. }))
        {
            let answer = self.answer_in(kept_in, key, call).map_err(words)?;
            let answer = answer.ok_or("the answer that is kept with a doubt is missing")?;
            set_here(call, answer);
        }
        self.put_answer(key, &mut record, bucket)?;
        let token = record.call().ok_or("what is open is a call")?.token;
        let bytes = codec::encode(&record);
        let head = Kind::Open.head(32 + 16 + bytes.len())?;
        let group = self.group + 1;
        let pages = self.recent_pages(bucket)?;
        pages.append(&[&head, key.as_bytes(), &token_bytes(token), &bytes])?;
        self.unsynced += pages.insert_full(group)?;
        let latest = before.map_or(bucket, |(_, latest)| latest.max(bucket));
        let open = Open {
            record,
            bucket,
            latest,
        };
        self.open.insert(key, open);
        Ok(())
    }

    /// Keeps what lies between two syncs small beside a segment of sled's log: where it fills
    /// several, a power cut may leave a later one without an earlier one, and sled then throws the
    /// whole log away.
    fn sync_if_much(&mut self) -> Result<(), String> {
        if self.unsynced >= UNSYNCED_BYTES_MAX {
            self.point.commit(&self.db).map_err(words)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn close_claim(&mut self, key: KeyDigest, open: &Open) -> Result<(), String> {
        let token = open.record.call().ok_or("what is open is a call")?.token;
        let head = Kind::Closed.head(32 + 16)?;
        self.recent_pages(open.latest)?
            .append(&[&head, key.as_bytes(), &token_bytes(token)])?;
        Ok(())
    }

    fn answer_in(
        &self,
        bucket: Bucket,
        key: KeyDigest,
        call: &CallRecord,
    ) -> Result<Option<Answer>, StoreError> {
        let Some(&AnswerKept::Beside { format, length, at }) = kept(call) else {
            return Ok(None);
        };
        let whole = Whole {
            key,
            token: call.token,
            format,
            length,
        };
        let (Some(pages), Some(at)) = (self.recent.get(&bucket), Position::from_number(at)) else {
            return Ok(None);
        };
        match pages.read(at)? {
            None => Ok(None),
            Some(mut reader) => whole.read(&mut reader),
        }
    }

    fn drop_tree(&self, kind: &str, bucket: Bucket) -> Result<u64, String> {
        let dropped = self.db.drop_tree(bucket_name(kind, bucket));
        crate::kill_point!("disk: one tree dropped, the next not");
        dropped.map(u64::from).map_err(words)
    }
}

impl Rows for SledDisk {
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        match self.open.get(&key) {
            Some(open) => Ok(Some(open.record.clone())),
            None => self.settled_record(key),
        }
    }

    fn answer(&self, key: KeyDigest, call: &CallRecord) -> Result<Option<Answer>, StoreError> {
        let damaged = || StoreError::Corrupt("its answer is missing or damaged".to_owned());
        if let Some(open) = self.open.get(&key) {
            let answer = self.answer_in(open.bucket, key, call)?;
            return answer.map(Some).ok_or_else(damaged);
        }
        let settled = Record::Call(call.clone());
        let time = transition::forgotten_with(&settled).unwrap_or_default();
        let gone = time < self.answers_gone_until;
        // More than one where the width of a bucket was changed between openings.
        for bucket in self.recent.keys().filter(|bucket| bucket.contains(time)) {
            match self.answer_in(*bucket, key, call) {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(StoreError::Corrupt(_)) if gone => {}
                Err(error) => return Err(error),
            }
        }
        if gone { Ok(None) } else { Err(damaged()) }
    }
}

impl Disk for SledDisk {
    fn apply(&mut self, changes: Vec<Change>, now: Timestamp) -> Result<(), String> {
        for Change { key, before, after } in changes {
            if before.as_ref().is_some_and(Record::is_settled) {
                return Err("a settled record never changes".to_owned());
            }
            match after {
                Some(record) if record.is_settled() => self.settle(key, record)?,
                Some(record) => self.put_open(key, record, now)?,
                None => {
                    if let Some(open) = self.open.remove(&key) {
                        self.close_claim(key, &open)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<u64, String> {
        let group = self.group + 1;
        // Answers and claims come before the settled records that refer to them or end them: a
        // crash in between leaves a part of a group that nobody was told of, and no lie.
        let in_recent = self
            .recent
            .values_mut()
            .filter(|pages| pages.is_unfinished());
        let settled = self.settled.values_mut().map(|settled| &mut settled.pages);
        let in_settled = settled.filter(|pages| pages.is_unfinished());
        let mut unfinished = in_recent.chain(in_settled).peekable();
        if unfinished.peek().is_none() {
            return Ok(self.group);
        }
        while let Some(pages) = unfinished.next() {
            let ends_group = unfinished.peek().is_none();
            pages.finish(group, ends_group)?;
            crate::kill_point!("disk: one tree's part of a group written, the next not");
        }
        self.group = group;
        self.open_bucket = None;
        // This group may still wait for its sync when the next one is written: each has a half.
        self.unsynced = 0;
        for (key, open) in std::mem::take(&mut self.outliving) {
            self.close_claim(key, &open)?;
        }
        Ok(group)
    }

    fn due(&self, retention: &RetentionOptions, now: Timestamp) -> Due {
        let past = |kept| move |bucket: &&Bucket| bucket.is_past(kept, now);
        Due {
            answers: self
                .recent
                .keys()
                .filter(past(retention.answer))
                .copied()
                .collect(),
            indexes: self
                .settled
                .keys()
                .filter(past(retention.horizon))
                .copied()
                .collect(),
        }
    }

    fn note_used(&mut self, now: Timestamp) -> Result<(), String> {
        self.set_number(META_LAST_USED, now.as_millis())
    }

    fn note(&mut self, due: &Due, now: Timestamp) -> Result<(), String> {
        // What is still open moves to where it stays.
        let moving: Vec<_> = self
            .open
            .iter()
            .filter(|(_, open)| due.answers.contains(&open.bucket))
            .map(|(key, open)| (*key, open.record.clone()))
            .collect();
        for (key, record) in moving {
            self.put_open(key, record, now)?;
        }
        // With the buckets the numbers go that say which group was the last.
        let group = self.hand_over()?;
        crate::kill_point!("disk: what stays moved, nothing noted");
        self.set_number(META_GROUP, group)?;
        crate::kill_point!("disk: group noted, what is forgotten not");
        let raised = |known: Option<u64>, to: Timestamp| known.unwrap_or(0).max(to.as_millis());
        if let Some(until) = due.forgotten_until() {
            let until = raised(self.number(META_FORGOTTEN)?, until);
            self.set_number(META_FORGOTTEN, until)?;
        }
        if let Some(until) = due.answers_until() {
            let until = raised(self.number(META_ANSWERS_GONE)?, until);
            self.set_number(META_ANSWERS_GONE, until)?;
            self.answers_gone_until = Timestamp::from_millis(until);
        }
        Ok(())
    }

    fn remove(&mut self, due: &Due) -> Result<Swept, String> {
        let mut swept = Swept::default();
        for bucket in &due.answers {
            self.recent.remove(bucket);
            swept.answers += self.drop_tree(RECENT, *bucket)?;
        }
        for bucket in &due.indexes {
            self.settled.remove(bucket);
            swept.tombstones += self.drop_tree(SETTLED, *bucket)?;
        }
        Ok(swept)
    }

    fn close(self: Box<Self>, syncer: Box<dyn Syncer>) {
        let Self {
            db,
            meta,
            recent,
            settled,
            db_file,
            lock,
            ..
        } = *self;
        drop((meta, recent, settled, db));
        crate::kill_point!("disk: writer's half closed, syncer's not");
        syncer.close();
        crate::kill_point!("disk: database closed, lock held");
        wait_until_free(&db_file);
        drop(lock);
    }
}

// === impl Claimed ===

impl Claimed {
    /// Takes in another frame of the same key: the newest claim counts, of it the last word, and
    /// nothing follows its end.
    fn join(&mut self, other: Self) {
        if other.token == self.token {
            let latest = self.latest.max(other.latest);
            let newer = (other.closed, other.group) >= (self.closed, self.group);
            if newer {
                *self = other;
            }
            self.latest = latest;
        } else if other.token > self.token {
            *self = other;
        }
    }
}

/// sled gives its file back only when the last of its own threads lets go of it, which may be a
/// moment after the last handle is dropped.
fn wait_until_free(db_file: &std::path::Path) {
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

const fn kept(call: &CallRecord) -> Option<&AnswerKept> {
    match &call.state {
        State::Completed { answer, .. } => Some(answer),
        State::InDoubt { answer, .. } => answer.as_ref(),
        State::InProgress { .. } => None,
    }
}

fn set_beside(call: &mut CallRecord, whole: &Whole, at: Position) {
    set_kept(
        call,
        AnswerKept::Beside {
            format: whole.format,
            length: whole.length,
            at: at.to_number(),
        },
    );
}

fn set_here(call: &mut CallRecord, answer: Answer) {
    set_kept(call, AnswerKept::Here(answer));
}

fn set_kept(call: &mut CallRecord, kept: AnswerKept) {
    match &mut call.state {
        State::Completed { answer, .. } => *answer = kept,
        State::InDoubt { answer, .. } => *answer = Some(kept),
        State::InProgress { .. } => {}
    }
}

/// The digest in front of a body, and the rest.
fn keyed(body: &[u8]) -> Result<(KeyDigest, &[u8]), String> {
    let (key, rest) = body
        .split_first_chunk::<32>()
        .ok_or("a frame is shorter than its key")?;
    Ok((KeyDigest::from_bytes(*key), rest))
}

fn tokened(body: &[u8]) -> Result<(FencingToken, &[u8]), String> {
    let short = "a frame is shorter than its token";
    let (incarnation, rest) = body.split_first_chunk::<8>().ok_or(short)?;
    let (sequence, rest) = rest.split_first_chunk::<8>().ok_or(short)?;
    let token = FencingToken::new(
        u64::from_le_bytes(*incarnation),
        u64::from_le_bytes(*sequence),
    );
    Ok((token, rest))
}

fn token_bytes(token: FencingToken) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&token.incarnation().to_le_bytes());
    bytes[8..].copy_from_slice(&token.sequence().to_le_bytes());
    bytes
}

fn bucket_name(kind: &str, bucket: Bucket) -> String {
    let (start, end) = (bucket.start().as_millis(), bucket.end().as_millis());
    format!("{kind}{start:016x}-{end:016x}")
}

fn bucket_of(kind: &str, name: &[u8]) -> Option<Bucket> {
    let text = std::str::from_utf8(name).ok()?.strip_prefix(kind)?;
    let (start, end) = text.split_once('-')?;
    let time = |text| u64::from_str_radix(text, 16).map(Timestamp::from_millis);
    Some(Bucket::between(time(start).ok()?, time(end).ok()?))
}

/// For `map_err`.
#[expect(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
pub(super) fn words(error: impl ToString) -> String {
    error.to_string()
}

/// A read that fails says nothing about whether the key is there.
pub(super) fn unreadable(error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Io(error) => StoreError::Unavailable {
            reason: format!("a row could not be read: {error}"),
            retry_after: Duration::from_secs(1),
        },
        other => StoreError::Corrupt(other.to_string()),
    }
}

const RECENT: &str = "onlyonce/recent/";
const SETTLED: &str = "onlyonce/settled/";

const META_ANSWERS_GONE: &str = "answers_gone_until";
const META_FORGOTTEN: &str = "forgotten_until";
const META_GROUP: &str = "group";
const META_ID: &str = "id";
const META_INCARNATION: &str = "incarnation";
const META_LAST_USED: &str = "last_used";

/// Two groups may wait for their syncs, and sled writes up to three times what it is given: together
/// less than half of a segment.
const UNSYNCED_BYTES_MAX: usize = super::open::SEGMENT_BYTES / 16;

/// Five seconds in all: sled needs milliseconds, and a store that cannot be reopened at once is
/// better than a closing that hangs.
const FREE_ATTEMPTS_MAX: u32 = 1_000;
const FREE_PAUSE: Duration = Duration::from_millis(5);
