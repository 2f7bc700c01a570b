//! Statements that a connection keeps, read and planned once instead of for each call.
//!
//! The rule: **only on a connection that leads to one backend for as long as it lives.** A pooler by
//! transaction hands each transaction to another one, where the name is unknown or means something else;
//! so a connection whose backend is not the one that greeted it keeps nothing (`direct.rs`).
//!
//! A plan may become invalid when a table is altered. Then the database refuses the statement once, before
//! anything of it is done: all are forgotten, and what was asked is asked again.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Statement};

/// What one connection keeps, by its text.
#[derive(Debug, Default)]
pub(super) struct Kept {
    statements: Mutex<HashMap<String, Seen>>,
}

#[derive(Clone, Debug)]
enum Seen {
    /// Asked without a name so far: who asks once need not pay for keeping it.
    Once,
    Kept(Statement),
}

/// When a statement is worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// One of the store's own: they are few, and asked for each call.
    AtOnce,
    /// A handler's: its text may be another one each time.
    WhenAskedAgain,
}

// === impl Kept ===

impl Kept {
    /// The statement by its name, made where it is worth it: that is one round trip. `None`: it is asked
    /// without a name.
    pub(super) async fn statement(
        &self,
        client: &Client,
        sql: &str,
        kinds: &[Type],
        worth: Worth,
    ) -> Result<Option<Statement>, Error> {
        if worth == Worth::WhenAskedAgain && !may_be_kept(sql) {
            return Ok(None);
        }
        let seen = self.statements.lock().get(sql).cloned();
        match seen {
            Some(Seen::Kept(statement)) if statement.params() == kinds => Ok(Some(statement)),
            // The same text with values of other types.
            Some(Seen::Kept(_)) => Ok(None),
            None if worth == Worth::WhenAskedAgain => {
                self.note(sql, Seen::Once);
                Ok(None)
            }
            None | Some(Seen::Once) => {
                let statement = client.prepare_typed(sql, kinds).await?;
                self.note(sql, Seen::Kept(statement.clone()));
                Ok(Some(statement))
            }
        }
    }

    /// Whether the database has refused a statement because what is kept of it is of no use any more. Then
    /// all are forgotten.
    pub(super) fn has_lapsed(&self, error: &Error) -> bool {
        let has_lapsed = error.as_db_error().is_some_and(|refused| {
            let code = refused.code();
            *code == SqlState::INVALID_SQL_STATEMENT_NAME
                // Its rows would have another shape than before. Others use that number as well, functions of a
                // handler's own among them: the routine that says it is this one's alone.
                || *code == SqlState::FEATURE_NOT_SUPPORTED
                    && refused.routine() == Some("RevalidateCachedQuery")
        });
        if has_lapsed {
            self.statements.lock().clear();
        }
        has_lapsed
    }

    fn note(&self, sql: &str, seen: Seen) {
        let mut statements = self.statements.lock();
        // Whoever makes up a new text for each call begins anew, and so does everybody else.
        if statements.len() >= KEPT_MAX {
            statements.clear();
        }
        statements.insert(sql.to_owned(), seen);
    }
}

/// What reads and changes rows, of a usual length. A savepoint has no plan.
fn may_be_kept(sql: &str) -> bool {
    let end = sql.find(|c: char| !c.is_ascii_alphabetic());
    let first = sql.get(..end.unwrap_or(sql.len())).unwrap_or_default();
    sql.len() <= TEXT_BYTES_MAX
        && ["DELETE", "INSERT", "SELECT", "UPDATE", "WITH"]
            .iter()
            .any(|word| first.eq_ignore_ascii_case(word))
}

/// More different statements than a service has for what it does often; a plan takes some tens of kB of
/// the backend's memory.
const KEPT_MAX: usize = 256;

/// Longer ones are made up.
const TEXT_BYTES_MAX: usize = 8_192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statements_on_rows_are_kept() {
        for sql in ["SELECT 1", "insert into x", "With a AS (SELECT 1) SELECT"] {
            assert!(may_be_kept(sql), "{sql}");
        }
        let long = format!("SELECT '{}'", "x".repeat(TEXT_BYTES_MAX));
        for sql in [
            "",
            "SAVEPOINT a",
            "ROLLBACK TO SAVEPOINT a",
            "SET LOCAL x = 1",
            "ü",
            &long,
        ] {
            assert!(!may_be_kept(sql), "{sql}");
        }
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let kept = Kept::default();
        for number in 0..10_000 {
            kept.note(&format!("SELECT {number}"), Seen::Once);
            assert!(kept.statements.lock().len() <= KEPT_MAX);
        }
    }
}
