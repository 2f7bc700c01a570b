//! Reading what the trees hold when a store is opened.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;

use ::sled::Db;

use super::{
    META_ANSWERS_GONE, META_FORGOTTEN, META_GROUP, META_ID, META_INCARNATION, META_LAST_USED, Open,
    RECENT, SETTLED, Settled, SledDisk, bucket_name, bucket_of, keyed, tokened,
};
use crate::commit::bucket::Bucket;
use crate::record::Record;
use crate::sled::cause::Cause;
use crate::sled::frame::{self, Extent, Found, Kind};
use crate::sled::located::Located;
use crate::sled::mark::Mark;
use crate::sled::page::{Pages, Position};
use crate::sled::sync::SyncPoint;
use crate::{FencingToken, KeyDigest, RetentionOptions, StoreError, StoreId, Timestamp, codec};

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
pub(in crate::sled) struct Parts {
    pub(in crate::sled) db: Db,
    pub(in crate::sled) db_file: PathBuf,
    pub(in crate::sled) point: SyncPoint,
    pub(in crate::sled) lock: File,
}

/// What a store knows of itself.
pub(in crate::sled) struct Identity {
    pub(in crate::sled) id: StoreId,
    pub(in crate::sled) incarnation: u64,
    pub(in crate::sled) forgotten_until: Timestamp,
    /// When it was last in use, on its clock then.
    pub(in crate::sled) last_used: Option<Timestamp>,
}

// === impl SledDisk ===

impl SledDisk {
    /// Reads what the trees hold.
    pub(in crate::sled) fn open(parts: Parts, retention: &RetentionOptions) -> Result<Self, Cause> {
        let Parts {
            db,
            db_file,
            point,
            lock,
        } = parts;
        let meta = db.open_tree("onlyonce/meta")?;
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
        disk.group = disk.noted(META_GROUP)?.unwrap_or(0);
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
    pub(in crate::sled) fn identify(
        &mut self,
        now: Timestamp,
        mark: Option<Mark>,
    ) -> Result<Identity, Cause> {
        let id = match self.meta.get(META_ID)? {
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
                )
                .into());
            }
            // Only a first opening that crashed has none, and then nothing was acknowledged.
            None if self.group > 0 => {
                return Err(format!(
                    "the file MARK is missing, so nobody knows whether group {} is the last that \
                     was acknowledged",
                    self.group
                )
                .into());
            }
            Some(_) | None => {}
        }
        let id = id.unwrap_or_else(StoreId::random);
        let incarnation = self.noted(META_INCARNATION)?.unwrap_or(0) + 1;
        // A call first sent before this store existed may have been executed by an earlier one.
        let forgotten_until = self
            .number(META_FORGOTTEN)?
            .unwrap_or_else(|| now.as_millis());
        let gone = self.noted(META_ANSWERS_GONE)?.unwrap_or(0);
        self.answers_gone_until = Timestamp::from_millis(gone);
        let mut batch = ::sled::Batch::default();
        batch.insert(META_ID, id.as_bytes());
        batch.insert(META_INCARNATION, &incarnation.to_le_bytes());
        batch.insert(META_FORGOTTEN, &forgotten_until.to_le_bytes());
        self.meta.apply_batch(batch)?;
        Ok(Identity {
            id,
            incarnation,
            forgotten_until: Timestamp::from_millis(forgotten_until),
            last_used: self.noted(META_LAST_USED)?.map(Timestamp::from_millis),
        })
    }

    /// The records that an earlier incarnation left open.
    pub(in crate::sled) fn open_records(&self) -> Vec<(KeyDigest, Record)> {
        self.open
            .iter()
            .map(|(key, open)| (*key, open.record.clone()))
            .collect()
    }

    /// As [`number`](Self::number), with the reason as an opening tells it.
    fn noted(&self, name: &str) -> Result<Option<u64>, Cause> {
        let Some(bytes) = self.meta.get(name)? else {
            return Ok(None);
        };
        let bytes = <[u8; 8]>::try_from(&*bytes).map_err(|_| format!("{name} has not 8 bytes"))?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    fn read_settled(&mut self, bucket: Bucket) -> Result<(), Cause> {
        let tree = self.db.open_tree(bucket_name(SETTLED, bucket))?;
        let mut located = Located::new();
        let extent = frame::scan(&tree, |frame| {
            if frame.kind != Kind::Settled {
                return Err(format!("{:?} lies among the settled", frame.kind).into());
            }
            let (key, _) = keyed(frame.body)?;
            located.insert(key, frame.at);
            Ok(())
        })
        .map_err(|cause| cause.at(format_args!("bucket {}", bucket_name(SETTLED, bucket))))?;
        self.group = self.group.max(extent.group);
        let pages = Pages::new(tree, extent.next);
        self.settled.insert(bucket, Settled { pages, located });
        Ok(())
    }

    fn read_recent(
        &mut self,
        bucket: Bucket,
        claimed: &mut HashMap<KeyDigest, Claimed>,
    ) -> Result<(), Cause> {
        let tree = self.db.open_tree(bucket_name(RECENT, bucket))?;
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
                Kind::Settled => return Err("something settled lies among the open".into()),
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
        let Extent { next, group } = extent
            .map_err(|cause| cause.at(format_args!("bucket {}", bucket_name(RECENT, bucket))))?;
        self.group = self.group.max(group);
        self.recent.insert(bucket, Pages::new(tree, next));
        Ok(())
    }

    fn adopt_open(&mut self, claimed: HashMap<KeyDigest, Claimed>) -> Result<(), Cause> {
        for (key, claimed) in claimed {
            if claimed.closed {
                continue;
            }
            let Claimed {
                bucket, latest, at, ..
            } = claimed;
            let at_page = |error| {
                let name = bucket_name(RECENT, bucket);
                Cause::from(error).at(format_args!("bucket {name}: page {}", at.page))
            };
            let record = self.read_open(bucket, at).map_err(at_page)?;
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

    pub(super) fn is_settled(&self, key: KeyDigest) -> Result<bool, StoreError> {
        let known = self
            .settled
            .values()
            .any(|settled| settled.located.candidates(key).next().is_some());
        // Nearly always the record: a part of the digest is all that is in memory.
        Ok(known && self.settled_record(key)?.is_some())
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
