//! Calls whose whole effect is one statement: claim, effect and answer are one round trip and one commit.
//!
//! The rule: **what must not be done is done and undone.** The statement takes the call, makes the effect and
//! writes the record in whatever order the database likes, and fails as a whole where the call was not this
//! one's to execute. So a first call costs one step, and a duplicate an error and a look.

use std::fmt;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::claiming::{self, held_here, known};
use super::connection::Unanswered;
use super::error::{Failure, unavailable};
use super::holding;
use super::run::{Meaning, meaning};
use super::settling::{ROUNDS_MAX, fits, too_contended};
use super::sql::{SqlValue, check, told};
use super::steps::{self, FOUND, GIVEN, MOVED, TAKEN};
use super::store::Shared;
use super::stored::{corrupt, get, number};
use crate::transaction::{StatementError, TransactionError};
use crate::{Answer, ClaimOutcome, ClaimRequest, StoreError};

/// The effect of a call, as one statement on tables of yours.
///
/// ```
/// use onlyonce_storage::postgres::OneStatement;
///
/// let (account, cents) = ("alice", 500_i64);
/// let values: [&dyn onlyonce_storage::postgres::SqlValue; 2] = [&cents, &account];
/// let withdraw = OneStatement::new(
///     "UPDATE accounts SET cents = cents - $1 WHERE name = $2 AND cents >= $1",
///     &values,
/// )
/// .rows(1);
/// # let _ = withdraw;
/// ```
#[derive(Clone, Copy)]
pub struct OneStatement<'a> {
    sql: &'a str,
    values: &'a [&'a dyn SqlValue],
    rows: Option<u64>,
}

/// What became of a call whose effect is one statement.
#[derive(Debug)]
pub enum OneStatementOutcome {
    /// Effect and answer are committed, now and by this call: how many rows it has changed.
    Executed {
        /// Rows that the statement has changed.
        rows: u64,
    },
    /// Nothing was done here. What is known of the call, which is never
    /// [`Claimed`](ClaimOutcome::Claimed): its answer where it was executed before.
    NotExecuted(ClaimOutcome),
    /// It would have changed another number of rows than it should. Nothing was done, and the key is free.
    OtherRows {
        /// Rows that it would have changed.
        rows: u64,
    },
    /// The database refuses the statement. Nothing was done, and the key is free.
    Refused(TransactionError),
}

/// What came of asking once.
enum Answered {
    Rows(Vec<Row>),
    /// Nothing was done, and it is to be asked again.
    Conflict,
    Refused(StatementError),
}

/// Makes the call, or says why not.
pub(super) async fn execute(
    shared: &Arc<Shared>,
    mut request: ClaimRequest,
    effect: OneStatement<'_>,
    answer: &Answer,
) -> Result<OneStatementOutcome, StoreError> {
    // A doubt is not ended by a guarantee that leaves none.
    request.rerun_of = None;
    fits(&shared.pool, answer)?;
    if let Err(forbidden) = check(effect.sql) {
        return Ok(OneStatementOutcome::Refused(forbidden));
    }
    if let Some(outcome) = held_here(shared, &request)? {
        return Ok(OneStatementOutcome::NotExecuted(outcome));
    }
    let lives = session(shared, &request).await?;
    if lives != 0 {
        let known = known(shared, &request).await?;
        let outcome = known.map_or_else(|| claiming::refused(lives), Ok)?;
        return Ok(OneStatementOutcome::NotExecuted(outcome));
    }
    for _ in 0..ROUNDS_MAX {
        let refused = match ask(shared, &request, effect, answer).await? {
            Answered::Conflict => continue,
            Answered::Refused(refused) => refused,
            Answered::Rows(rows) => {
                shared.hearing.tell(request.key.digest());
                let row = rows.first().ok_or_else(|| corrupt("nothing was said"))?;
                let rows = number(get(row, "rows")?)?;
                return Ok(OneStatementOutcome::Executed { rows });
            }
        };
        // Whatever kept it from being done: that may be because the call was executed before.
        if let Some(outcome) = known(shared, &request).await? {
            return Ok(OneStatementOutcome::NotExecuted(outcome));
        }
        if refused.code() != NOT_TO_BE {
            if refused.constraint() == Some(RECORDS_KEY) {
                continue;
            }
            let refused = TransactionError::Statement(refused);
            return Ok(OneStatementOutcome::Refused(refused));
        }
        match why(&refused)? {
            (GIVEN, rows) => return Ok(OneStatementOutcome::OtherRows { rows }),
            // That has changed meanwhile.
            (FOUND | TAKEN, _) => {}
            (MOVED, _) => holding::arrive(&shared.pool).await?,
            (other, _) => return claiming::refused(other).map(OneStatementOutcome::NotExecuted),
        }
    }
    Err(too_contended(request.key.digest()))
}

/// Notes that the call's session is used: 0 where there is none, or it lives.
async fn session(shared: &Shared, request: &ClaimRequest) -> Result<i32, StoreError> {
    let Some(call) = request.session else {
        return Ok(0);
    };
    let pool = &shared.pool;
    let rows = pool.rows(|_| holding::use_session(pool, request, call));
    let rows = rows.await?;
    let row = rows
        .first()
        .ok_or_else(|| corrupt("a session was not answered"))?;
    get(row, "known")
}

/// The verdict on a call that was not to be executed, and how many rows its statement would have changed.
fn why(refused: &StatementError) -> Result<(i32, u64), StoreError> {
    let (verdict, rows) = refused.message().split_once(' ').unwrap_or_default();
    match (verdict.parse(), rows.parse()) {
        (Ok(verdict), Ok(rows)) => Ok((verdict, rows)),
        _ => Err(corrupt("it was not said why a call is not executed")),
    }
}

/// Asks once. An error leaves open what became of it; asked again under its key it is not executed twice.
async fn ask(
    shared: &Shared,
    request: &ClaimRequest,
    effect: OneStatement<'_>,
    answer: &Answer,
) -> Result<Answered, StoreError> {
    let pool = &shared.pool;
    let within = pool.options().answer_within;
    let scope = request.key.scope().digest();
    let count = shared.room.take(scope, shared.clock.now());
    let theirs = (effect.sql, effect.values.len());
    let ours = steps::all(pool, request, count, theirs, answer);
    let rows = effect
        .rows
        .map(|rows| i64::try_from(rows).unwrap_or(i64::MAX));
    let mut values = told(effect.values);
    values.extend(ours.values());
    values.push((&rows as &(dyn ToSql + Sync), Type::INT8));
    let asked = async {
        let leased = pool.lease().await?;
        let connection = leased.connection()?;
        let asked = connection.query(ours.sql(), &values).await;
        let answered = match asked {
            Ok(rows) => Answered::Rows(rows),
            Err(Unanswered { error, has_lapsed }) => {
                match meaning(&error, connection.is_closed()) {
                    _ if has_lapsed => Answered::Conflict,
                    Meaning::Conflict => Answered::Conflict,
                    Meaning::Refused(refused) => Answered::Refused(refused),
                    // Its connection is closed by being dropped.
                    Meaning::Lost => return Err(Failure::of(&error)),
                }
            }
        };
        leased.give_back();
        Ok(answered)
    };
    let answered = match timeout(within, asked).await {
        Ok(answered) => answered.map_err(Failure::into_store_error)?,
        Err(_) => return Err(unavailable(format!("no answer within {within:?}"))),
    };
    if let Answered::Rows(rows) = &answered
        && let Some(row) = rows.first()
    {
        holding::note(shared, request, row)?;
    }
    Ok(answered)
}

// === impl OneStatement ===

impl<'a> OneStatement<'a> {
    /// An `INSERT`, `UPDATE` or `DELETE` with no `RETURNING` and no semicolon, and its values.
    #[must_use]
    pub const fn new(sql: &'a str, values: &'a [&'a dyn SqlValue]) -> Self {
        Self {
            sql,
            values,
            rows: None,
        }
    }

    /// How many rows it must change: otherwise nothing is done. Without this any number will do, none included.
    #[must_use]
    pub const fn rows(mut self, rows: u64) -> Self {
        self.rows = Some(rows);
        self
    }
}

impl fmt::Debug for OneStatement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its values may be secrets.
        f.debug_struct("OneStatement")
            .field("sql", &self.sql)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// By which a record is one for its key.
const RECORDS_KEY: &str = "records_pkey";

/// As what `is_not_to_be` fails.
const NOT_TO_BE: &str = "ONL01";
