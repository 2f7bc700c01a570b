//! Many at once on one key, and what a hot key costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce_storage::postgres::PostgresStore;
use onlyonce_storage::{
    ClaimOutcome, DoubtReason, IdempotencyKey, Inspect as _, KeyState, ListRequest, Scope,
    ScopedKey, SessionCall, SessionRequest, SessionState, Store as _, StoreError,
};

use crate::calls::{answer, given, key, replayed, request, run};
use crate::postgres_rig::{self, Durable, Server};

/// A11, G4: a record that goes away between the refusal and the look is claimed anew or refused again,
/// and none of those who are in each other's way is told of an error. Tokens only grow.
#[test]
fn a_key_that_is_claimed_and_released_by_many_has_one_owner_at_a_time() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let options = postgres_rig::options(server);
        let mut stores = vec![Arc::new(postgres_rig::store(options.clone()).await)];
        for _ in 0..2 {
            let another = PostgresStore::open(options.clone()).await.unwrap();
            stores.push(Arc::new(another));
        }
        let owners = Arc::new(AtomicU32::new(0));
        let tokens = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let tasks: Vec<_> = (0..48)
            .map(|at| {
                let store = Arc::clone(&stores[at % 3]);
                let (owners, tokens) = (Arc::clone(&owners), Arc::clone(&tokens));
                tokio::spawn(async move {
                    let mut given = 0;
                    while given < 10 {
                        match store.claim(request(&key("hot"))).await.unwrap() {
                            ClaimOutcome::Claimed(claim) => {
                                let others = owners.fetch_add(1, Ordering::SeqCst);
                                assert_eq!(others, 0, "two own it");
                                tokens.lock().push(claim.token());
                                given += 1;
                                owners.fetch_sub(1, Ordering::SeqCst);
                                assert_eq!(store.release(claim).await, Ok(()));
                            }
                            ClaimOutcome::InProgress { .. } => tokio::task::yield_now().await,
                            other => panic!("{other:?}"),
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let tokens = tokens.lock();
        assert_eq!(tokens.len(), 480);
        assert!(
            tokens.is_sorted(),
            "each owner's token is larger than the one before"
        );
    });
}

/// G4: doubts are ended and begun anew by many from three processes' stores; one run is given a doubt.
#[test]
fn of_many_reruns_from_several_stores_one_is_given_and_nobody_is_told_of_an_error() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let options = postgres_rig::options(server);
        let mut stores = vec![Arc::new(postgres_rig::store(options.clone()).await)];
        for _ in 0..2 {
            let another = PostgresStore::open(options.clone()).await.unwrap();
            stores.push(Arc::new(another));
        }
        let mut claim = given(stores[0].claim(request(&key("hot"))).await.unwrap());
        for _ in 0..10 {
            let token = claim.token();
            let doubted = stores[0].doubt(claim, DoubtReason::OwnerGone, None).await;
            assert_eq!(doubted, Ok(()));
            let tasks: Vec<_> = (0..48)
                .map(|at| {
                    let store = Arc::clone(&stores[at % 3]);
                    tokio::spawn(async move {
                        let mut rerun = request(&key("hot"));
                        rerun.rerun_of = Some(token);
                        store.claim(rerun).await.unwrap()
                    })
                })
                .collect();
            let mut claims = Vec::new();
            for task in tasks {
                match task.await.unwrap() {
                    ClaimOutcome::Claimed(claim) => claims.push(claim),
                    ClaimOutcome::InProgress { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(claims.len(), 1);
            claim = claims.pop().unwrap();
            assert!(claim.token() > token);
        }
        assert_eq!(stores[1].complete(claim, answer("paid")).await, Ok(()));
        assert_eq!(replayed(&*stores[2], &key("hot")).await, answer("paid"));
    });
}

/// G7: a duplicate that is refused or replayed writes nothing, so that a hot key leaves no dead rows.
#[test]
fn duplicates_of_a_hot_key_write_nothing() {
    // Its own server: what others write counts as well.
    let Some(server) = Server::start(Durable::No) else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(&server);
        let store = postgres_rig::store(options).await;
        let (busy, done) = (key("busy"), key("done"));
        let claim = given(store.claim(request(&busy)).await.unwrap());
        let settled = given(store.claim(request(&done)).await.unwrap());
        assert_eq!(store.complete(settled, answer("paid")).await, Ok(()));
        let session = store.session(busy.scope().clone(), SessionRequest::Open);
        let Ok(SessionState::Live { session, .. }) = session.await else {
            panic!("a session is opened");
        };
        let numbered = || {
            let mut request = request(&key("numbered"));
            request.session = Some(SessionCall {
                session,
                sequence: 1,
                first_unanswered: 1,
            });
            request
        };
        let in_session = given(store.claim(numbered()).await.unwrap());
        let client = server.client().await;
        // So does what the server does by itself.
        let quiet = "ALTER SYSTEM SET autovacuum = off";
        client.batch_execute(quiet).await.unwrap();
        client
            .batch_execute("SELECT pg_reload_conf()")
            .await
            .unwrap();
        let before = written(&client, &schema).await;
        for _ in 0..500 {
            let outcome = store.claim(request(&busy)).await.unwrap();
            assert!(matches!(outcome, ClaimOutcome::InProgress { .. }));
            assert_eq!(replayed(&store, &done).await, answer("paid"));
            let outcome = store.claim(numbered()).await.unwrap();
            assert!(matches!(outcome, ClaimOutcome::InProgress { .. }));
            store.peek(busy.clone()).await.unwrap();
            store.seal(done.clone()).await.unwrap();
        }
        assert_eq!(written(&client, &schema).await, before);
        for claim in [claim, in_session] {
            assert_eq!(store.release(claim).await, Ok(()));
        }
        assert_ne!(written(&client, &schema).await, before, "a change is seen");
    });
}

/// The next number of a transaction that writes, and the last token that was drawn.
async fn written(client: &tokio_postgres::Client, schema: &str) -> (String, i64) {
    let asked = format!(
        "SELECT pg_snapshot_xmax(pg_current_snapshot())::text, last_value FROM {schema}.tokens"
    );
    let row = client.query_one(&asked, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// I6: names of clients are values, whatever is in them.
#[test]
fn keys_and_scopes_are_data_whatever_they_spell() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let store = postgres_rig::store(postgres_rig::options(server)).await;
        let nasty = [
            "'; DROP SCHEMA public CASCADE; --",
            "\"quoted\"",
            "$$; SELECT pg_sleep(9); $$",
            "{schema}.records",
            "a\0b",
            "\\",
            "%s%n$1",
            "ünï©ode 🜚",
        ];
        let mut made = Vec::new();
        for (at, principal) in nasty.iter().enumerate() {
            for operation in [nasty[(at + 1) % nasty.len()], nasty[(at + 3) % nasty.len()]] {
                for text in ["';DROP/**/TABLE/**/records;--", "\"x\"", "$1", "{schema}"] {
                    let scope = Scope::principal(principal).unwrap();
                    let scope = scope.operation(operation).unwrap();
                    let key = ScopedKey::new(scope, IdempotencyKey::parse(text).unwrap());
                    let claim = given(store.claim(request(&key)).await.unwrap());
                    let body = format!("{principal}{operation}{text}");
                    made.push((key, claim, body));
                }
            }
        }
        let mut list = ListRequest::new();
        list.principal = Some("a\0b".to_owned());
        assert_eq!(store.list(list).await.unwrap().records.len(), 8);
        for (key, claim, body) in made {
            assert_eq!(store.complete(claim, answer(body.clone())).await, Ok(()));
            assert_eq!(replayed(&store, &key).await, answer(body));
        }
    });
}

/// A row that somebody changed by hand is an error, never an absent key.
#[test]
fn a_row_that_cannot_be_believed_is_an_error_and_executes_nothing() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = postgres_rig::store(options).await;
        let key = key("damaged");
        let claim = given(store.claim(request(&key)).await.unwrap());
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
        let client = server.client().await;
        for damage in [
            "name = 'other'",
            "fingerprint = '\\x00'",
            "answer_until = -5",
            "principal = '\\xff'",
        ] {
            client.batch_execute("BEGIN").await.unwrap();
            client.batch_execute("ROLLBACK").await.unwrap();
            let keep = format!(
                "CREATE TABLE IF NOT EXISTS {schema}.kept AS SELECT * FROM {schema}.records;
                UPDATE {schema}.records SET {damage}"
            );
            client.batch_execute(&keep).await.unwrap();
            let refused = store.claim(request(&key)).await.unwrap_err();
            assert!(
                matches!(refused, StoreError::Corrupt(_)),
                "{damage}: {refused}"
            );
            let refused = store.peek(key.clone()).await.unwrap_err();
            assert!(
                matches!(refused, StoreError::Corrupt(_)),
                "{damage}: {refused}"
            );
            let back = format!(
                "DELETE FROM {schema}.records;
                INSERT INTO {schema}.records SELECT * FROM {schema}.kept"
            );
            client.batch_execute(&back).await.unwrap();
        }
        assert_eq!(replayed(&store, &key).await, answer("paid"));
    });
}

/// E9: a sweep goes in pages while calls are made, and takes neither what is open nor what is young.
#[test]
fn a_sweep_removes_in_pages_while_calls_are_made() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let (schema, options) = postgres_rig::named(server);
        let store = Arc::new(postgres_rig::store(options).await);
        let young = key("young");
        let claim = given(store.claim(request(&young)).await.unwrap());
        assert_eq!(store.complete(claim, answer("young")).await, Ok(()));
        let open = given(store.claim(request(&key("open"))).await.unwrap());
        // Twenty-five pages of seals that are eight days old.
        let client = server.client().await;
        let old = format!(
            "INSERT INTO {schema}.records (key, version, state, at, sweep_at)
            SELECT sha256(n::text::bytea), 1, 4, t, t FROM generate_series(1, 25000) n,
                (SELECT {schema}.now_ms() - 8 * 86400000 AS t) eight_days_ago"
        );
        client.batch_execute(&old).await.unwrap();
        let sweeping = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.sweep().await })
        };
        let mut slowest = Duration::ZERO;
        let mut calls = 0;
        while !sweeping.is_finished() || calls < 20 {
            let key = key(&format!("meanwhile-{calls}"));
            let began = tokio::time::Instant::now();
            let claim = given(store.claim(request(&key)).await.unwrap());
            assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
            slowest = slowest.max(began.elapsed());
            calls += 1;
        }
        let swept = sweeping.await.unwrap().unwrap();
        assert_eq!((swept.tombstones, swept.paused), (25_000, None));
        assert!(slowest < Duration::from_secs(5), "{slowest:?}");
        assert_eq!(replayed(&*store, &young).await, answer("young"));
        let state = store.peek(key("open")).await.unwrap();
        assert!(matches!(state, KeyState::InProgress { .. }), "{state:?}");
        assert_eq!(store.release(open).await, Ok(()));
        assert_eq!(store.stats().await.unwrap().settled, 1 + calls);
    });
}
