//! The bank in the database that the servers' store is in as well, as an outside system: it has a
//! schema and connections of its own, and each transfer is a transaction of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_middleware::server::Execution;
use onlyonce_storage::transaction::TransactionError;
use onlyonce_storage::{FencingToken, IdempotencyKey};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Row};

use super::super::bank::{Books, Receipt, Transfer};
use super::super::server::{ACCOUNTS, OPENING};
use crate::rpc::Transaction;

/// The bank's counter. Cloning it is cheap.
#[derive(Clone)]
pub(super) struct Bank {
    shared: Arc<Shared>,
}

struct Shared {
    url: String,
    schema: String,
    idle: Mutex<Vec<Client>>,
    room: Semaphore,
}

/// What came of an order.
pub(super) enum Ordered {
    Done(Receipt),
    NoFunds,
    /// Somebody has come with a larger token, or asked about this one.
    TooLate,
}

/// What the bank counts for the report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    /// Keys about which it was asked.
    pub(super) asked: u64,
    /// Orders that came too late.
    pub(super) refused: u64,
}

/// Why the bank did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum BankError {
    /// Nothing was asked.
    #[error("the bank cannot be reached: {0}")]
    NotConnected(String),
    /// It may have done what it was asked, or not.
    #[error("the bank did not answer: {0}")]
    NoAnswer(String),
}

/// One value of a statement.
type Value<'a> = (&'a (dyn ToSql + Sync), Type);

// === impl Bank ===

impl Bank {
    pub(super) fn new(url: &str, schema: &str) -> Self {
        Self {
            shared: Arc::new(Shared {
                url: url.to_owned(),
                schema: schema.to_owned(),
                idle: Mutex::default(),
                room: Semaphore::new(CONNECTIONS_MAX),
            }),
        }
    }

    /// Makes its schema, which is not there yet.
    pub(super) async fn found(&self) -> Result<(), BankError> {
        let endow = format!(
            "INSERT INTO {{schema}}.accounts
            SELECT account, {OPENING} FROM generate_series(0, {ACCOUNTS} - 1) account;"
        );
        let tables = include_str!("bank.sql");
        self.run(&format!("CREATE SCHEMA {{schema}};\n{tables}\n{endow}"))
            .await
    }

    /// Removes its schema.
    pub(super) async fn remove(&self) -> Result<(), BankError> {
        self.run("DROP SCHEMA IF EXISTS {schema} CASCADE").await
    }

    /// Moves the money, once for every time it is called: with the call's key and its run's token,
    /// or with none where nobody dedupes.
    pub(super) async fn transfer(
        &self,
        call: Option<(&IdempotencyKey, Execution)>,
        transfer: &Transfer,
    ) -> Result<Ordered, BankError> {
        let key = call.map(|(key, _)| key.as_str());
        let (incarnation, sequence) = match call {
            Some((_, execution)) => parts(execution.token),
            None => (0, 0),
        };
        let (operation, amount) = (whole(transfer.operation), whole(transfer.amount));
        let (source, target) = (account(transfer.from), account(transfer.to));
        let values: &[Value<'_>] = &[
            (&key, Type::TEXT),
            (&incarnation, Type::INT8),
            (&sequence, Type::INT8),
            (&operation, Type::INT8),
            (&source, Type::INT4),
            (&target, Type::INT4),
            (&amount, Type::INT8),
        ];
        let sql = "SELECT outcome, number, source_balance, target_balance
            FROM {schema}.transfer($1, $2, $3, $4, $5, $6, $7)";
        let rows = self.rows(sql, values).await?;
        ordered(rows.first().ok_or_else(unreadable)?)
    }

    /// The same in the transaction of its call, which commits it or not.
    pub(super) async fn transfer_in(
        &self,
        calls: &Transaction,
        transfer: &Transfer,
    ) -> Result<Result<Ordered, BankError>, TransactionError> {
        let (operation, amount) = (whole(transfer.operation), whole(transfer.amount));
        let (source, target) = (account(transfer.from), account(transfer.to));
        let sql = "SELECT outcome, number, source_balance, target_balance
            FROM {schema}.transfer(NULL, 0, 0, $1, $2, $3, $4)";
        let row = calls
            .sql()?
            .query_one(&self.told(sql), &[&operation, &source, &target, &amount])
            .await?;
        Ok(ordered(&row))
    }

    /// What became of the run with this token: its receipt, or nothing, and then nothing will.
    pub(super) async fn what_became_of(
        &self,
        key: &IdempotencyKey,
        token: FencingToken,
    ) -> Result<Option<Receipt>, BankError> {
        let (incarnation, sequence) = parts(token);
        let key = key.as_str();
        let values: &[Value<'_>] = &[
            (&key, Type::TEXT),
            (&incarnation, Type::INT8),
            (&sequence, Type::INT8),
        ];
        let sql = "SELECT number, source_balance, target_balance
            FROM {schema}.what_became_of($1, $2, $3)";
        let rows = self.rows(sql, values).await?;
        rows.first().map(|row| receipt(row, 0)).transpose()
    }

    /// Its books, while nobody works there.
    pub(super) async fn books(&self) -> Result<Books, BankError> {
        let rows = self
            .rows("SELECT account, balance FROM {schema}.accounts", &[])
            .await?;
        let mut balances = BTreeMap::new();
        for row in &rows {
            let account: i32 = get(row, 0)?;
            balances.insert(account.to_string(), get(row, 1)?);
        }
        let sql = "SELECT made.operation, made.source, made.target, made.amount,
                made.number, source.balance, target.balance
            FROM {schema}.transfers made
            JOIN {schema}.entries source
                ON source.transfer = made.number AND source.account = made.source
            JOIN {schema}.entries target
                ON target.transfer = made.number AND target.account = made.target
            ORDER BY made.number";
        let mut journal = Vec::new();
        for row in &self.rows(sql, &[]).await? {
            let unsigned = |place| get::<i64>(row, place).map(i64::unsigned_abs);
            let account = |place| get::<i32>(row, place).map(i32::unsigned_abs);
            let transfer = Transfer {
                operation: unsigned(0)?,
                from: account(1)?,
                to: account(2)?,
                amount: unsigned(3)?,
            };
            journal.push((transfer, receipt(row, 4)?));
        }
        Ok(Books { journal, balances })
    }

    pub(super) async fn counted(&self) -> Result<Counted, BankError> {
        let sql = "SELECT (SELECT count(DISTINCT key) FROM {schema}.asked),
            (SELECT count(*) FROM {schema}.refused)";
        let rows = self.rows(sql, &[]).await?;
        let row = rows.first().ok_or_else(unreadable)?;
        Ok(Counted {
            asked: get::<i64>(row, 0)?.unsigned_abs(),
            refused: get::<i64>(row, 1)?.unsigned_abs(),
        })
    }

    /// Statements without values.
    async fn run(&self, sql: &str) -> Result<(), BankError> {
        let client = self.connect().await?;
        let ran = client.batch_execute(&self.told(sql)).await;
        ran.map_err(|error| BankError::NoAnswer(error.to_string()))
    }

    /// One statement in one round trip. The connection is used again only after an answer.
    async fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, BankError> {
        let _room = self.shared.room.acquire().await;
        let idle = self.shared.idle.lock().pop();
        let client = match idle.filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.connect().await?,
        };
        let values: Vec<_> = values
            .iter()
            .map(|(value, kind)| (*value, kind.clone()))
            .collect();
        let sql = self.told(sql);
        match timeout(PATIENCE, client.query_typed(&sql, &values)).await {
            Ok(Ok(rows)) => {
                self.shared.idle.lock().push(client);
                Ok(rows)
            }
            Ok(Err(error)) => Err(BankError::NoAnswer(error.to_string())),
            Err(elapsed) => Err(BankError::NoAnswer(elapsed.to_string())),
        }
    }

    async fn connect(&self) -> Result<Client, BankError> {
        let connecting = tokio_postgres::connect(&self.shared.url, NoTls);
        match timeout(PATIENCE, connecting).await {
            Ok(Ok((client, connection))) => {
                tokio::spawn(async move {
                    // OK to ignore because whoever waits for an answer is told that it ended.
                    let _ = connection.await;
                });
                Ok(client)
            }
            Ok(Err(error)) => Err(BankError::NotConnected(error.to_string())),
            Err(elapsed) => Err(BankError::NotConnected(elapsed.to_string())),
        }
    }

    fn told(&self, sql: &str) -> String {
        sql.replace("{schema}", &self.shared.schema)
    }
}

fn ordered(row: &Row) -> Result<Ordered, BankError> {
    match row.try_get(0) {
        Ok(0) => Ok(Ordered::Done(receipt(row, 1)?)),
        Ok(1) => Ok(Ordered::NoFunds),
        Ok(2) => Ok(Ordered::TooLate),
        _ => Err(unreadable()),
    }
}

fn receipt(row: &Row, first: usize) -> Result<Receipt, BankError> {
    Ok(Receipt {
        entry: get::<i64>(row, first)?.unsigned_abs(),
        from_balance: get(row, first + 1)?,
        to_balance: get(row, first + 2)?,
    })
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    place: usize,
) -> Result<T, BankError> {
    row.try_get(place).map_err(|_| unreadable())
}

fn unreadable() -> BankError {
    BankError::NoAnswer("its answer cannot be read".to_owned())
}

/// A token as the bank compares it.
fn parts(token: FencingToken) -> (i64, i64) {
    (whole(token.incarnation()), whole(token.sequence()))
}

fn whole(number: u64) -> i64 {
    // OK because neither tokens nor amounts get there within a run.
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn account(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Three servers, each with as many for its store, fit into a database's default of 100.
const CONNECTIONS_MAX: usize = 8;

/// Far above what a transfer takes, and within the time that a hook has.
const PATIENCE: Duration = Duration::from_secs(3);
