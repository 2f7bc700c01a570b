//! Behind PgBouncer, which gives each transaction to whichever connection is free.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::postgres::{Isolation, PostgresOptions};
use onlyonce_storage::{Inspect as _, Store as _};
use tokio::time::timeout;

use crate::bank::{Bank, LEVELS, begin, commit, is_absent, replayed};
use crate::calls::{self, answer, given, key, request, run};
use crate::postgres_rig;
use crate::postgres_rig::pooler::Pooler;
use crate::racers::until_answered;

/// Claims, transactions, sessions and sweeps go through two connections that they share with others, and
/// leave nothing there: no statement with a name, no lock, no transaction.
#[test]
fn a_store_works_behind_a_pooler_by_transaction_and_leaves_nothing_in_its_connections() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Arc::new(Bank::open(server).await);
        // Two for six callers, unless a call needs a second one while it has the first: then one more than
        // there are calls.
        let poolers = (
            Pooler::start(server, 2).await,
            Pooler::start(server, 7).await,
        );
        let (Some(few), Some(enough)) = poolers else {
            return;
        };
        for level in LEVELS {
            let pooler = if level == Isolation::ReadCommitted {
                &few
            } else {
                &enough
            };
            let options = PostgresOptions::new(pooler.url())
                .schema(&bank.schema)
                .connections_max(4);
            let mut racing = Vec::new();
            for number in 0..3 {
                let store = bank.store_with(options.clone().isolation(level)).await;
                for task in 0..2 {
                    let (bank, store) = (Arc::clone(&bank), Arc::clone(&store));
                    racing.push(tokio::spawn(async move {
                        for call in 0..10 {
                            let key = key(&format!("{level:?}-{call}"));
                            until_answered(&bank, &store, &key, &format!("{number}-{task}")).await;
                            let claimed =
                                crate::calls::key(&format!("{level:?}-{number}-{task}-{call}"));
                            let claim = given(store.claim(request(&claimed)).await.unwrap());
                            store.complete(claim, answer("paid")).await.unwrap();
                            assert_eq!(calls::replayed(&*store, &claimed).await, answer("paid"));
                        }
                    }));
                }
            }
            for racer in racing {
                racer.await.unwrap();
            }
        }
        assert_eq!(bank.cents("bob").await, 100 + 3 * 10);
        let options = PostgresOptions::new(few.url()).schema(&bank.schema);
        let store = bank.store_with(options).await;
        assert_eq!(store.sweep().await.unwrap().paused, None);
        let (claim, transaction) = begin(&store, &key("undone")).await;
        bank.add(&transaction, "bob", 5).await.unwrap();
        store.release(claim).await.unwrap();
        is_absent(&store, &key("undone")).await;

        for config in [few.url(), few.url(), few.url(), enough.url()] {
            let (client, io) = tokio_postgres::connect(&config, tokio_postgres::NoTls)
                .await
                .unwrap();
            tokio::spawn(io);
            let left = client
                .simple_query(
                    "SELECT (SELECT count(*) FROM pg_prepared_statements)
                        + (SELECT count(*) FROM pg_locks
                            WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
                )
                .await
                .unwrap();
            let count = left.iter().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            assert_eq!(count, Some("0"));
        }
    });
}

/// What is lost behind it: nobody is told what another server settles. Who waits asks.
#[test]
fn behind_a_pooler_nobody_is_told_and_everybody_can_ask() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Bank::open(server).await;
        let Some(pooler) = Pooler::start(server, 2).await else {
            return;
        };
        let options = PostgresOptions::new(pooler.url())
            .schema(&bank.schema)
            .without_listening();
        let (store, other) = (
            bank.store_with(options.clone()).await,
            bank.store_with(options).await,
        );
        let (claim, transaction) = begin(&store, &key("a")).await;
        let told = other.until_told(&key("a"));
        commit(&store, claim, &transaction, "paid").await.unwrap();
        assert!(timeout(Duration::from_millis(300), told).await.is_err());
        assert_eq!(replayed(&other, &key("a")).await, "paid");
    });
}
