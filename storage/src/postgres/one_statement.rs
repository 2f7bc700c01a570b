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
use super::room::Count;
use super::run::{Meaning, meaning};
use super::settling::{ROUNDS_MAX, fits, too_contended};
use super::sql::{SqlValue, check, told};
use super::steps::{self, FOUND, GIVEN, MOVED, TAKEN, Takes};
use super::store::Shared;
use super::stored::{corrupt, get, number};
use crate::transaction::{StatementError, TransactionError};
use crate::{Answer, AttemptId, ClaimOutcome, ClaimRequest, StoreError};

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
    /// It would have changed another number of rows than it should. Nothing was done by this asking, and the key is
    /// free. Where an earlier asking ended in an error, that one may still come: [`seal`](crate::Store::seal) the
    /// key, and nothing does.
    OtherRows {
        /// Rows that it would have changed.
        rows: u64,
    },
    /// The database refuses the statement. Nothing was done by this asking, and the key is free; what is said of
    /// [`OtherRows`](Self::OtherRows) holds here too.
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
    // A doubt is not ended by a guarantee that leaves none, and no claim of the same attempt is taken over.
    request.rerun_of = None;
    request.attempt = AttemptId::random();
    fits(&shared.pool, answer)?;
    if let Err(forbidden) = check(effect.sql) {
        return Ok(OneStatementOutcome::Refused(forbidden));
    }
    if let Some(number) = number_beyond(effect.sql, effect.values.len()) {
        let word = format!("${number}");
        let forbidden = TransactionError::StatementForbidden { word };
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
        let (verdict, otherwise) = if refused.code() == NOT_TO_BE {
            let (verdict, rows) = why(&refused)?;
            (verdict, OneStatementOutcome::OtherRows { rows })
        } else {
            // That says what the statement met, and not whether the call was to be executed: of one that was
            // executed and is forgotten the row may be there.
            let refused = TransactionError::Statement(refused);
            let verdict = verdict(shared, &request).await?;
            (verdict, OneStatementOutcome::Refused(refused))
        };
        match verdict {
            GIVEN => return Ok(otherwise),
            // That has changed meanwhile.
            FOUND | TAKEN => {}
            MOVED => holding::arrive(&shared.pool).await?,
            other => return claiming::refused(other).map(OneStatementOutcome::NotExecuted),
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

/// What a call would come to if it were taken now. It is not.
async fn verdict(shared: &Shared, request: &ClaimRequest) -> Result<i32, StoreError> {
    let pool = &shared.pool;
    let rows = pool.rows(|_| steps::take(pool, request, Count::Anew, Takes::Before, false));
    let rows = rows.await?;
    let row = rows.first().ok_or_else(|| corrupt("nothing was said"))?;
    get(row, "verdict")
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
                    _ if has_lapsed || pool.is_there_already(&error) => Answered::Conflict,
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

/// The first `$n` that has no value of the statement's: values of ours come after them. What stands in quotes names
/// no value.
fn number_beyond(sql: &str, values: usize) -> Option<usize> {
    let mut quote = None;
    let mut rest = sql.chars();
    while let Some(one) = rest.next() {
        match (quote, one) {
            (Some(open), _) if open == one => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(one),
            (None, '$') => {
                let text = rest.as_str();
                let end = text.find(|c: char| !c.is_ascii_digit());
                let digits = &text[..end.unwrap_or(text.len())];
                let number = match digits {
                    "" => continue,
                    digits => digits.parse().unwrap_or(usize::MAX),
                };
                if number > values {
                    return Some(number);
                }
            }
            (None, _) => {}
        }
    }
    None
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

/// As what `is_not_to_be` fails.
const NOT_TO_BE: &str = "ONL01";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_not_given_is_none_of_ours() {
        assert_eq!(number_beyond("UPDATE a SET b = $1 WHERE c = $2", 2), None);
        assert_eq!(
            number_beyond("UPDATE a SET b = $3 WHERE c = $2", 2),
            Some(3)
        );
        assert_eq!(number_beyond("UPDATE a SET b = $12", 2), Some(12));
        assert_eq!(
            number_beyond("UPDATE a SET b = '$12', \"$9\" = $1", 1),
            None
        );
        assert_eq!(
            number_beyond("UPDATE a SET b = 'it\'\'s $5' || $2", 1),
            Some(2)
        );
        let endless = format!("UPDATE a SET b = ${}", "9".repeat(40));
        assert_eq!(number_beyond(&endless, 2), Some(usize::MAX));
    }
}
