//! Handlers of two servers on one database, whose effects are statements of their own: natively and over
//! HTTP, effect and answer or neither.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod http;
mod native;

#[path = "../../storage/tests/postgres_rig/mod.rs"]
mod postgres_rig;

use std::sync::Arc;

use onlyonce::storage::postgres::{Isolation, PostgresOptions, PostgresStore};

use self::postgres_rig::Server;

/// Accounts in a schema of their own, and how to open the store that is there as well.
struct Bank {
    schema: String,
    options: PostgresOptions,
    server: &'static Server,
}

impl Bank {
    /// `None` where PostgreSQL is not installed.
    async fn open() -> Option<Arc<Self>> {
        let server = postgres_rig::shared()?;
        let (schema, options) = postgres_rig::named(server);
        PostgresStore::migrate(&options).await.unwrap();
        let bank = Self {
            schema,
            options,
            server,
        };
        let make = "CREATE TABLE {schema}.accounts (
                name text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0)
            );
            INSERT INTO {schema}.accounts VALUES ('alice', 100), ('bob', 100)";
        let client = server.client().await;
        client.batch_execute(&bank.sql(make)).await.unwrap();
        Some(Arc::new(bank))
    }

    async fn store(&self) -> Arc<PostgresStore> {
        Arc::new(PostgresStore::open(self.options.clone()).await.unwrap())
    }

    async fn store_at(&self, level: Isolation) -> Arc<PostgresStore> {
        let options = self.options.clone().isolation(level);
        Arc::new(PostgresStore::open(options).await.unwrap())
    }

    fn sql(&self, text: &str) -> String {
        text.replace("{schema}", &self.schema)
    }

    async fn number(&self, text: &str) -> i64 {
        let client = self.server.client().await;
        let row = client.query_one(&self.sql(text), &[]).await.unwrap();
        row.get(0)
    }

    async fn cents(&self, name: &str) -> i64 {
        let of = format!("SELECT cents FROM {{schema}}.accounts WHERE name = '{name}'");
        self.number(&of).await
    }
}
