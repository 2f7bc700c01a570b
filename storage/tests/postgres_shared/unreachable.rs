//! G2: a database that is slow, mute or gone: bounded waits, no execution, and back within seconds.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::postgres::PostgresOptions;
use onlyonce_storage::{ClaimOutcome, KeyState, Store as _, StoreError};
use tokio::time::Instant;

use crate::calls::{answer, given, key, replayed, request, run};
use crate::postgres_rig::{self, Durable, Server};

const WITHIN: Duration = Duration::from_secs(1);

/// All of its processes are stopped: connections are taken by the kernel, and nothing answers.
#[test]
fn a_database_that_stands_still_fails_closed_in_time_and_is_back_within_seconds() {
    let Some(server) = Server::start(Durable::No) else {
        return;
    };
    run(async {
        let options = postgres_rig::options(&server)
            .answer_within(WITHIN)
            .connections_max(4);
        let store = Arc::new(postgres_rig::store(options).await);
        let claim = given(store.claim(request(&key("before"))).await.unwrap());
        server.freeze(true);
        // Far more calls than connections, twice: no queue grows, nobody waits for those before.
        for round in 0..2 {
            let began = Instant::now();
            let calls: Vec<_> = (0..100)
                .map(|call| {
                    let store = Arc::clone(&store);
                    let key = key(&format!("{round}-{call}"));
                    tokio::spawn(async move { store.claim(request(&key)).await })
                })
                .collect();
            for call in calls {
                let refused = call.await.unwrap().unwrap_err();
                assert!(
                    matches!(refused, StoreError::Unavailable { .. }),
                    "{refused}"
                );
            }
            assert!(began.elapsed() < WITHIN * 3, "{:?}", began.elapsed());
        }
        server.freeze(false);
        let back = Instant::now();
        while store.peek(key("before")).await.is_err() {
            assert!(
                back.elapsed() < Duration::from_secs(10),
                "it does not come back"
            );
        }
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
        assert_eq!(replayed(&*store, &key("before")).await, answer("paid"));
        // What was asked meanwhile was done late, or not: nobody owns it, and nobody executes it twice.
        let outcome = store.claim(request(&key("0-0"))).await.unwrap();
        let right = matches!(
            outcome,
            ClaimOutcome::Claimed(_) | ClaimOutcome::InProgress { .. } | ClaimOutcome::InDoubt(_)
        );
        assert!(right, "{outcome:?}");
    });
}

/// A lock that is held by somebody else, a backup or a migration say.
#[test]
fn a_table_that_is_locked_fails_closed_in_time() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options.answer_within(WITHIN)).await;
        let client = server.client().await;
        let lock = format!("BEGIN; LOCK TABLE {schema}.records");
        client.batch_execute(&lock).await.unwrap();
        let began = Instant::now();
        let refused = store.claim(request(&key("a"))).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::Unavailable { .. }),
            "{refused}"
        );
        assert!(began.elapsed() < WITHIN * 3, "{:?}", began.elapsed());
        client.batch_execute("ROLLBACK").await.unwrap();
        drop(given(store.claim(request(&key("b"))).await.unwrap()));
    });
}

/// The store is opened once; the database is gone for longer than a call waits.
#[test]
fn a_database_that_is_gone_fails_closed_and_is_found_again() {
    let Some(server) = Server::start(Durable::No) else {
        return;
    };
    run(async {
        let options = postgres_rig::options(&server).answer_within(WITHIN);
        let store = postgres_rig::store(options).await;
        server.stop();
        for _ in 0..3 {
            let refused = store.claim(request(&key("a"))).await.unwrap_err();
            assert!(
                matches!(refused, StoreError::Unavailable { .. }),
                "{refused}"
            );
        }
        server.up();
        assert_eq!(store.peek(key("a")).await, Ok(KeyState::Absent));
        drop(given(store.claim(request(&key("a"))).await.unwrap()));
    });
}

/// A primary that was stopped with its machine still takes connections for its kernel; the next host
/// must be asked all the same.
#[test]
fn a_host_that_takes_the_connection_and_says_nothing_does_not_hide_the_next() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (schema, _) = postgres_rig::named(server);
        let url = format!(
            "host=127.0.0.1,127.0.0.1 port={},{} user=owner dbname=postgres",
            mute.local_addr().unwrap().port(),
            server.port
        );
        let options = PostgresOptions::new(url)
            .schema(&schema)
            .answer_within(Duration::from_secs(3));
        let store = postgres_rig::store(options).await;
        let claim = given(store.claim(request(&key("a"))).await.unwrap());
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    });
}
