//! How transactions fail.

use crate::{Claim, StoreError};

/// A transaction could not do what it was asked.
///
/// It has failed for good: whatever else it is asked fails in the same way, and nothing that was
/// written to it becomes durable, whether or not the handler says what went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// Somebody has changed what was read. The handler runs again.
    #[error("somebody changed what this transaction has read; it runs again")]
    Conflict,
    /// Its run is over.
    #[error("the transaction is over: its handler has returned, or was dropped")]
    Ended,
    /// A key of a row is empty or too long.
    #[error("a row's key has 1 to {max} bytes, this one has {bytes}")]
    KeyLength {
        /// Its length in bytes.
        bytes: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// The handler has dropped a read before it ended, as a `select!` or a timeout inside it does.
    /// What it meant to do with the row is not done.
    #[error("a read was dropped before it ended: what hangs on it would be missing")]
    ReadDropped,
    /// It has read as much as one may remember. Read a smaller range, or split the work.
    #[error("a transaction reads at most {reads} ranges and keys, with {rows} rows")]
    ReadsTooMany {
        /// The bound of keys and ranges.
        reads: usize,
        /// The bound of rows.
        rows: usize,
    },
    /// The database refuses a statement. Nothing more can be done in the transaction, unless it is set
    /// back to where it was before.
    #[error(transparent)]
    Statement(StatementError),
    /// A statement that ends the transaction, or outlives it, is none of a handler's.
    #[error(
        "a handler's statement has no {word}: the server ends the transaction and makes its settings"
    )]
    StatementForbidden {
        /// Its first word, or the function by which it makes a setting of the store's.
        word: String,
    },
    /// The store cannot tell what is in a row, or its connection is lost.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was to run again, and somebody else has the call by now.
    #[error("somebody else has taken over the call; nothing of it was applied here")]
    Superseded,
    /// A statement gave another number of rows than it should.
    #[error("a statement gave {found} rows")]
    UnexpectedRows {
        /// How many, or one more than there may be.
        found: usize,
    },
    /// A value is too large for a row. Split it into several rows.
    #[error("a row's value has at most {max} bytes, this one has {bytes}")]
    ValueTooLarge {
        /// Its length in bytes.
        bytes: usize,
        /// The bound in bytes.
        max: usize,
    },
    /// It has written as much as one may. Split the work.
    #[error("a transaction writes at most {rows} rows with {bytes} bytes")]
    WritesTooMany {
        /// The bound of rows.
        rows: usize,
        /// The bound of bytes.
        bytes: usize,
    },
}

/// Why the database refuses a statement.
///
/// Its text has the code alone: what the database says may repeat a value of the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database refuses a statement (SQLSTATE {code})")]
pub struct StatementError {
    code: String,
    message: String,
    constraint: Option<String>,
}

/// What was not committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Somebody has changed what was read. Nothing is applied and the claim still holds: run again.
    #[error("somebody changed what the transaction has read")]
    Conflict(Claim),
    /// The claim no longer holds. Nothing is applied, and somebody else may be executing.
    #[error("claim is superseded: it lapsed before its transaction was committed")]
    Fenced,
    /// The store refuses it. Nothing is applied, and the key is free.
    #[error("nothing was applied: {0}")]
    Refused(StoreError),
    /// The store failed on the way. Either everything is applied or nothing is; the record of the
    /// key says which, once the store can be asked again.
    #[error("it is not known whether the transaction was applied: {0}")]
    Unknown(StoreError),
}

// === impl StatementError ===

impl StatementError {
    /// Only stores make these.
    #[must_use]
    pub const fn new(code: String, message: String, constraint: Option<String>) -> Self {
        Self {
            code,
            message,
            constraint,
        }
    }

    /// The SQLSTATE: five characters, `23505` for a key that is there twice.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What the database says. It may repeat values of the statement.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The name of the constraint that it would break, where it is one.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }
}
