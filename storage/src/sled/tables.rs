//! The handlers' tables: a tree of sled for each, and over them in memory what no checkpoint has
//! carried over.
//!
//! ```text
//! fresh     written since the last checkpoint was cut         }  both in the log;
//! leaving   what the checkpoint under way carries over        }  at most as large as its two files
//! trees     user/NAME: key -> value                              in sled
//! ```
//!
//! A row in a tree is never newer than what is durable in the log: it gets there by a checkpoint,
//! and a checkpoint begins when every group in it is durable. One that was cut off leaves some of
//! its rows; the log says all of them again, in order, so that the last word on each row is the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::sled::{Batch, Db, Tree};
use bytes::Bytes;

use super::cause::Cause;
use super::disk::{unreadable_row, words};
use crate::StoreError;
use crate::commit::{Scan, over};
use crate::transaction::{KEY_BYTES_MAX, KeyBounds, TABLES_MAX, Table, VALUE_BYTES_MAX, Writes};

/// The tables of a store.
#[derive(Debug, Default)]
pub(super) struct Tables {
    trees: BTreeMap<Table, Tree>,
    fresh: Writes,
    /// Shared with the checkpoint that writes it.
    leaving: Arc<Writes>,
}

/// What a checkpoint writes of them.
#[derive(Debug, Default)]
pub(super) struct TableChanges {
    trees: BTreeMap<Table, Tree>,
    writes: Arc<Writes>,
}

// === impl Tables ===

impl Tables {
    /// Those that are in sled.
    pub(super) fn open(db: &Db) -> Result<Self, Cause> {
        let mut trees = BTreeMap::new();
        for name in db.tree_names() {
            let Some(name) = name.strip_prefix(PREFIX.as_bytes()) else {
                continue;
            };
            let name = std::str::from_utf8(name).map_err(words)?;
            let table = Table::parse(name).map_err(|error| format!("{name}: {error}"))?;
            trees.insert(table, db.open_tree(format!("{PREFIX}{name}"))?);
        }
        Ok(Self {
            trees,
            ..Self::default()
        })
    }

    /// The rows between two bounds, as they were last written.
    pub(super) fn scan<'a>(&'a self, table: &Table, bounds: KeyBounds<'a>) -> Scan<'a> {
        let in_tree: Scan<'a> = match self.trees.get(table) {
            None => Box::new(std::iter::empty()),
            Some(tree) => Box::new(tree.range::<&[u8], _>(bounds).map(|row| {
                let (key, value) = row.map_err(unreadable_row)?;
                Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
            })),
        };
        let leaving = over(self.leaving.get(table), bounds, in_tree);
        over(self.fresh.get(table), bounds, leaving)
    }

    /// Whether these may be written: there are no more tables than may be.
    pub(super) fn room_for(&self, writes: &Writes) -> Result<(), StoreError> {
        let is_new = |table: &&Table| {
            !self.trees.contains_key(*table)
                && !self.leaving.contains_key(*table)
                && !self.fresh.contains_key(*table)
        };
        let new = writes.keys().filter(is_new).count();
        if new == 0 {
            return Ok(());
        }
        let mut tables: Vec<_> = self.trees.keys().collect();
        tables.extend(self.leaving.keys().chain(self.fresh.keys()));
        tables.sort_unstable();
        tables.dedup();
        if tables.len() + new <= TABLES_MAX {
            return Ok(());
        }
        Err(StoreError::Unavailable {
            reason: format!(
                "it has {} tables, at most {TABLES_MAX} may be",
                tables.len()
            ),
            retry_after: std::time::Duration::from_secs(60),
        })
    }

    /// Writes rows: a value each, or nothing.
    pub(super) fn apply(&mut self, writes: Writes) {
        for (table, rows) in writes {
            self.fresh.entry(table).or_default().extend(rows);
        }
    }

    /// What the log says of one row.
    pub(super) fn take_in(
        &mut self,
        table: &str,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), String> {
        let table = Table::parse(table).map_err(words)?;
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(format!("a row has a key of {} bytes", key.len()));
        }
        if value.is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
            return Err("a row's value is larger than any may be".to_owned());
        }
        let rows = self.fresh.entry(table).or_default();
        rows.insert(
            Bytes::copy_from_slice(key),
            value.map(Bytes::copy_from_slice),
        );
        Ok(())
    }

    /// What changed since the last time, for a checkpoint. The one before is done.
    pub(super) fn cut(&mut self) -> TableChanges {
        self.leaving = Arc::new(std::mem::take(&mut self.fresh));
        TableChanges {
            trees: self.trees.clone(),
            writes: Arc::clone(&self.leaving),
        }
    }

    /// What was cut is in these trees.
    pub(super) fn written(&mut self, trees: BTreeMap<Table, Tree>) {
        self.trees = trees;
        self.leaving = Arc::default();
    }
}

// === impl TableChanges ===

impl TableChanges {
    /// Writes them, with `sync` after every few rows and how many bytes they have. The trees there
    /// are then.
    pub(super) fn write(
        self,
        db: &Db,
        mut sync: impl FnMut(usize) -> Result<(), Cause>,
    ) -> Result<BTreeMap<Table, Tree>, Cause> {
        let Self { mut trees, writes } = self;
        for (table, rows) in &*writes {
            let tree = match trees.get(table) {
                Some(tree) => tree.clone(),
                None => {
                    let tree = db.open_tree(format!("{PREFIX}{}", table.name()))?;
                    crate::kill_point!("checkpoint: a table made, nothing in it");
                    sync(row_cost(0))?;
                    trees.insert(table.clone(), tree.clone());
                    tree
                }
            };
            let mut batch = Batch::default();
            let mut bytes = 0;
            for (key, value) in rows {
                match value {
                    Some(value) => batch.insert(&**key, &**value),
                    None => batch.remove(&**key),
                }
                bytes += row_cost(key.len() + value.as_ref().map_or(0, Bytes::len));
                if bytes >= BATCH_COST {
                    tree.apply_batch(std::mem::take(&mut batch))?;
                    crate::kill_point!("checkpoint: some rows of a table written, the rest not");
                    sync(std::mem::take(&mut bytes))?;
                }
            }
            tree.apply_batch(batch)?;
            sync(bytes)?;
        }
        Ok(trees)
    }
}

/// Before the name of a table: no tree of the store's own begins so.
const PREFIX: &str = "user/";

/// What sled is taken to write for the rows of one batch.
const BATCH_COST: usize = 64 * 1024;

/// What sled is taken to write for a row: some of its node again, which is large where values are
/// (`open_rows.rs` says by which trace).
const fn row_cost(bytes: usize) -> usize {
    1024 + 16 * bytes
}
