//! The suite, on the store on PostgreSQL.
#![cfg(all(feature = "postgres", feature = "conformance"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod postgres_rig;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use onlyonce_storage::conformance::{self, Harness};
use onlyonce_storage::postgres::{PostgresOptions, PostgresStore};
use onlyonce_storage::{Inspect, ManualClock, MemoryOptions, MemoryStore};

/// A store in a schema of its own; where PostgreSQL is not installed, the reference stands in, so that
/// the tests pass and say so.
enum Postgres {
    NotFound {
        clock: Arc<ManualClock>,
        store: MemoryStore,
    },
    Running {
        clock: Arc<ManualClock>,
        options: PostgresOptions,
        store: Arc<PostgresStore>,
    },
}

impl Postgres {
    async fn start() -> Self {
        let clock = Arc::new(ManualClock::default());
        let Some(server) = postgres_rig::shared() else {
            let options = MemoryOptions::new()
                .clock(clock.clone())
                .limits(conformance::limits());
            let store = MemoryStore::with_options(options);
            return Self::NotFound { clock, store };
        };
        let options = postgres_rig::options(server)
            .clock_of_tests(clock.clone())
            .limits(conformance::limits());
        let store = Arc::new(postgres_rig::store(options.clone()).await);
        Self::Running {
            clock,
            options,
            store,
        }
    }
}

impl Harness for Postgres {
    fn store(&self) -> Arc<dyn Inspect> {
        match self {
            Self::NotFound { store, .. } => Arc::new(store.clone()),
            Self::Running { store, .. } => store.clone(),
        }
    }

    fn clock(&self) -> &ManualClock {
        match self {
            Self::NotFound { clock, .. } | Self::Running { clock, .. } => clock,
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    fn reopen(&mut self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async {
            // Another process opens it: nothing of the first one is told to the second.
            let Self::Running { options, store, .. } = self else {
                return false;
            };
            *store = Arc::new(PostgresStore::open(options.clone()).await.unwrap());
            true
        })
    }
}

onlyonce_storage::conformance!(Postgres::start().await);
onlyonce_storage::conformance_journal!(Postgres::start().await);
