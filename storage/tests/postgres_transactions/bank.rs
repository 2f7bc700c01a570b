//! Accounts of the tests' own, in the store's database.

use std::sync::Arc;

use onlyonce_storage::postgres::{Isolation, PostgresOptions, PostgresStore};
use onlyonce_storage::transaction::{
    CommitError, Transaction, TransactionError, TransactionalStore as _,
};
use onlyonce_storage::{Claim, ClaimOutcome, ScopedKey, Store as _};

use crate::calls::{answer, given, request, run};
use crate::postgres_rig::{self, Server};

pub const LEVELS: [Isolation; 3] = [
    Isolation::ReadCommitted,
    Isolation::RepeatableRead,
    Isolation::Serializable,
];

/// A table of accounts, in the store's schema.
pub struct Bank {
    pub schema: String,
    pub options: PostgresOptions,
    client: tokio_postgres::Client,
}

/// Runs a test at a bank of its own; it passes where PostgreSQL is not installed.
pub fn with_a_bank(test: impl AsyncFnOnce(Bank)) {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async { test(Bank::open(server).await).await });
}

impl Bank {
    pub async fn open(server: &Server) -> Self {
        let (schema, options) = postgres_rig::named(server);
        PostgresStore::migrate(&options).await.unwrap();
        let client = server.client().await;
        let bank = Self {
            schema,
            options,
            client,
        };
        bank.run(
            "CREATE TABLE {schema}.accounts (
                name text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0)
            );
            INSERT INTO {schema}.accounts VALUES ('alice', 100), ('bob', 100)",
        )
        .await;
        bank
    }

    /// The same accounts, after the database was restarted.
    pub async fn again(self, server: &Server) -> Self {
        Self {
            client: server.client().await,
            ..self
        }
    }

    pub async fn store(&self) -> Arc<PostgresStore> {
        self.store_with(self.options.clone()).await
    }

    pub async fn store_with(&self, options: PostgresOptions) -> Arc<PostgresStore> {
        Arc::new(PostgresStore::open(options).await.unwrap())
    }

    pub fn sql(&self, text: &str) -> String {
        text.replace("{schema}", &self.schema)
    }

    pub async fn run(&self, text: &str) {
        self.client.batch_execute(&self.sql(text)).await.unwrap();
    }

    pub async fn number(&self, text: &str) -> i64 {
        let row = self.client.query_one(&self.sql(text), &[]).await.unwrap();
        row.get(0)
    }

    /// What is there for everybody.
    pub async fn cents(&self, name: &str) -> i64 {
        self.number(&format!(
            "SELECT cents FROM {{schema}}.accounts WHERE name = '{name}'"
        ))
        .await
    }

    /// Adds to an account, in a handler's transaction.
    pub async fn add(
        &self,
        transaction: &Transaction,
        name: &str,
        cents: i64,
    ) -> Result<u64, TransactionError> {
        let sql = self.sql("UPDATE {schema}.accounts SET cents = cents + $1 WHERE name = $2");
        transaction.sql()?.execute(&sql, &[&cents, &name]).await
    }

    pub async fn read(
        &self,
        transaction: &Transaction,
        name: &str,
    ) -> Result<i64, TransactionError> {
        let sql = self.sql("SELECT cents FROM {schema}.accounts WHERE name = $1");
        let row = transaction.sql()?.query_one(&sql, &[&name]).await?;
        Ok(row.get(0))
    }
}

pub async fn begin(store: &PostgresStore, key: &ScopedKey) -> (Claim, Transaction) {
    let claim = given(store.begin(request(key)).await.unwrap());
    let transaction = store.start(&claim);
    (claim, transaction)
}

pub async fn commit(
    store: &PostgresStore,
    claim: Claim,
    transaction: &Transaction,
    text: &str,
) -> Result<(), CommitError> {
    let work = transaction.end().unwrap();
    store.commit(claim, work, answer(text.to_owned())).await
}

/// The answer of a call that is not executed here.
pub async fn replayed(store: &PostgresStore, key: &ScopedKey) -> String {
    match store.begin(request(key)).await.unwrap() {
        ClaimOutcome::Completed(completion) => {
            String::from_utf8(completion.answer.body().to_vec()).unwrap()
        }
        other => panic!("the answer should be replayed, and the claim is answered {other:?}"),
    }
}

pub async fn is_absent(store: &PostgresStore, key: &ScopedKey) {
    use onlyonce_storage::KeyState;
    assert_eq!(store.peek(key.clone()).await, Ok(KeyState::Absent));
}
