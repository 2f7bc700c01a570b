//! Names of the tables in which handlers keep their rows.

use std::borrow::Cow;
use std::fmt;

/// A table of rows: keys in the order of their bytes, each with a value.
///
/// Tables are the handlers' own and apart from everything that the store keeps for itself. One is
/// there as soon as something is written to it.
///
/// ```
/// use onlyonce_storage::transaction::Table;
///
/// const ACCOUNTS: Table = Table::new("accounts");
/// assert_eq!(ACCOUNTS.name(), "accounts");
/// assert!(Table::parse("../onlyonce").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(Cow<'static, str>);

/// A name that no table can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a table's name has 1 to 64 bytes of a-z, 0-9, `_`, `-` and `.`")]
pub struct TableError;

// === impl Table ===

impl Table {
    /// The table of this name, for constants.
    ///
    /// # Panics
    ///
    /// When it cannot be one: at compile time, where it is a constant. See
    /// [`parse`](Self::parse).
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        assert!(
            is_name(name.as_bytes()),
            "a table's name has 1 to 64 bytes of a-z, 0-9, `_`, `-` and `.`"
        );
        Self(Cow::Borrowed(name))
    }

    /// The table of this name: 1 to 64 bytes of `a-z`, `0-9`, `_`, `-` and `.`.
    ///
    /// # Errors
    ///
    /// When it cannot be one.
    pub fn parse(name: &str) -> Result<Self, TableError> {
        if !is_name(name.as_bytes()) {
            return Err(TableError);
        }
        Ok(Self(Cow::Owned(name.to_owned())))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({})", self.0)
    }
}

const fn is_name(name: &[u8]) -> bool {
    if name.is_empty() || name.len() > TABLE_BYTES_MAX {
        return false;
    }
    let mut at = 0;
    while at < name.len() {
        if !matches!(name[at], b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.') {
            return false;
        }
        at += 1;
    }
    true
}

/// A longer name is somebody's mistake.
pub const TABLE_BYTES_MAX: usize = 64;

/// Tables of one store. Each costs memory while the store is open; who wants more wants keys.
pub const TABLES_MAX: usize = 256;

/// The longest key of a row, in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// The largest value of a row, in bytes: with its key it stays below a page of the disk, so that an
/// embedded store keeps it with its neighbours. What is larger is several rows.
pub const VALUE_BYTES_MAX: usize = 3_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_place_is_no_name() {
        for name in ["", "Accounts", "a/b", "a b", "ä", "a\0", &"a".repeat(65)] {
            assert_eq!(Table::parse(name), Err(TableError), "{name:?}");
        }
        for name in ["a", "accounts.2026-11", "x_y", &"a".repeat(64)] {
            assert_eq!(Table::parse(name).unwrap().name(), name);
        }
    }
}
