//! What a transaction has read and written.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Row, RowRange, Table};

/// What rows shall hold: a value, or nothing.
pub type Writes = BTreeMap<Table, BTreeMap<Bytes, Option<Bytes>>>;

/// Everything that a transaction did: what [`commit`](super::TransactionalStore::commit) checks and
/// applies.
#[derive(Clone, Debug, Default)]
pub struct Work {
    pub(super) reads: Vec<Seen>,
    pub(super) writes: Writes,
}

/// Rows that were read, and a digest of what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    range: RowRange,
    digest: RowsDigest,
}

/// The BLAKE3 digest of rows, over length-prefixed fields.
pub(super) type RowsDigest = [u8; 32];

// === impl Work ===

impl Work {
    /// What was read and must still be so.
    #[must_use]
    pub fn reads(&self) -> &[Seen] {
        &self.reads
    }

    /// What is to be written.
    #[must_use]
    pub const fn writes(&self) -> &Writes {
        &self.writes
    }

    /// Both, for a store that takes them apart.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Seen>, Writes) {
        (self.reads, self.writes)
    }

    /// How many bytes it writes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let rows = self.writes.values().flatten();
        rows.map(|(key, value)| row_bytes(key, value.as_ref()))
            .sum()
    }
}

// === impl Seen ===

impl Seen {
    pub(super) const fn new(range: RowRange, digest: RowsDigest) -> Self {
        Self { range, digest }
    }

    /// What was read.
    #[must_use]
    pub const fn range(&self) -> &RowRange {
        &self.range
    }

    /// Whether `rows`, which are there now, are those that were found.
    #[must_use]
    pub fn is_still(&self, rows: &[Row]) -> bool {
        digest(rows) == self.digest
    }
}

pub(super) fn digest(rows: &[Row]) -> RowsDigest {
    let mut hasher = blake3::Hasher::new();
    for field in rows.iter().flat_map(|(key, value)| [key, value]) {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    *hasher.finalize().as_bytes()
}

pub(super) fn row_bytes(key: &Bytes, value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len)
}

/// The rows that one range gives at most: more would hold up everybody else's commits.
pub const RANGE_ROWS_MAX: usize = 1_000;

/// Keys and ranges that a transaction reads at most: each is read again when it commits.
pub const READS_MAX: usize = 1_000;

/// Rows that a transaction reads at most, in all.
pub const ROWS_READ_MAX: usize = 4_000;

/// Rows that a transaction writes at most.
pub const ROWS_WRITTEN_MAX: usize = 1_000;

/// Bytes that a transaction writes at most, keys and values together: a quarter of what is made
/// durable at once.
pub const WRITTEN_BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_that_moves_between_key_and_value_is_another_row() {
        let row = |key: &'static str, value: &'static str| (Bytes::from(key), Bytes::from(value));
        assert_ne!(digest(&[row("ab", "c")]), digest(&[row("a", "bc")]));
        assert_ne!(digest(&[]), digest(&[row("", "")]));
    }
}
