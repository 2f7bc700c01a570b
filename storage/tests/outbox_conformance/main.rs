//! What every outbox keeps, on each of them; and what one in a database that several processes use keeps
//! besides.
#![cfg(all(feature = "conformance", feature = "postgres", feature = "sled"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod lost_answers;
mod owners;
#[path = "../postgres_rig/mod.rs"]
mod postgres_rig;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use onlyonce_storage::conformance::outbox::{OpenOutbox, OutboxHarness};
use onlyonce_storage::outbox::OutboxLimits;
use onlyonce_storage::postgres::{
    PostgresOptions, PostgresOutbox, PostgresOutboxOptions, PostgresStore,
};
use onlyonce_storage::{OutboxOptions, Scope, SledOutbox};
use tempfile::TempDir;

type Opening<'a> = Pin<Box<dyn Future<Output = Result<OpenOutbox, String>> + Send + 'a>>;

/// A directory.
struct Directory(TempDir);

impl OutboxHarness for Directory {
    fn open(&self, scope: Scope, limits: OutboxLimits) -> Opening<'_> {
        Box::pin(async move {
            let options = OutboxOptions::new().limits(limits);
            let outbox = SledOutbox::open_async(self.0.path(), scope, options).await;
            let outbox = Arc::new(outbox.map_err(|error| error.to_string())?);
            let closed = Arc::clone(&outbox);
            Ok(OpenOutbox {
                store: outbox,
                close: Box::new(move || Box::pin(async move { closed.close().await.unwrap() })),
            })
        })
    }
}

/// A schema of its own; where PostgreSQL is not installed a directory stands in, and the tests say so.
enum Database {
    NotFound(Directory),
    Running(PostgresOptions),
}

impl Database {
    async fn make() -> Self {
        let Some(server) = postgres_rig::shared() else {
            return Self::NotFound(Directory(tempfile::tempdir().unwrap()));
        };
        let options = postgres_rig::options(server);
        PostgresStore::migrate(&options).await.unwrap();
        Self::Running(options)
    }
}

impl OutboxHarness for Database {
    fn open(&self, scope: Scope, limits: OutboxLimits) -> Opening<'_> {
        let options = match self {
            Self::NotFound(directory) => return directory.open(scope, limits),
            Self::Running(options) => options.clone(),
        };
        Box::pin(async move {
            let options = PostgresOutboxOptions::new(options, "shop-7").limits(limits);
            let outbox = PostgresOutbox::open(scope, options).await;
            let outbox = Arc::new(outbox.map_err(|error| error.to_string())?);
            let closed = Arc::clone(&outbox);
            Ok(OpenOutbox {
                store: outbox,
                close: Box::new(move || Box::pin(async move { closed.close().await })),
            })
        })
    }
}

mod on_sled {
    use super::Directory;

    onlyonce_storage::conformance_outbox!(Directory(tempfile::tempdir().unwrap()));
}

mod on_postgres {
    use super::Database;

    onlyonce_storage::conformance_outbox!(Database::make().await);
}
