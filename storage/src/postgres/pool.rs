//! A bounded number of connections, and how a question is asked over them within a bounded time.
//!
//! The rule: **a connection is used again only after an answer has come over it.** One whose question
//! was given up, or ended in an error of the transport, is closed: its answer, should it come, would
//! be taken for another's.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
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
    permits: Semaphore,
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
            permits: Semaphore::new(options.connections_max),
            options,
        })
    }

    /// The identity of the store that its connections lead to.
    pub(super) const fn id(&self) -> StoreId {
        self.id
    }

    pub(super) const fn options(&self) -> &PostgresOptions {
        &self.options
    }

    /// A statement with the schema's name in it.
    pub(super) fn told(&self, sql: &str) -> Told {
        Told::new(self.schema.sql(sql))
    }

    /// The answer to a statement, asked again where that may help and as long as there is time.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`]: it may or may not have been executed.
    pub(super) async fn rows(
        &self,
        statement: impl Fn(Asked) -> Told + Send,
    ) -> Result<Vec<Row>, StoreError> {
        let within = self.options.answer_within;
        let until = Instant::now() + within;
        let mut asked = Asked::Once;
        let mut conflicts = 0;
        for round in 0.. {
            let failure = match timeout_at(until, self.ask(statement(asked))).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    return Err(unavailable(format!(
                        "the database did not answer within {within:?}"
                    )));
                }
            };
            match &failure {
                Failure::Conflict(_) if conflicts < CONFLICTS_MAX => conflicts += 1,
                Failure::Lost(_) => asked = Asked::Again,
                Failure::NotConnected(error) if error.passes() => {}
                Failure::Conflict(_) | Failure::NotConnected(_) | Failure::Refused(_) => {
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

    async fn ask(&self, statement: Told) -> Result<Vec<Row>, Failure> {
        // Waits in the order of asking; whoever gives up leaves the queue.
        let Ok(_permit) = self.permits.acquire().await else {
            return Err(Failure::Refused("the pool is closed".to_owned()));
        };
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
