//! A bounded number of connections, and how a question is asked over them within a bounded time.
//!
//! The rule: **a connection is used again only after an answer has come over it.** One whose question
//! was given up, or ended in an error of the transport, is closed: its answer, should it come, would
//! be taken for another's.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::Row;
use uuid::Uuid;

use super::connection::{Connection, arrive};
use super::error::{Failure, OpenError, unavailable};
use super::migrations::Schema;
use super::options::PostgresOptions;
use super::statement::Told;
use crate::{StoreError, StoreId};

#[derive(Debug)]
pub(super) struct Pool {
    options: PostgresOptions,
    schema: Schema,
    id: StoreId,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    /// Those of them that transactions may have: one is left for questions, however long handlers take.
    for_transactions: Arc<Semaphore>,
}

/// A connection for longer than one question. Dropping it closes it, which undoes what is begun there.
#[derive(Debug)]
pub(super) struct Leased {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    /// The connection keeps the key of a call, beside its transaction.
    pub(super) has_key: bool,
    _permits: [OwnedSemaphorePermit; 2],
}

/// Whether a statement may have been executed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Once,
    /// An earlier answer got lost.
    Again,
}

// === impl Pool ===

impl Pool {
    /// A pool with one connection.
    pub(super) async fn open(options: PostgresOptions) -> Result<Self, OpenError> {
        let schema = Schema::parse(&options.schema)?;
        let (connection, id) = arrive(&options, &schema).await?;
        Ok(Self {
            schema,
            id,
            idle: Mutex::new(vec![connection]),
            permits: Arc::new(Semaphore::new(options.connections_max)),
            for_transactions: Arc::new(Semaphore::new((options.connections_max - 1).max(1))),
            options,
        })
    }

    /// The identity of the store that its connections lead to.
    pub(super) const fn id(&self) -> StoreId {
        self.id
    }

    /// What is needed to hear of others: where they are, and on which channel they tell.
    pub(super) fn listening(&self) -> (PostgresOptions, String) {
        let channel = format!(
            "onlyonce_{}",
            Uuid::from_bytes(*self.id.as_bytes()).simple()
        );
        (self.options.clone(), channel)
    }

    pub(super) const fn options(&self) -> &PostgresOptions {
        &self.options
    }

    /// A statement with the schema's name in it.
    pub(super) fn told(&self, sql: &str) -> Told {
        Told::new(self.text(sql))
    }

    /// A part of a statement with the schema's name in it.
    pub(super) fn text(&self, sql: &str) -> String {
        self.schema.sql(sql)
    }

    /// Whether a statement failed because the key that it would write a record for has one.
    pub(super) fn is_there_already(&self, error: &tokio_postgres::Error) -> bool {
        error.as_db_error().is_some_and(|refused| {
            refused.constraint() == Some(RECORDS_KEY)
                && refused.schema() == Some(self.schema.name())
        })
    }

    /// The answer to a statement, asked again where that may help and as long as there is time.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`]: it may or may not have been executed.
    pub(super) async fn rows(
        &self,
        statement: impl Fn(Asked) -> Told + Send + Sync,
    ) -> Result<Vec<Row>, StoreError> {
        self.asked(|asked| self.ask(statement(asked))).await
    }

    /// What comes of asking, again where that may help and as long as there is time.
    ///
    /// # Errors
    ///
    /// As [`rows`](Self::rows).
    pub(super) async fn asked<T, F>(
        &self,
        ask: impl Fn(Asked) -> F + Send + Sync,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Failure>> + Send,
    {
        let within = self.options.answer_within;
        let until = Instant::now() + within;
        let mut asked = Asked::Once;
        let mut conflicts = 0;
        for round in 0.. {
            let failure = match timeout_at(until, ask(asked)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    return Err(unavailable(format!(
                        "the database did not answer within {within:?}"
                    )));
                }
            };
            match &failure {
                Failure::Conflict(_) | Failure::InTheWay(_) if conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                }
                Failure::Lost(_) => asked = Asked::Again,
                Failure::NotConnected(error) if error.passes() => {}
                Failure::Conflict(_)
                | Failure::InTheWay(_)
                | Failure::NotConnected(_)
                | Failure::Refused(_) => {
                    return Err(failure.into_store_error());
                }
            }
            let pause = pause(round);
            if Instant::now() + pause >= until {
                return Err(failure.into_store_error());
            }
            sleep(pause).await;
        }
        Err(StoreError::Closed)
    }

    pub(super) async fn ask(&self, statement: Told) -> Result<Vec<Row>, Failure> {
        // Waits in the order of asking; whoever gives up leaves the queue.
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let connection = match self.idle() {
            Some(connection) => connection,
            None => self.connect().await.map_err(Failure::NotConnected)?,
        };
        let answer = connection.ask(&statement).await;
        if !matches!(answer, Err(Failure::Lost(_))) && !connection.is_closed() {
            self.idle.lock().push(connection);
        }
        answer
    }

    /// The same, in a transaction in which each statement sees what was committed before it, whatever the
    /// role's default is behind a pooler.
    pub(super) async fn ask_reading_anew(&self, statement: Told) -> Result<Vec<Row>, Failure> {
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let connection = match self.idle() {
            Some(connection) => connection,
            None => self.connect().await.map_err(Failure::NotConnected)?,
        };
        connection
            .begin_or_end("BEGIN ISOLATION LEVEL READ COMMITTED")
            .await?;
        // Where it fails the connection is closed, and with it the transaction.
        let answer = connection.ask(&statement).await?;
        connection.begin_or_end("COMMIT").await?;
        self.idle.lock().push(connection);
        Ok(answer)
    }

    /// A connection for a transaction.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Leased, Failure> {
        let for_transactions = Arc::clone(&self.for_transactions);
        let first = for_transactions.acquire_owned().await.map_err(closed)?;
        let second = Arc::clone(&self.permits).acquire_owned().await;
        let permits = [first, second.map_err(closed)?];
        let connection = match self.idle() {
            Some(connection) => connection,
            None => self.connect().await.map_err(Failure::NotConnected)?,
        };
        Ok(Leased {
            connection: Some(connection),
            pool: Arc::clone(self),
            has_key: false,
            _permits: permits,
        })
    }

    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        idle.retain(|connection| !connection.is_closed());
        // The one that was used last: the others may have gone quiet.
        idle.pop()
    }

    async fn connect(&self) -> Result<Connection, OpenError> {
        let (connection, id) = arrive(&self.options, &self.schema).await?;
        if id != self.id {
            // Keys that this process has claimed are unknown there.
            return Err(OpenError::Failed {
                reason: format!(
                    "there is another store now, {id}, and not {}; open it anew",
                    self.id
                ),
            });
        }
        Ok(connection)
    }
}

// === impl Leased ===

impl Leased {
    /// The connection; an error once it has ended.
    pub(super) fn connection(&self) -> Result<&Connection, Failure> {
        let connection = self.connection.as_ref();
        connection.ok_or_else(|| Failure::Lost("the connection is closed".to_owned()))
    }

    /// Gives it back: nothing is begun there, and all that was asked is answered.
    pub(super) fn give_back(mut self) {
        if let Some(connection) = self.connection.take()
            && !connection.is_closed()
        {
            self.pool.idle.lock().push(connection);
        }
    }

    /// Undoes what is begun there, and gives it back. Where that is not answered the connection is
    /// closed, which undoes it as well.
    pub(super) async fn undo(self) {
        let within = self.pool.options.answer_within;
        let Ok(connection) = self.connection() else {
            return;
        };
        let undoing = if self.has_key {
            "ROLLBACK; SELECT pg_advisory_unlock_all()"
        } else {
            "ROLLBACK"
        };
        if let Ok(Ok(())) = timeout(within, connection.begin_or_end(undoing)).await {
            self.give_back();
        }
    }
}

fn closed(_: AcquireError) -> Failure {
    Failure::Refused("the pool is closed".to_owned())
}

/// Between 0 and a window that doubles: those who were in each other's way come back apart.
fn pause(round: u32) -> Duration {
    let window = PAUSE.saturating_mul(1 << round.min(8)).min(PAUSE_MAX);
    let [low, high, ..] = *Uuid::new_v4().as_bytes();
    let share = u32::from(u16::from_le_bytes([low, high]));
    PAUSE + window * share / u32::from(u16::MAX)
}

/// More than this many in a row mean that something is wrong that waiting does not end.
const CONFLICTS_MAX: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// By which a record is one for its key. A table of the user's may have a constraint of this name as well.
const RECORDS_KEY: &str = "records_pkey";
