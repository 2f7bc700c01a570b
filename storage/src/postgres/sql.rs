//! What a handler does in its transaction: statements of its own.

use std::fmt;
use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::run::Run;
use crate::transaction::{Transaction, TransactionError};

/// A handler's way to the database: statements in the transaction that is committed with its answer.
///
/// What they change, and the record of the call with its answer, are one commit. Nobody else sees any of
/// it before; and whatever ends the run otherwise (an error, a panic, a lost lease, a crash of server or
/// database) leaves nothing. A handler cannot commit by itself: statements that end the transaction are
/// refused.
///
/// A serialization failure or a deadlock ends the run, which is tried again: see
/// [`TransactionError::Conflict`]. Any other error of a statement leaves the transaction fit for nothing
/// until it is set back, with [`roll_back_to`](Self::roll_back_to) or by an answer that has no effect; a
/// handler that hides it and says that all is well has nothing committed.
///
/// A statement takes at most [`answer_within`](super::PostgresOptions::answer_within), in all. One whose
/// future is dropped before it is answered, by a `select!` or a timeout inside the handler, ends the run.
/// Those of one run are asked one after the other.
///
/// A sequential scan is the last choice here (`enable_seqscan` is off on the store's connections, and so is
/// `jit`): a statement that is to read a whole table says `SET LOCAL enable_seqscan = on` before.
///
/// Settings are made with `SET LOCAL`, and nothing else that outlives the transaction is left behind:
/// the connection is somebody else's afterwards.
///
/// ```
/// use onlyonce_storage::transaction::{Transaction, TransactionError};
///
/// async fn withdraw(calls: Transaction, name: &str, cents: i64) -> Result<bool, TransactionError> {
///     let changed = calls
///         .sql()?
///         .execute(
///             "UPDATE accounts SET cents = cents - $1 WHERE name = $2 AND cents >= $1",
///             &[&cents, &name],
///         )
///         .await?;
///     Ok(changed == 1)
/// }
/// ```
#[derive(Clone)]
pub struct Sql {
    run: Arc<Run>,
}

/// A place in a transaction to which it can be set back.
#[derive(Clone, Debug)]
pub struct Savepoint {
    name: String,
}

/// A value that a statement is told. It says itself of which type it is: `i64` is a `bigint`, `&str` a
/// `text`. Where the column has another one, cast it in the statement: `$1::numeric`.
///
/// That the server is not asked for types is what lets a statement go without a name, which it does behind
/// a pooler.
pub trait SqlValue: Send + Sync {
    /// The value, as the driver takes it.
    fn value(&self) -> &(dyn ToSql + Sync);

    /// Its type.
    fn kind(&self) -> Type;
}

// === impl Transaction ===

impl Transaction {
    /// The statements of a handler, on a [`PostgresStore`](super::PostgresStore).
    ///
    /// # Errors
    ///
    /// [`TransactionError::Store`] where the store is another one.
    pub fn sql(&self) -> Result<Sql, TransactionError> {
        let own = self.own().and_then(|own| own.downcast_ref::<Arc<Run>>());
        let Some(run) = own else {
            return Err(super::error::unavailable(NO_SQL).into());
        };
        Ok(Sql {
            run: Arc::clone(run),
        })
    }
}

// === impl Sql ===

impl Sql {
    /// Runs a statement, and says how many rows it has changed.
    ///
    /// # Errors
    ///
    /// [`TransactionError::Statement`] where the database refuses it; the others end the run.
    pub async fn execute(
        &self,
        sql: &str,
        values: &[&dyn SqlValue],
    ) -> Result<u64, TransactionError> {
        self.execute_typed(sql, &told(values)).await
    }

    /// All rows of a statement: who expects many gives it a `LIMIT`.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn query(
        &self,
        sql: &str,
        values: &[&dyn SqlValue],
    ) -> Result<Vec<Row>, TransactionError> {
        self.query_typed(sql, &told(values)).await
    }

    /// The row of a statement that gives one or none.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); [`TransactionError::UnexpectedRows`] where there are more.
    pub async fn query_opt(
        &self,
        sql: &str,
        values: &[&dyn SqlValue],
    ) -> Result<Option<Row>, TransactionError> {
        let mut rows = self.query(sql, values).await?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            found => Err(TransactionError::UnexpectedRows { found }),
        }
    }

    /// The row of a statement that gives one.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); [`TransactionError::UnexpectedRows`] where there are none or more.
    pub async fn query_one(
        &self,
        sql: &str,
        values: &[&dyn SqlValue],
    ) -> Result<Row, TransactionError> {
        let row = self.query_opt(sql, values).await?;
        row.ok_or(TransactionError::UnexpectedRows { found: 0 })
    }

    /// [`execute`](Self::execute) with values of any type that the driver knows.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn execute_typed(
        &self,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<u64, TransactionError> {
        check(sql).map_err(|error| self.run.fail(error))?;
        self.run.execute(sql, values).await
    }

    /// [`query`](Self::query) with values of any type that the driver knows.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn query_typed(
        &self,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, TransactionError> {
        check(sql).map_err(|error| self.run.fail(error))?;
        self.run.query(sql, values).await
    }

    /// A place to set the transaction back to, before a statement that may be refused.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn savepoint(&self) -> Result<Savepoint, TransactionError> {
        let name = self.run.next_point();
        self.run.execute(&format!("SAVEPOINT {name}"), &[]).await?;
        Ok(Savepoint { name })
    }

    /// Undoes what was done since, the refusal of a statement included. Not a serialization failure and
    /// not a deadlock: those end the run.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub async fn roll_back_to(&self, point: &Savepoint) -> Result<(), TransactionError> {
        self.run.roll_back_to(&point.name).await
    }
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sql").finish_non_exhaustive()
    }
}

pub(super) fn told<'a>(values: &[&'a dyn SqlValue]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    let values = values.iter();
    values.map(|value| (value.value(), value.kind())).collect()
}

/// Refuses what would end the transaction, or be left in the connection. That a handler has got around
/// this is noticed at the end.
pub(super) fn check(sql: &str) -> Result<(), TransactionError> {
    let mut words = Words(sql);
    let first = words.next().unwrap_or_default().to_ascii_uppercase();
    let is_forbidden = match first.as_str() {
        "SET" => {
            let second = words.next().unwrap_or_default().to_ascii_uppercase();
            !matches!(second.as_str(), "LOCAL" | "CONSTRAINTS")
        }
        // For the connection, and so for calls that come after: names that the promise rests on.
        _ if mentions(sql, SET_CONFIG) && OURS.iter().any(|name| mentions(sql, name)) => {
            let word = SET_CONFIG.to_owned();
            return Err(TransactionError::StatementForbidden { word });
        }
        word => FORBIDDEN.contains(&word),
    };
    if is_forbidden {
        return Err(TransactionError::StatementForbidden { word: first });
    }
    Ok(())
}

/// Whether a word stands in it, in whatever case.
fn mentions(sql: &str, word: &str) -> bool {
    let mut places = sql.as_bytes().windows(word.len());
    places.any(|place| place.eq_ignore_ascii_case(word.as_bytes()))
}

/// The words of a statement, without what stands between them.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let rest = self
                .0
                .trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == '(');
            if let Some(comment) = rest.strip_prefix("--") {
                self.0 = comment.split_once('\n').map_or("", |(_, rest)| rest);
            } else if rest.starts_with("/*") {
                self.0 = after_comment(rest);
            } else {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let (word, rest) = rest.split_at(end.unwrap_or(rest.len()));
                self.0 = rest;
                return (!word.is_empty()).then_some(word);
            }
        }
    }
}

/// Comments of PostgreSQL lie within each other.
fn after_comment(text: &str) -> &str {
    let mut depth = 0_usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth = depth.saturating_sub(1);
                at += 2;
                if depth == 0 {
                    return &text[at..];
                }
            }
            _ => at += 1,
        }
    }
    ""
}

// === impl SqlValue ===

macro_rules! sql_values {
    ($($type:ty => $kind:ident)*) => {
        $(
            impl SqlValue for $type {
                fn value(&self) -> &(dyn ToSql + Sync) {
                    self
                }

                fn kind(&self) -> Type {
                    Type::$kind
                }
            }

            impl SqlValue for Option<$type> {
                fn value(&self) -> &(dyn ToSql + Sync) {
                    self
                }

                fn kind(&self) -> Type {
                    Type::$kind
                }
            }
        )*
    };
}

sql_values! {
    bool => BOOL
    i16 => INT2
    i32 => INT4
    i64 => INT8
    f32 => FLOAT4
    f64 => FLOAT8
    &str => TEXT
    String => TEXT
    &[u8] => BYTEA
    Vec<u8> => BYTEA
}

const NO_SQL: &str = "the server's store runs no statements: it is none on PostgreSQL";

const SET_CONFIG: &str = "set_config";
const OURS: [&str; 2] = ["idle_in_transaction_session_timeout", "synchronous_commit"];

const FORBIDDEN: [&str; 18] = [
    "ABORT",
    "BEGIN",
    "COMMIT",
    "COPY",
    "DEALLOCATE",
    "DISCARD",
    "END",
    "EXECUTE",
    "LISTEN",
    "LOAD",
    "PREPARE",
    "RELEASE",
    "RESET",
    "ROLLBACK",
    "SAVEPOINT",
    "SET",
    "START",
    "UNLISTEN",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_transaction_is_refused_however_it_is_spelled() {
        for sql in [
            "commit",
            "  COMMIT",
            "-- a word\nRollback",
            "/* /* two */ of them */ end;",
            ";; abort",
            "SET statement_timeout = 0",
            "set session x.y = 'z'",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "Prepare transaction 'x'",
            "savepoint x",
            "select SET_CONFIG('Synchronous_Commit', 'off', false)",
        ] {
            let refused = check(sql);
            let is_refused = matches!(refused, Err(TransactionError::StatementForbidden { .. }));
            assert!(is_refused, "{sql:?}: {refused:?}");
        }
        for sql in [
            "",
            "SELECT 1",
            "(SELECT 1)",
            "with x as (select 1) select 1",
            "SET LOCAL statement_timeout = 0",
            "SELECT set_config('search_path', 'x', true)",
            "SELECT current_setting('synchronous_commit')",
            "set constraints all deferred",
            "endure",
            "NOTIFY x",
            "/* never closed",
        ] {
            assert_eq!(check(sql), Ok(()), "{sql:?}");
        }
    }
}
