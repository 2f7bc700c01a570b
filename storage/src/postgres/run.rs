//! One run of a handler in a transaction of the database.

use std::any::Any;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::connection::{Connection, Unanswered};
use super::error::{Failure, is_name_of_another, unavailable};
use super::held::{HeldCall, OneTransaction, RunState};
use super::holding::{BACK_TO_BASE, Holding, has_base, hold, hold_again};
use super::options::Isolation;
use super::store::Shared;
use crate::StoreFuture;
use crate::transaction::{OwnKind, ReadRows, RowRange, StatementError, TransactionError};

/// A run, for its handles. A newer run of the same call ends it.
pub(super) struct Run {
    shared: Arc<Shared>,
    call: Arc<HeldCall>,
    number: u64,
}

/// What the store's [`Transaction`](crate::transaction::Transaction) stands on. Behind an `Arc`, so that
/// its handles can be had.
pub(super) struct RunHandle(pub(super) Arc<Run>);

/// A claim that no transaction has: every word is refused.
pub(super) struct NothingHeld;

/// Which words a statement is asked with.
enum Asking {
    Execute,
    Query,
}

/// A statement that is not answered yet. When it is dropped, its run has failed.
struct Waiting<'a>(&'a Run);

// === impl Run ===

impl Run {
    pub(super) fn start(shared: Arc<Shared>, call: Arc<HeldCall>) -> Arc<Self> {
        let number = {
            let mut run = call.run.lock();
            let number = run.number + 1;
            *run = RunState {
                number,
                is_let_go: run.is_let_go,
                ..RunState::default()
            };
            number
        };
        Arc::new(Self {
            shared,
            call,
            number,
        })
    }

    pub(super) async fn execute(
        &self,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<u64, TransactionError> {
        let answered = self.ask(&Asking::Execute, sql, values).await?;
        Ok(answered.1)
    }

    pub(super) async fn query(
        &self,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, TransactionError> {
        let answered = self.ask(&Asking::Query, sql, values).await?;
        Ok(answered.0)
    }

    /// Sets it back to a point of the handler's.
    pub(super) async fn roll_back_to(&self, point: &str) -> Result<(), TransactionError> {
        // What was refused since is undone with it; if that cannot be said, the run has failed anyway.
        let aborted = self.state(|run| Ok(run.aborted.take()))?;
        let sql = format!("ROLLBACK TO SAVEPOINT {point}");
        let set_back = self.execute(&sql, &[]).await;
        if set_back.is_err()
            && let Some(aborted) = aborted
        {
            self.state(|run| {
                run.aborted.get_or_insert(aborted);
                Ok(())
            })?;
        }
        set_back.map(drop)
    }

    pub(super) fn next_point(&self) -> String {
        let mut run = self.call.run.lock();
        run.points += 1;
        format!("onlyonce_{}", run.points)
    }

    /// The first failure is the one that explains the others.
    pub(super) fn fail(&self, error: TransactionError) -> TransactionError {
        let mut run = self.call.run.lock();
        if run.number != self.number {
            return TransactionError::Ended;
        }
        run.failed.get_or_insert(error).clone()
    }

    async fn ask(
        &self,
        asking: &Asking,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<(Vec<Row>, u64), TransactionError> {
        self.state(|run| {
            run.check()?;
            run.asking += 1;
            Ok(())
        })?;
        let waiting = Waiting(self);
        let answered = self.asked(asking, sql, values).await;
        std::mem::forget(waiting);
        self.call.run.lock().asking -= 1;
        self.call.gives_up_what_was_let_go();
        answered
    }

    async fn asked(
        &self,
        asking: &Asking,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<(Vec<Row>, u64), TransactionError> {
        let mut transaction = self.call.transaction.lock().await;
        // Others may have asked before, and failed.
        self.state(|run| run.check())?;
        self.call
            .ready(&self.shared, &mut transaction, self.number)
            .await?;
        let connection = transaction.connection().map_err(|error| self.fail(error))?;
        let within = self.shared.pool.options().answer_within;
        let answer = async {
            Ok(match asking {
                Asking::Execute => (Vec::new(), connection.execute(sql, values).await?),
                Asking::Query => (connection.query(sql, values).await?, 0),
            })
        };
        let answer = timeout(within, answer).await;
        let is_lost = connection.is_closed();
        match answer {
            Ok(Ok(answer)) => {
                // Let go meanwhile: whoever has the lock undoes it.
                if self.call.run.lock().is_over {
                    transaction.hold = None;
                    return Err(TransactionError::Ended);
                }
                Ok(answer)
            }
            Ok(Err(Unanswered { error, has_lapsed })) => {
                let meant = if has_lapsed {
                    Meaning::Conflict
                } else {
                    meaning(&error, is_lost)
                };
                if let Meaning::Lost = meant {
                    transaction.hold = None;
                }
                Err(self.note(meant, &error))
            }
            Err(_) => {
                transaction.hold = None;
                Err(self.fail(unavailable(format!("no answer within {within:?}")).into()))
            }
        }
    }

    /// Takes in what the database's refusal means for the run.
    fn note(&self, meant: Meaning, error: &tokio_postgres::Error) -> TransactionError {
        match meant {
            Meaning::Conflict => self.fail(TransactionError::Conflict),
            Meaning::Lost => {
                let reason = match Failure::of(error).into_store_error() {
                    crate::StoreError::Unavailable { reason, .. } => reason,
                    other => other.to_string(),
                };
                self.fail(unavailable(reason).into())
            }
            Meaning::Refused(refused) => {
                let noted = self.state(|run| Ok(run.aborted.get_or_insert(refused).clone()));
                match noted {
                    Ok(refused) => TransactionError::Statement(refused),
                    Err(error) => error,
                }
            }
        }
    }

    /// Looks at the state of this run; a newer one has ended it.
    fn state<T>(
        &self,
        look: impl FnOnce(&mut RunState) -> Result<T, TransactionError>,
    ) -> Result<T, TransactionError> {
        let mut run = self.call.run.lock();
        if run.number != self.number {
            return Err(TransactionError::Ended);
        }
        look(&mut run)
    }
}

// === impl RunHandle ===

impl ReadRows for RunHandle {
    fn read(&self, _: RowRange) -> StoreFuture<'_, Vec<crate::transaction::Row>> {
        Box::pin(async { Err(unavailable(NO_ROWS)) })
    }

    fn own(&self) -> Option<&dyn OwnKind> {
        Some(self)
    }
}

impl OwnKind for RunHandle {
    fn rows_may_be_written(&self) -> Result<(), TransactionError> {
        Err(self.0.fail(unavailable(NO_ROWS).into()))
    }

    fn discard_writes(&self) {
        // OK to ignore because a run that is over has nothing to discard.
        let _ = self.0.state(|run| {
            run.discards = true;
            run.aborted = None;
            Ok(())
        });
    }

    fn refuse_writes(&self) {
        self.discard_writes();
        // OK to ignore for the same reason.
        let _ = self.0.state(|run| {
            run.refuses = true;
            Ok(())
        });
    }

    fn end(&self) -> Result<(), TransactionError> {
        self.0.state(|run| {
            let was_over = std::mem::replace(&mut run.is_over, true);
            if was_over {
                return Err(run.failed.clone().unwrap_or(TransactionError::Ended));
            }
            if run.asking > 0 {
                run.failed.get_or_insert(TransactionError::ReadDropped);
            }
            run.settled()
        })
    }

    fn this(&self) -> &(dyn Any + Send + Sync) {
        &self.0
    }
}

// === impl NothingHeld ===

impl ReadRows for NothingHeld {
    fn read(&self, _: RowRange) -> StoreFuture<'_, Vec<crate::transaction::Row>> {
        Box::pin(async { Err(unavailable(NOT_HELD)) })
    }

    fn own(&self) -> Option<&dyn OwnKind> {
        Some(self)
    }
}

impl OwnKind for NothingHeld {
    fn rows_may_be_written(&self) -> Result<(), TransactionError> {
        Err(unavailable(NOT_HELD).into())
    }

    fn discard_writes(&self) {}

    fn refuse_writes(&self) {}

    fn end(&self) -> Result<(), TransactionError> {
        Err(unavailable(NOT_HELD).into())
    }

    fn this(&self) -> &(dyn Any + Send + Sync) {
        &()
    }
}

// === impl Waiting ===

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fail(TransactionError::ReadDropped);
    }
}

// === impl RunState ===

impl RunState {
    /// Whether another statement may be asked.
    fn check(&self) -> Result<(), TransactionError> {
        self.settled()?;
        if self.is_over || self.refuses {
            return Err(TransactionError::Ended);
        }
        Ok(())
    }

    /// Whether what was done can be committed.
    pub(super) fn settled(&self) -> Result<(), TransactionError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let aborted = self.aborted.clone();
        aborted.map_or(Ok(()), |refused| Err(TransactionError::Statement(refused)))
    }
}

// === impl HeldCall ===

impl HeldCall {
    /// Makes the transaction that of this run, which must be the newest: a new one, where an earlier run
    /// has used this one. What is to be discarded is undone.
    pub(super) async fn ready(
        &self,
        shared: &Arc<Shared>,
        transaction: &mut OneTransaction,
        number: u64,
    ) -> Result<(), TransactionError> {
        let discards = {
            let mut run = self.run.lock();
            if run.number != number {
                return Err(TransactionError::Ended);
            }
            std::mem::take(&mut run.discards)
        };
        let is_another = transaction.run != number;
        // What another statement has read does not matter to one that sees for itself. A picture of the
        // whole transaction is kept, so that also an answer with no effect stands on it.
        let isolation = shared.pool.options().isolation;
        let sets_back = discards && transaction.has_base(isolation);
        if is_another || discards && !sets_back {
            if transaction.is_used || transaction.hold.is_none() {
                self.begin_anew(shared, transaction).await?;
            }
            transaction.run = number;
            transaction.is_used = false;
        }
        if sets_back && transaction.is_used {
            let connection = transaction.connection()?;
            let within = shared.pool.options().answer_within;
            let undone = timeout(within, connection.begin_or_end(BACK_TO_BASE)).await;
            if !matches!(undone, Ok(Ok(()))) {
                transaction.hold = None;
                return Err(self.failed(unavailable("its writes could not be undone").into()));
            }
        }
        transaction.is_used = true;
        Ok(())
    }

    async fn begin_anew(
        &self,
        shared: &Arc<Shared>,
        transaction: &mut OneTransaction,
    ) -> Result<(), TransactionError> {
        let begun = match transaction.hold.take() {
            Some(earlier) => Box::pin(hold_again(shared, &self.request, earlier.leased)).await,
            None => Box::pin(hold(shared, &self.request)).await,
        };
        match begun.map_err(|error| self.failed(error.into()))? {
            Holding::Given(hold) => {
                transaction.hold = Some(hold);
                Ok(())
            }
            Holding::Not(_) => Err(self.failed(TransactionError::Superseded)),
        }
    }

    fn failed(&self, error: TransactionError) -> TransactionError {
        self.run.lock().failed.get_or_insert(error).clone()
    }
}

// === impl OneTransaction ===

impl OneTransaction {
    /// Whether it can be set back to where it began. One whose connection is lost is begun anew where nothing
    /// depends on what it has seen.
    fn has_base(&self, isolation: Isolation) -> bool {
        let keeps = self.connection().map_or(true, Connection::keeps_statements);
        has_base(isolation, keeps)
    }

    pub(super) fn connection(&self) -> Result<&Connection, TransactionError> {
        let hold = self.hold.as_ref().ok_or_else(lost)?;
        hold.leased.connection().map_err(|_| lost())
    }
}

fn lost() -> TransactionError {
    unavailable("the connection of the transaction is lost").into()
}

/// What an error of a statement says of its transaction.
pub(super) enum Meaning {
    /// It is to run again.
    Conflict,
    /// Its connection is of no use any more.
    Lost,
    Refused(StatementError),
}

pub(super) fn meaning(error: &tokio_postgres::Error, is_lost: bool) -> Meaning {
    let Some(refused) = error.as_db_error() else {
        return Meaning::Lost;
    };
    let conflicts = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
    ];
    if conflicts.contains(refused.code()) || is_name_of_another(refused.code()) {
        return Meaning::Conflict;
    }
    if is_lost || matches!(Failure::of(error), Failure::Lost(_)) {
        return Meaning::Lost;
    }
    Meaning::Refused(StatementError::new(
        refused.code().code().to_owned(),
        refused.message().to_owned(),
        refused.constraint().map(str::to_owned),
    ))
}

pub(super) const NO_ROWS: &str =
    "a store on PostgreSQL keeps no tables of its own: a handler uses `Transaction::sql`";
const NOT_HELD: &str = "the claim was not begun for a transaction, or is over";
