//! Which rows are read.

use std::fmt;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;

use super::Table;

/// A key and its value.
pub type Row = (Bytes, Bytes);

/// Keys between two bounds.
pub type KeyBounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Some rows of a table, in the order of their keys: those within the bounds, and of them the first
/// [`rows_max`](Self::rows_max).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RowRange {
    table: Table,
    from: Bound<Bytes>,
    to: Bound<Bytes>,
    rows_max: usize,
}

// === impl RowRange ===

impl RowRange {
    /// The first `rows_max` rows of `table` within `bounds`.
    #[must_use]
    pub fn new<K: AsRef<[u8]>>(
        table: &Table,
        bounds: &impl RangeBounds<K>,
        rows_max: usize,
    ) -> Self {
        let own = |bound: Bound<&K>| bound.map(|key| Bytes::copy_from_slice(key.as_ref()));
        Self {
            table: table.clone(),
            from: own(bounds.start_bound()),
            to: own(bounds.end_bound()),
            rows_max,
        }
    }

    /// The one row of this key.
    #[must_use]
    pub fn of_key(table: &Table, key: &[u8]) -> Self {
        Self::new(table, &(key..=key), 1)
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// How many rows are read at most.
    #[must_use]
    pub const fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// The bounds of the keys, unless there cannot be any within: then `None`.
    #[must_use]
    pub fn bounds(&self) -> Option<KeyBounds<'_>> {
        let from = self.from.as_ref().map(AsRef::as_ref);
        let to = self.to.as_ref().map(AsRef::as_ref);
        match (from, to) {
            (Bound::Included(from), Bound::Included(to)) if from > to => None,
            (Bound::Included(from), Bound::Excluded(to))
            | (Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to))
                if from >= to =>
            {
                None
            }
            bounds => Some(bounds),
        }
    }

    /// The key, where it is the range of one.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        match (&self.from, &self.to) {
            (Bound::Included(from), Bound::Included(to)) if from == to => Some(from),
            _ => None,
        }
    }

    /// The same, with so many rows at most.
    #[must_use]
    pub fn at_most(mut self, rows: usize) -> Self {
        self.rows_max = self.rows_max.min(rows);
        self
    }

    /// The same, with more rows.
    #[must_use]
    pub fn with_more(mut self, rows: usize) -> Self {
        self.rows_max = self.rows_max.saturating_add(rows);
        self
    }
}

impl fmt::Debug for RowRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are the user's.
        write!(f, "RowRange({}, {} rows)", self.table.name(), self.rows_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table::new("t");

    #[test]
    fn bounds_that_leave_nothing_between_them_are_none() {
        let none = |range: RowRange| range.bounds().is_none();
        assert!(none(RowRange::new(&TABLE, &("b".."a"), 1)));
        assert!(none(RowRange::new(&TABLE, &("a".."a"), 1)));
        assert!(none(RowRange::new(&TABLE, &("b"..="a"), 1)));
        let open = (Bound::Excluded("a"), Bound::Excluded("a"));
        assert!(none(RowRange::new::<&str>(&TABLE, &open, 1)));
        assert!(!none(RowRange::new(&TABLE, &("a"..="a"), 1)));
        assert!(!none(RowRange::new::<&str>(&TABLE, &(..), 1)));
    }
}
