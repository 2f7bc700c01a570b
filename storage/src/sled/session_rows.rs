//! The sessions of a store: all of them in memory, and what a checkpoint found live in a tree.
//!
//! ```text
//! key:    session, big endian (8)
//! value:  first unanswered (8) | digest of the principal's scope (32)
//!         | first 8 bytes of BLAKE3 of key and the 40 bytes before
//! ```
//!
//! Numbers of a value are little endian. The last id that was given is a number of the store's own:
//! the row of a session that has expired is gone.

use std::collections::{BTreeMap, BTreeSet};

use ::sled::Tree;

use super::cause::Cause;
use crate::ScopeDigest;
use crate::commit::{SessionChange, SessionRow};

/// The live sessions.
#[derive(Debug)]
pub(super) struct SessionRows {
    tree: Tree,
    last: u64,
    rows: BTreeMap<u64, SessionRow>,
    /// Since the last checkpoint; some are gone.
    changed: BTreeSet<u64>,
}

/// What a checkpoint writes of them.
#[derive(Debug)]
pub(super) struct SessionRowChanges {
    tree: Tree,
    rows: Vec<(u64, Option<SessionRow>)>,
}

// === impl SessionRows ===

impl SessionRows {
    /// Reads what the tree holds.
    pub(super) fn open(tree: Tree) -> Result<Self, Cause> {
        let mut rows = BTreeMap::new();
        for row in &tree {
            let (key, value) = row?;
            let (session, row) = decode(&key, &value).ok_or("the row of a session is damaged")?;
            rows.insert(session, row);
        }
        Ok(Self {
            tree,
            last: 0,
            rows,
            changed: BTreeSet::new(),
        })
    }

    /// The last id that was given, as far as is known.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// Takes note that this id was given.
    pub(super) fn given(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (u64, SessionRow)> {
        self.rows.iter().map(|(session, row)| (*session, *row))
    }

    /// Applies a change. The tree may be ahead of the log, after a checkpoint that was not
    /// finished: what was acknowledged stays so.
    pub(super) fn apply(&mut self, change: &SessionChange) {
        let session = match *change {
            SessionChange::Ended { session } => {
                self.rows.remove(&session);
                session
            }
            SessionChange::Opened { session, scope } => {
                self.given(session);
                self.rows.entry(session).or_insert(SessionRow {
                    scope,
                    first_unanswered: 0,
                });
                session
            }
            SessionChange::Raised {
                session,
                first_unanswered,
            } => {
                if let Some(row) = self.rows.get_mut(&session) {
                    row.first_unanswered = row.first_unanswered.max(first_unanswered);
                }
                session
            }
        };
        self.changed.insert(session);
    }

    /// What changed since the last time, for a checkpoint.
    pub(super) fn cut(&mut self) -> SessionRowChanges {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let rows = changed.map(|session| (session, self.rows.get(&session).copied()));
        SessionRowChanges {
            rows: rows.collect(),
            tree: self.tree.clone(),
        }
    }
}

// === impl SessionRowChanges ===

impl SessionRowChanges {
    /// Writes it, with `sync` after every row and how many bytes it has.
    pub(super) fn write(
        self,
        mut sync: impl FnMut(usize) -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        for (session, row) in self.rows {
            let key = session.to_be_bytes();
            match row {
                None => self.tree.remove(key)?,
                Some(row) => self.tree.insert(key, &encode(key, &row)[..])?,
            };
            sync(ROW_BYTES)?;
        }
        Ok(())
    }
}

fn encode(key: [u8; 8], row: &SessionRow) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE_BYTES);
    value.extend_from_slice(&row.first_unanswered.to_le_bytes());
    value.extend_from_slice(row.scope.as_bytes());
    let sum = sum(key, &value);
    value.extend_from_slice(&sum);
    value
}

fn decode(key: &[u8], value: &[u8]) -> Option<(u64, SessionRow)> {
    let key = <[u8; 8]>::try_from(key).ok()?;
    let (first_unanswered, rest) = value.split_first_chunk::<8>()?;
    let (scope, stored) = rest.split_first_chunk::<32>()?;
    if *stored != sum(key, &value[..40]) {
        return None;
    }
    let row = SessionRow {
        scope: ScopeDigest::from_bytes(*scope),
        first_unanswered: u64::from_le_bytes(*first_unanswered),
    };
    Some((u64::from_be_bytes(key), row))
}

fn sum(key: [u8; 8], value: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key);
    hasher.update(value);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    sum
}

const VALUE_BYTES: usize = 48;
/// With about what sled needs for the row itself.
const ROW_BYTES: usize = VALUE_BYTES + 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_session_never_change() {
        let row = SessionRow {
            scope: ScopeDigest::from_bytes([0xab; 32]),
            first_unanswered: 0x0102,
        };
        let key = 7_u64.to_be_bytes();
        let value = encode(key, &row);
        assert_eq!(value.len(), VALUE_BYTES);
        assert_eq!(value[..8], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(value[8..40], [0xab; 32]);
        assert_eq!(decode(&key, &value), Some((7, row)));
        for at in 0..VALUE_BYTES {
            let mut damaged = value.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&key, &damaged), None, "byte {at}");
        }
        assert_eq!(decode(&8_u64.to_be_bytes(), &value), None);
    }

    fn tree() -> Tree {
        let config = ::sled::Config::new().temporary(true).flush_every_ms(None);
        config.open().unwrap().open_tree("sessions").unwrap()
    }

    /// B21: a checkpoint that was not finished may have carried over any of the rows already; the
    /// log says all of it again.
    #[test]
    fn the_log_said_again_over_an_unfinished_checkpoint_ends_where_it_ended() {
        let scope = ScopeDigest::from_bytes([0xab; 32]);
        let raised = |session, first_unanswered| SessionChange::Raised {
            session,
            first_unanswered,
        };
        let log = [
            SessionChange::Opened { session: 1, scope },
            raised(1, 5),
            SessionChange::Opened { session: 2, scope },
            raised(2, 9),
            raised(1, 7),
            SessionChange::Ended { session: 2 },
        ];
        for carried in 0..=log.len() {
            for rows in 0..2 {
                let tree = tree();
                let mut before = SessionRows::open(tree.clone()).unwrap();
                log[..carried]
                    .iter()
                    .for_each(|change| before.apply(change));
                let mut cut = before.cut();
                cut.rows.truncate(2 - rows);
                cut.write(|_| Ok(())).unwrap();

                let mut again = SessionRows::open(tree.clone()).unwrap();
                log.iter().for_each(|change| again.apply(change));
                again.cut().write(|_| Ok(())).unwrap();
                assert_eq!(again.last(), 2);
                let read = SessionRows::open(tree).unwrap();
                let row = SessionRow {
                    scope,
                    first_unanswered: 7,
                };
                assert_eq!(read.rows().collect::<Vec<_>>(), [(1, row)], "{carried}");
            }
        }
    }
}
