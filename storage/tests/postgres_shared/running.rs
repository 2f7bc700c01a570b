//! What was right when the store was opened and is wrong by now: the calls fail closed, and the words say
//! what to do.

use std::time::Duration;

use onlyonce_storage::postgres::{OpenError, PostgresOptions, PostgresStore};
use onlyonce_storage::transaction::TransactionalStore as _;
use onlyonce_storage::{Store as _, StoreError};

use crate::calls::{answer, given, key, replayed, request, run};
use crate::postgres_rig::{self, Durable, Server};

fn says(refused: &StoreError, what: &str) {
    let StoreError::Unavailable { reason, .. } = refused else {
        panic!("{refused}");
    };
    assert!(reason.contains(what), "{reason:?} does not say {what:?}");
}

/// Every connection of the server is taken: at the start it is an error that says so, later the calls fail
/// closed until there is one.
#[test]
fn a_server_without_a_connection_left_fails_closed_and_is_used_when_it_has_one() {
    let Some(server) = Server::start(Durable::No) else {
        return;
    };
    server.stop();
    server.set("max_connections = 6");
    server.set("superuser_reserved_connections = 0");
    server.set("max_wal_senders = 0");
    server.up();
    run(async {
        let options = postgres_rig::options(&server)
            .answer_within(Duration::from_millis(500))
            .without_listening();
        let store = postgres_rig::store(options.clone()).await;
        let claim = given(store.claim(request(&key("before"))).await.unwrap());
        let mut taken = Vec::new();
        while taken.len() < 10 {
            match tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await {
                Ok((client, io)) => taken.push((client, tokio::spawn(io))),
                Err(_) => break,
            }
        }
        let refused = PostgresStore::open(options).await.unwrap_err();
        assert!(
            matches!(refused, OpenError::TooManyConnections { .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("max_connections"), "{refused}");
        // The store has the one that it had. What needs another is refused, and says why.
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
        let (first, second) = (key("first"), key("second"));
        let both = tokio::join!(store.claim(request(&first)), store.claim(request(&second)));
        if let (Err(refused), _) | (_, Err(refused)) = &both {
            says(refused, "no connection left");
        }
        for (_, io) in taken {
            io.abort();
        }
        for _ in 0..100 {
            if store.claim(request(&key("after"))).await.is_ok() {
                break;
            }
        }
        assert_eq!(replayed(&store, &key("before")).await, answer("paid"));
    });
}

#[test]
fn a_user_who_loses_a_permission_while_the_store_runs_fails_closed() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        PostgresStore::migrate(&options).await.unwrap();
        let client = server.client().await;
        let user = format!("loses_{schema}");
        let grants = format!(
            "CREATE ROLE {user} LOGIN;
            GRANT USAGE ON SCHEMA {schema} TO {user};
            GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {user};
            GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {user}"
        );
        client.batch_execute(&grants).await.unwrap();
        let options = PostgresOptions::new(server.url_of(&user)).schema(&schema);
        let store = PostgresStore::open(options).await.unwrap();
        let claim = given(store.claim(request(&key("a"))).await.unwrap());
        store.complete(claim, answer("paid")).await.unwrap();
        let revoke = format!("REVOKE INSERT ON {schema}.records FROM {user}");
        client.batch_execute(&revoke).await.unwrap();
        let refused = store.claim(request(&key("b"))).await.unwrap_err();
        says(&refused, "permission denied");
        // What needs no insert goes on.
        assert_eq!(replayed(&store, &key("a")).await, answer("paid"));
    });
}

/// Somebody migrates, or drops the schema, while an old program runs.
#[test]
fn a_schema_that_becomes_newer_or_goes_while_the_store_runs_fails_closed() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let options = options.answer_within(Duration::from_secs(1));
        let store = postgres_rig::store(options).await;
        let client = server.client().await;
        let newer = format!("INSERT INTO {schema}.migrations (number, name) VALUES (99, 'later')");
        client.batch_execute(&newer).await.unwrap();
        let cut = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = '{schema}'"
        );
        client.batch_execute(&cut).await.unwrap();
        let refused = store.claim(request(&key("a"))).await.unwrap_err();
        says(&refused, "run a newer program");
        client
            .batch_execute(&format!("DROP SCHEMA {schema} CASCADE"))
            .await
            .unwrap();
        let refused = store.claim(request(&key("a"))).await.unwrap_err();
        says(&refused, "PostgresStore::migrate");
    });
}

/// A store of version 1 or 2 is refused by name, brought to the newest, and keeps what it has.
#[test]
fn a_store_of_an_older_schema_is_refused_and_keeps_its_records_when_it_is_migrated() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        for version in [1, 2] {
            migrated_from(version, server).await;
        }
    });
}

async fn migrated_from(version: i32, server: &Server) {
    let (schema, options) = postgres_rig::named(server);
    let client = server.client().await;
    let steps = PostgresStore::migrations(&schema).unwrap();
    let (older, newer): (Vec<_>, Vec<_>) = steps.iter().partition(|step| step.number <= version);
    let made: String = older.iter().map(|step| step.sql.as_str()).collect();
    let first = format!(
        "CREATE SCHEMA {schema};
        CREATE TABLE {schema}.migrations (
            number integer PRIMARY KEY, name text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
        );
        INSERT INTO {schema}.migrations (number, name)
        SELECT i, 'as it was' FROM generate_series(1, {version}) i;
        {made};
        INSERT INTO {schema}.store
        SELECT true, '\\x000102030405060708090a0b0c0d0e0f', 0, {schema}.place(), 7, 0, 7;
        INSERT INTO {schema}.records (key, version, state, at, sweep_at)
        VALUES (decode(repeat('ab', 32), 'hex'), 1, 4, 7, 9)"
    );
    client.batch_execute(&first).await.unwrap();
    let refused = PostgresStore::open(options.clone()).await.unwrap_err();
    let OpenError::OlderSchema {
        found, supported, ..
    } = &refused
    else {
        panic!("{refused}");
    };
    assert_eq!((*found, *supported as usize), (version, steps.len()));
    assert!(
        refused.to_string().contains("PostgresStore::migrate"),
        "{refused}"
    );
    let applied: Vec<_> = newer.iter().map(|step| step.number).collect();
    assert_eq!(PostgresStore::migrate(&options).await, Ok(applied));
    let store = PostgresStore::open(options).await.unwrap();
    assert_eq!(store.id().as_bytes()[15], 15);
    let kept = format!("SELECT count(*) FROM {schema}.records WHERE state = 4");
    let kept: i64 = client.query_one(&kept, &[]).await.unwrap().get(0);
    assert_eq!(kept, 1);
    // Both guarantees work on it.
    let claim = given(store.claim(request(&key("claimed"))).await.unwrap());
    store.complete(claim, answer("paid")).await.unwrap();
    let claim = given(store.begin(request(&key("held"))).await.unwrap());
    let work = store.start(&claim).end().unwrap();
    store.commit(claim, work, answer("paid")).await.unwrap();
    assert_eq!(replayed(&store, &key("held")).await, answer("paid"));
}
