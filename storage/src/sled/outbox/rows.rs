//! Calls as rows of one tree.

use ::sled::{Batch, Db, Tree};
use bytes::{Bytes, BytesMut};

use crate::outbox::table::Row;
use crate::outbox::{Body, OutboxCall, OutboxEntry, OutboxError, OutboxState, codec};
use crate::sled::disk::words;
use crate::{Scope, StoreId};

/// The tree, and what is known of the whole.
#[derive(Debug)]
pub(super) struct Rows {
    tree: Tree,
    /// The last group that was applied.
    pub(super) group: u64,
}

/// What belongs together, to be written at once.
#[derive(Default)]
pub(super) struct Group {
    batch: Batch,
    pub(super) bytes: usize,
}

/// What the tree says of itself.
pub(super) struct Told {
    pub(super) id: Option<StoreId>,
    pub(super) scope: Option<Vec<u8>>,
    /// Above the number of every call that ever was.
    pub(super) next: u64,
    pub(super) entries: Vec<OutboxEntry>,
}

/// Why a tree cannot be read.
pub(super) enum Unreadable {
    Damaged(String),
    Newer { found: u8, supported: u8 },
}

// === impl Rows ===

impl Rows {
    /// Reads and checks everything: what is damaged is found here, not when it is needed.
    pub(super) fn open(db: &Db) -> Result<(Self, Told), Unreadable> {
        let tree = db.open_tree(TREE).map_err(|error| damaged(&error))?;
        let number = |name| -> Result<u64, Unreadable> {
            let Some(bytes) = tree.get(meta(name)).map_err(|error| damaged(&error))? else {
                return Ok(0);
            };
            let bytes = <[u8; 8]>::try_from(&*bytes);
            bytes
                .map(u64::from_le_bytes)
                .map_err(|_| Unreadable::Damaged(format!("{name} has not 8 bytes")))
        };
        let bytes = |name| tree.get(meta(name)).map_err(|error| damaged(&error));
        let id = match bytes(ID)? {
            None => None,
            Some(bytes) => Some(StoreId::from_bytes(<[u8; 16]>::try_from(&*bytes).map_err(
                |_| Unreadable::Damaged("the outbox's id has not 16 bytes".to_owned()),
            )?)),
        };
        let scope = bytes(SCOPE)?.map(|scope| scope.to_vec());
        let (group, next) = (number(GROUP)?, number(NEXT)?);
        let rows = Self { tree, group };
        let mut entries = Vec::new();
        let (mut seen, mut expected) = (0, 0);
        for row in rows.tree.range(1_u64.to_be_bytes()..) {
            let (key, value) = row.map_err(|error| damaged(&error))?;
            seen += 1;
            if key.len() == 9 && key[8] == ENTRY {
                let entry = rows.checked(&key, &value)?;
                expected += 1 + rows.parts_of(&entry);
                entries.push(entry);
            }
        }
        if seen != expected {
            let text = "there are parts of a call that is not there".to_owned();
            return Err(Unreadable::Damaged(text));
        }
        let told = Told {
            id,
            scope,
            next: next.max(1),
            entries,
        };
        Ok((rows, told))
    }

    /// Writes what the outbox is, for the first time.
    pub(super) fn found(&mut self, id: StoreId, scope: &Scope) -> Result<(), String> {
        let mut batch = Batch::default();
        batch.insert(meta(ID), id.as_bytes());
        batch.insert(meta(SCOPE), scope.digest().as_bytes());
        batch.insert(meta(NEXT), &1_u64.to_le_bytes());
        self.tree.apply_batch(batch).map_err(words)
    }

    /// Applies a group. Not yet durable.
    pub(super) fn apply(&mut self, group: Group, next: u64) -> Result<(), String> {
        self.group += 1;
        let mut batch = group.batch;
        batch.insert(meta(GROUP), &self.group.to_le_bytes());
        batch.insert(meta(NEXT), &next.to_le_bytes());
        self.tree.apply_batch(batch).map_err(words)
    }

    /// The bytes of a call.
    pub(super) fn load(&self, entry: &OutboxEntry) -> Result<OutboxCall, OutboxError> {
        let request = self.body(entry.number, REQUEST, entry.request)?;
        let answer = match &entry.state {
            OutboxState::Answered { answer, .. } => {
                Some(self.body(entry.number, ANSWER, *answer)?)
            }
            _ => None,
        };
        Ok(OutboxCall::new(entry.clone(), request, answer))
    }

    fn checked(&self, key: &[u8], value: &[u8]) -> Result<OutboxEntry, Unreadable> {
        let entry = codec::decode(value).and_then(|entry| {
            if key[..8] != entry.number.to_be_bytes() {
                return Err(OutboxError::Corrupt(
                    "it lies in another's place".to_owned(),
                ));
            }
            self.load(&entry)?;
            Ok(entry)
        });
        entry.map_err(|error| match error {
            OutboxError::UnknownFormat { found, supported } => {
                Unreadable::Newer { found, supported }
            }
            other => Unreadable::Damaged(other.to_string()),
        })
    }

    fn body(&self, number: u64, kind: u8, body: Body) -> Result<Bytes, OutboxError> {
        let corrupt = |what: &str| OutboxError::Corrupt(format!("call {number}: {what}"));
        let mut bytes = BytesMut::new();
        for part in 0..parts(body) {
            let row = self.tree.get(part_key(number, kind, part));
            let row = row.map_err(|error| corrupt(&error.to_string()))?;
            bytes.extend_from_slice(&row.ok_or_else(|| corrupt("a part is missing"))?);
        }
        match Body::of(&bytes) == body {
            true => Ok(bytes.freeze()),
            false => Err(corrupt("its bytes are not those that were written")),
        }
    }

    fn parts_of(&self, entry: &OutboxEntry) -> u64 {
        let answer = match &entry.state {
            OutboxState::Answered { answer, .. } => parts(*answer),
            _ => 0,
        };
        u64::from(parts(entry.request)) + u64::from(answer)
    }
}

// === impl Group ===

impl Group {
    pub(super) fn add(&mut self, row: &Row) {
        match row {
            Row::Changed { entry, answer } => {
                self.insert(entry_key(entry.number).to_vec(), codec::encode(entry));
                if let Some(answer) = answer {
                    self.insert_parts(entry.number, ANSWER, answer);
                }
            }
            Row::Gone(entry) => self.remove(entry),
            Row::New { entry, request } => {
                self.insert(entry_key(entry.number).to_vec(), codec::encode(entry));
                self.insert_parts(entry.number, REQUEST, request);
            }
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn insert_parts(&mut self, number: u64, kind: u8, bytes: &[u8]) {
        for (part, bytes) in (0..).zip(bytes.chunks(PART_BYTES)) {
            self.insert(part_key(number, kind, part), bytes.to_vec());
        }
    }

    fn insert(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.batch.insert(key, value);
    }

    fn remove(&mut self, entry: &OutboxEntry) {
        let mut take = |key: Vec<u8>| {
            self.bytes += key.len();
            self.batch.remove(key);
        };
        take(entry_key(entry.number).to_vec());
        for part in 0..parts(entry.request) {
            take(part_key(entry.number, REQUEST, part));
        }
        if let OutboxState::Answered { answer, .. } = &entry.state {
            for part in 0..parts(*answer) {
                take(part_key(entry.number, ANSWER, part));
            }
        }
    }
}

fn damaged(error: &::sled::Error) -> Unreadable {
    Unreadable::Damaged(error.to_string())
}

const fn parts(body: Body) -> u32 {
    // OK because a part is far smaller than what a `u32` counts.
    body.bytes.div_ceil(PART_BYTES as u32)
}

fn meta(name: &str) -> Vec<u8> {
    [&[0; 8], name.as_bytes()].concat()
}

fn entry_key(number: u64) -> [u8; 9] {
    let mut key = [ENTRY; 9];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

fn part_key(number: u64, kind: u8, part: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &[kind], &part.to_be_bytes()].concat()
}

const TREE: &str = "onlyonce/outbox";

const GROUP: &str = "group";
const ID: &str = "id";
const NEXT: &str = "next";
const SCOPE: &str = "scope";

const ENTRY: u8 = 0;
const REQUEST: u8 = 1;
const ANSWER: u8 = 2;

/// Values above 4 KiB would go into files of their own, which sled never syncs.
const PART_BYTES: usize = 3_500;
