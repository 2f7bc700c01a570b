//! sled behind the writer's seam.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use ::sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use ::sled::{Db, Tree};

use super::SyncPoint;
use super::layout::{self, Place, RowWrite};
use super::mark::{Mark, MarkFile};
use crate::commit::bucket::Bucket;
use crate::commit::disk::{Disk, Due};
use crate::commit::{Change, Rows};
use crate::record::{CallRecord, Record, State};
use crate::{
    Answer, KeyDigest, RetentionOptions, StoreError, StoreId, Swept, Timestamp, codec, transition,
};

/// An opened database. Only the thread that owns it touches sled.
pub(super) struct SledDisk {
    db: Db,
    meta: Tree,
    trees: BTreeMap<Place, Tree>,
    sync: SyncPoint,
    /// Answers that were settled before this time are gone, and that is no damage.
    answers_gone_until: Timestamp,
    width: Duration,
    /// The last group that was applied, and the last of which the sync returned.
    group: u64,
    synced: u64,
    mark: Mark,
    mark_file: MarkFile,
    db_file: PathBuf,
    /// Held until everything else is closed.
    lock: File,
}

/// What an opening needs besides the trees.
pub(super) struct Parts {
    pub(super) db: Db,
    pub(super) db_file: PathBuf,
    pub(super) lock: File,
    /// What the file says, and the file.
    pub(super) mark: Option<Mark>,
    pub(super) mark_file: MarkFile,
    pub(super) sync: SyncPoint,
}

/// What a store knows of itself.
pub(super) struct Identity {
    pub(super) id: StoreId,
    pub(super) incarnation: u64,
    pub(super) forgotten_until: Timestamp,
}

// === impl SledDisk ===

impl SledDisk {
    pub(super) fn new(parts: Parts, retention: &RetentionOptions) -> ::sled::Result<Self> {
        let Parts {
            db,
            db_file,
            lock,
            mark,
            mark_file,
            sync,
        } = parts;
        let mut trees = BTreeMap::new();
        for place in [Place::Open, Place::OpenAnswers] {
            trees.insert(place, db.open_tree(place.name())?);
        }
        for name in db.tree_names() {
            if let Some(place) = Place::bucket_tree(&name) {
                trees.insert(place, db.open_tree(&name)?);
            }
        }
        let meta = db.open_tree("onlyonce/meta")?;
        let mark = mark.unwrap_or(Mark {
            id: StoreId::random(),
            group: 0,
        });
        Ok(Self {
            db,
            meta,
            trees,
            sync,
            answers_gone_until: Timestamp::default(),
            width: Bucket::width(retention),
            group: 0,
            synced: 0,
            mark,
            mark_file,
            db_file,
            lock,
        })
    }

    /// Raises the incarnation, and makes the identity of a new store. Not yet durable.
    ///
    /// Fails when the database is not the one that was marked, or ends before the mark.
    pub(super) fn identify(&mut self, now: Timestamp, marked: bool) -> Result<Identity, String> {
        let id = match self.meta.get(META_ID).map_err(words)? {
            None => None,
            Some(bytes) => Some(StoreId::from_bytes(
                <[u8; 16]>::try_from(&*bytes).map_err(|_| "the store's id has not 16 bytes")?,
            )),
        };
        self.group = self.number(META_GROUP)?.unwrap_or(0);
        if marked && (id != Some(self.mark.id) || self.group < self.mark.group) {
            return Err(format!(
                "it ends at group {}, and group {} was acknowledged: sled has dropped a damaged \
                 part of its log",
                self.group, self.mark.group
            ));
        }
        let id = id.unwrap_or(self.mark.id);
        self.mark.id = id;
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
        })
    }

    /// The records that an earlier incarnation left open. One that cannot be believed is left
    /// where it is: whoever asks for its key is told.
    pub(super) fn open_records(
        &self,
    ) -> impl Iterator<Item = Result<(KeyDigest, Record), String>> + use<> {
        let open = self.trees.get(&Place::Open).cloned();
        open.into_iter()
            .flat_map(|tree| tree.iter())
            .filter_map(|row| match row {
                Err(error) => Some(Err(words(error))),
                Ok((key, value)) => {
                    let key = KeyDigest::from_bytes(<[u8; 32]>::try_from(&*key).ok()?);
                    Some(Ok((key, codec::decode(&value).ok()?)))
                }
            })
    }

    /// Writes down, durably, that everything up to here was synced.
    pub(super) fn mark_synced(&mut self) -> Result<(), String> {
        self.write_mark()?;
        self.mark_file.sync().map_err(words)
    }

    /// What was synced before may be marked now; what is applied now only by the next group, so
    /// that a crash never leaves a mark ahead of its database.
    fn write_mark(&mut self) -> Result<(), String> {
        self.mark.group = self.synced;
        self.mark_file.write(self.mark).map_err(words)
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(bytes) = self.meta.get(name).map_err(words)? else {
            return Ok(None);
        };
        let bytes = <[u8; 8]>::try_from(&*bytes).map_err(|_| format!("{name} has not 8 bytes"))?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    fn indexes(&self) -> impl Iterator<Item = (Bucket, &Tree)> {
        // Newest first: duplicates are mostly young.
        self.trees.iter().rev().filter_map(|(place, tree)| {
            let Place::Index(bucket) = place else {
                return None;
            };
            Some((*bucket, tree))
        })
    }

    fn tree(&mut self, place: Place) -> Result<Tree, String> {
        if let Some(tree) = self.trees.get(&place) {
            return Ok(tree.clone());
        }
        let tree = self.db.open_tree(place.name()).map_err(words)?;
        crate::kill_point!("disk: new tree made, nothing in it");
        self.trees.insert(place, tree.clone());
        Ok(tree)
    }

    fn drop_tree(&mut self, place: Place) -> Result<u64, String> {
        self.trees.remove(&place);
        let dropped = self.db.drop_tree(place.name()).map_err(words)?;
        crate::kill_point!("disk: one tree dropped, the next not");
        Ok(u64::from(dropped))
    }
}

impl Rows for SledDisk {
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        let open = self.trees.get(&Place::Open).into_iter();
        for tree in open.chain(self.indexes().map(|(_, tree)| tree)) {
            if let Some(value) = tree.get(key.as_bytes()).map_err(unreadable)? {
                return codec::decode(&value).map(Some);
            }
        }
        Ok(None)
    }

    fn answer(&self, key: KeyDigest, call: &CallRecord) -> Result<Option<Answer>, StoreError> {
        let missing = || StoreError::Corrupt("its answer is missing".to_owned());
        let whole = layout::beside(key, call).ok_or_else(missing)?;
        let read = |tree: &Tree| whole.join(|piece| tree.get(piece).map_err(unreadable));
        if !matches!(call.state, State::Completed { .. }) {
            let tree = self.trees.get(&Place::OpenAnswers).ok_or_else(missing)?;
            return read(tree)?.map(Some).ok_or_else(missing);
        }
        let settled = transition::forgotten_with(&Record::Call(call.clone())).unwrap_or_default();
        // More than one where the width of a bucket was changed between openings.
        for (place, tree) in &self.trees {
            if let Place::Answers(bucket) = place
                && bucket.contains(settled)
                && let Some(answer) = read(tree)?
            {
                return Ok(Some(answer));
            }
        }
        if settled < self.answers_gone_until {
            return Ok(None);
        }
        Err(missing())
    }
}

impl Disk for SledDisk {
    fn apply(&mut self, changes: &[Change]) -> Result<(), String> {
        let mut rows = Vec::new();
        for change in changes {
            rows.extend(layout::rows_of(change, self.width)?);
        }
        let mut trees = Vec::new();
        let mut places: Vec<Place> = Vec::new();
        for row in &rows {
            if !places.contains(&row.place) {
                trees.push(self.tree(row.place)?);
                places.push(row.place);
            }
        }
        if trees.is_empty() {
            return Ok(());
        }
        self.write_mark()?;
        let group = self.group + 1;
        let meta = trees.len();
        trees.push(self.meta.clone());
        let written = trees.as_slice().transaction(|views| {
            for RowWrite { place, key, value } in &rows {
                // OK because every row's place was added to the list above.
                let Some(at) = places.iter().position(|known| known == place) else {
                    return Err(ConflictableTransactionError::Abort(()));
                };
                match value {
                    None => views[at].remove(key.as_slice())?,
                    Some(value) => views[at].insert(key.as_slice(), value.as_slice())?,
                };
            }
            views[meta].insert(META_GROUP, &group.to_le_bytes())?;
            Ok(())
        });
        self.group = group;
        written.map_err(|error| match error {
            TransactionError::Abort(()) => "a row has no tree".to_owned(),
            TransactionError::Storage(error) => words(error),
        })
    }

    fn flush(&mut self) -> Result<(), String> {
        SyncPoint::flush(&self.db).map_err(words)
    }

    fn sync(&mut self) -> Result<(), String> {
        self.sync.sync().map_err(words)?;
        self.synced = self.group;
        Ok(())
    }

    fn due(&self, retention: &RetentionOptions, now: Timestamp) -> Due {
        let mut due = Due::default();
        for place in self.trees.keys() {
            match *place {
                Place::Answers(bucket) if bucket.is_past(retention.answer, now) => {
                    due.answers.push(bucket);
                }
                Place::Index(bucket) if bucket.is_past(retention.horizon, now) => {
                    due.indexes.push(bucket);
                }
                _ => {}
            }
        }
        due
    }

    fn note(&mut self, due: &Due) -> Result<(), String> {
        let raised = |known: Option<u64>, to: Timestamp| known.unwrap_or(0).max(to.as_millis());
        if let Some(until) = due.forgotten_until() {
            let until = raised(self.number(META_FORGOTTEN)?, until);
            let written = self.meta.insert(META_FORGOTTEN, &until.to_le_bytes());
            written.map_err(words)?;
        }
        crate::kill_point!("disk: forgotten calls noted, forgotten answers not");
        if let Some(until) = due.answers_until() {
            let until = raised(self.number(META_ANSWERS_GONE)?, until);
            let written = self.meta.insert(META_ANSWERS_GONE, &until.to_le_bytes());
            written.map_err(words)?;
            self.answers_gone_until = Timestamp::from_millis(until);
        }
        Ok(())
    }

    fn remove(&mut self, due: &Due) -> Result<Swept, String> {
        let mut swept = Swept::default();
        for bucket in &due.answers {
            swept.answers += self.drop_tree(Place::Answers(*bucket))?;
        }
        for bucket in &due.indexes {
            swept.tombstones += self.drop_tree(Place::Index(*bucket))?;
        }
        Ok(swept)
    }

    fn close(mut self: Box<Self>) {
        // OK to ignore because an older mark is a true one too, it only shows less.
        let _ = self.mark_synced();
        let Self {
            db,
            meta,
            trees,
            sync,
            db_file,
            lock,
            ..
        } = *self;
        crate::kill_point!("disk: marked at the end, database not closed");
        drop((meta, trees, db, sync));
        crate::kill_point!("disk: database closed, lock held");
        wait_until_free(&db_file);
        drop(lock);
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

/// For `map_err`.
#[expect(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
fn words(error: impl ToString) -> String {
    error.to_string()
}

/// A read that fails says nothing about whether the key is there.
fn unreadable(error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Io(error) => StoreError::Unavailable {
            reason: format!("a row could not be read: {error}"),
            retry_after: Duration::from_secs(1),
        },
        other => StoreError::Corrupt(other.to_string()),
    }
}

const META_ANSWERS_GONE: &str = "answers_gone_until";
const META_FORGOTTEN: &str = "forgotten_until";
const META_GROUP: &str = "group";
const META_ID: &str = "id";
const META_INCARNATION: &str = "incarnation";

/// Five seconds in all: sled needs milliseconds, and a store that cannot be reopened at once is
/// better than a closing that hangs.
const FREE_ATTEMPTS_MAX: u32 = 1_000;
const FREE_PAUSE: Duration = Duration::from_millis(5);
