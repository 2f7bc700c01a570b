//! sled behind the writer's seam.

mod opening;
mod writing;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use ::sled::{Db, Tree};

pub(super) use self::opening::{Identity, Parts};
use self::writing::answer_bytes;
use super::frame::Kind;
use super::located::Located;
use super::page::{Pages, Position};
use super::sync::SyncPoint;
use crate::commit::bucket::Bucket;
use crate::commit::disk::{Disk, Due, Syncer};
use crate::commit::{Change, Rows};
use crate::record::{CallRecord, Record};
use crate::{
    Answer, FencingToken, KeyDigest, RetentionOptions, StoreError, Swept, Timestamp, codec,
    transition,
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

// === impl SledDisk ===

impl SledDisk {
    pub(super) const fn db(&self) -> &Db {
        &self.db
    }

    /// The last group that was handed over.
    pub(super) const fn group(&self) -> u64 {
        self.group
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

    /// Some of what is open and lies where answers go.
    fn open_in(&self, due: &Due, count_max: usize) -> Vec<(KeyDigest, Record)> {
        self.open
            .iter()
            .filter(|(_, open)| due.answers.contains(&open.bucket))
            .map(|(key, open)| (*key, open.record.clone()))
            .take(count_max)
            .collect()
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

    fn move_some(&mut self, due: &Due, now: Timestamp) -> Result<bool, String> {
        let moving = self.open_in(due, MOVED_AT_ONCE_MAX);
        let mut bytes = 0;
        for (at, (key, record)) in moving.iter().enumerate() {
            if bytes >= MOVED_AT_ONCE_BYTES_MAX {
                return Ok(at < moving.len());
            }
            bytes += answer_bytes(record);
            self.put_open(*key, record.clone(), now)?;
        }
        Ok(moving.len() == MOVED_AT_ONCE_MAX)
    }

    fn note(&mut self, due: &Due, now: Timestamp) -> Result<(), String> {
        // What is still open moves to where it stays.
        for (key, record) in self.open_in(due, usize::MAX) {
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

pub(super) fn token_bytes(token: FencingToken) -> [u8; 16] {
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

/// A few milliseconds of writing, for which calls wait.
const MOVED_AT_ONCE_MAX: usize = 500;
const MOVED_AT_ONCE_BYTES_MAX: usize = 512 * 1024;

/// Five seconds in all: sled needs milliseconds, and a store that cannot be reopened at once is
/// better than a closing that hangs.
const FREE_ATTEMPTS_MAX: u32 = 1_000;
const FREE_PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &std::path::Path) -> SledDisk {
        let db = ::sled::Config::new().path(path.join("db")).open().unwrap();
        let parts = Parts {
            db,
            db_file: path.join("db/db"),
            point: SyncPoint::open(path.join("db")).unwrap(),
            lock: File::create(path.join("LOCK")).unwrap(),
        };
        SledDisk::open(parts, &RetentionOptions::default()).unwrap()
    }

    /// A digest that begins like the others.
    fn digest(last: u8) -> KeyDigest {
        let mut bytes = [0x5a; 32];
        bytes[31] = last;
        KeyDigest::from_bytes(bytes)
    }

    #[test]
    fn keys_whose_digests_begin_alike_are_all_found_and_never_confused() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::from_millis(1_700_000_000_000);
        // In the same bucket and in others.
        let sealed = |last: u8| Record::Sealed {
            at: now.plus(Duration::from_secs(u64::from(last) * 20_000)),
        };
        let check = |disk: &SledDisk| {
            for last in 0..20 {
                assert_eq!(disk.record(digest(last)), Ok(Some(sealed(last))), "{last}");
                assert_eq!(disk.is_settled(digest(last)), Ok(true));
            }
            for last in 20..40 {
                assert_eq!(disk.record(digest(last)), Ok(None), "{last}");
                assert_eq!(disk.is_settled(digest(last)), Ok(false));
            }
        };
        let mut opened = disk(folder.path());
        for last in 0..20 {
            let change = Change {
                key: digest(last),
                before: None,
                after: Some(sealed(last)),
            };
            opened.apply(vec![change], now).unwrap();
        }
        check(&opened);
        opened.hand_over().unwrap();
        check(&opened);
        opened.point.commit(&opened.db).unwrap();
        let SledDisk {
            db,
            meta,
            recent,
            settled,
            db_file,
            ..
        } = opened;
        drop((meta, recent, settled, db));
        wait_until_free(&db_file);
        check(&disk(folder.path()));
    }
}
