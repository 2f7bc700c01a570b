//! The key of a call whose statements are undone before it is settled.
//!
//! The database lets the locks of a transaction go in the instant in which it refuses a statement, and not when it is
//! rolled back. So whoever waits for the lock of a key in its queue finds out whether there was an instant, however
//! short, in which somebody else could have taken the call.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::postgres::{PostgresOptions, PostgresStore};
use onlyonce_storage::transaction::{Transaction, TransactionError, TransactionalStore as _};
use onlyonce_storage::{Claim, ClaimOutcome, DoubtReason, KeyState, Store as _};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::bank::{Bank, LEVELS, begin, commit, is_absent, replayed, with_a_bank};
use crate::calls::{answer, key, request, run};
use crate::postgres_rig::pooler::Pooler;
use crate::postgres_rig::{self, Server};
use crate::racers::until_answered;

/// What a handler has behind it when its call is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Statements,
    Refused,
    RefusedBehindAPoint,
}

const ALL: [Before; 3] = [
    Before::Statements,
    Before::Refused,
    Before::RefusedBehindAPoint,
];

impl Before {
    async fn happens(self, bank: &Bank, transaction: &Transaction) {
        assert_eq!(bank.add(transaction, "alice", -10).await, Ok(1));
        if self == Self::RefusedBehindAPoint {
            transaction.sql().unwrap().savepoint().await.unwrap();
            assert_eq!(bank.add(transaction, "bob", 10).await, Ok(1));
        }
        if self != Self::Statements {
            refused(transaction).await;
        }
    }
}

async fn refused(transaction: &Transaction) {
    let divided = transaction
        .sql()
        .unwrap()
        .execute("SELECT 1 / 0", &[])
        .await;
    let Err(TransactionError::Statement(_)) = divided else {
        panic!("{divided:?}");
    };
}

/// Every level of isolation, over connections to the database and over a pooler.
fn everywhere(bank: &Bank, pooler: Option<&Pooler>) -> Vec<PostgresOptions> {
    let pooled = pooler.map(|pooler| {
        let url = format!("{}?application_name={}", pooler.url(), bank.schema);
        PostgresOptions::new(url).schema(&bank.schema)
    });
    let places = [Some(bank.options.clone()), pooled];
    let mut all = Vec::new();
    for options in places.into_iter().flatten() {
        all.extend(LEVELS.map(|level| options.clone().isolation(level)));
    }
    all
}

/// Waits in the queue of the lock that the call has. Once it is given, how many calls are settled.
async fn waits_for_its_key(
    server: &Server,
    bank: &Arc<Bank>,
    transaction: &Transaction,
) -> JoinHandle<i64> {
    let asks = "SELECT pg_backend_pid()";
    let row = transaction.sql().unwrap().query_one(asks, &[]).await;
    let backend: i32 = row.unwrap().get(0);
    let lock = format!(
        "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
        WHERE pid = {backend} AND locktype = 'advisory'"
    );
    let lock = bank.number(&lock).await;
    let client = server.client().await;
    let row = client.query_one(asks, &[]).await.unwrap();
    let waiting: i32 = row.get(0);
    let counts = bank.sql("SELECT count(*) FROM {schema}.records");
    let waits = tokio::spawn(async move {
        let take = format!("SELECT pg_advisory_lock({lock})");
        client.batch_execute(&take).await.unwrap();
        client.query_one(&counts, &[]).await.unwrap().get(0)
    });
    let queued = format!("SELECT count(*) FROM pg_locks WHERE pid = {waiting} AND NOT granted");
    for _ in 0..6_000 {
        if bank.number(&queued).await == 1 {
            return waits;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not wait");
}

/// Nothing is left in connections that live on.
async fn no_key_is_kept(bank: &Bank) {
    let kept = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND application_name = '{schema}'";
    for _ in 0..1_000 {
        if bank.number(kept).await == 0 {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("a key is kept for ever");
}

/// A2, B15: from its beginning to its answer or doubt a call has its key without a gap, whatever was undone.
#[test]
fn who_waits_for_the_key_of_a_call_gets_it_once_that_is_settled_and_not_before() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Arc::new(Bank::open(server).await);
        let pooler = Pooler::start(server, 7).await;
        let mut settled = 0;
        for (place, options) in everywhere(&bank, pooler.as_ref()).into_iter().enumerate() {
            let store = bank.store_with(options).await;
            for before in ALL {
                for doubts in [false, true] {
                    let name = format!("{place}-{before:?}-{doubts}");
                    let (claim, transaction) = begin(&store, &key(&name)).await;
                    let waits = waits_for_its_key(server, &bank, &transaction).await;
                    before.happens(&bank, &transaction).await;
                    let ended = if doubts {
                        store.doubt(claim, DoubtReason::Ambiguous, None).await
                    } else {
                        store.complete(claim, answer("no")).await
                    };
                    settled += 1;
                    assert_eq!(ended, Ok(()), "{name}");
                    assert_eq!(waits.await.unwrap(), settled, "{name}");
                    let told = bank.store().await.begin(request(&key(&name))).await;
                    let is_told = match told {
                        Ok(ClaimOutcome::InDoubt(_)) => doubts,
                        Ok(ClaimOutcome::Completed(_)) => !doubts,
                        _ => false,
                    };
                    assert!(is_told, "{name}");
                }
            }
        }
        let cents = (bank.cents("alice").await, bank.cents("bob").await);
        assert_eq!(cents, (100, 100));
        no_key_is_kept(&bank).await;
    });
}

/// A10: a run that was in somebody's way is undone, and the key is not given up with it.
#[test]
fn a_run_that_comes_again_has_kept_its_key() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Arc::new(Bank::open(server).await);
        for (number, level) in LEVELS.into_iter().enumerate() {
            let store = bank.store_with(bank.options.clone().isolation(level)).await;
            let (claim, transaction) = begin(&store, &key(&format!("{level:?}"))).await;
            let waits = waits_for_its_key(server, &bank, &transaction).await;
            assert_eq!(bank.read(&transaction, "bob").await, Ok(100));
            // As the database says it where two were in each other's way.
            let conflict = "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40001'; END $$";
            let lost = transaction.sql().unwrap().execute(conflict, &[]).await;
            assert_eq!(lost, Err(TransactionError::Conflict));
            let again = store.start(&claim);
            assert_eq!(bank.add(&again, "alice", -10).await, Ok(1));
            commit(&store, claim, &again, "then").await.unwrap();
            assert_eq!(waits.await.unwrap(), i64::try_from(number).unwrap() + 1);
        }
        assert_eq!(bank.cents("alice").await, 70);
        no_key_is_kept(&bank).await;
    });
}

/// A2: a handler that goes on after a statement was refused is still the one that executes the call.
#[test]
fn after_a_refused_statement_a_call_is_in_progress_until_it_is_over() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Bank::open(server).await;
        let pooler = Pooler::start(server, 7).await;
        let other = bank.store().await;
        for (place, options) in everywhere(&bank, pooler.as_ref()).into_iter().enumerate() {
            // So that the next call has the connection of this one.
            let store = bank.store_with(options.connections_max(2)).await;
            for before in ALL {
                let key = key(&format!("{place}-{before:?}"));
                let (claim, transaction) = begin(&store, &key).await;
                before.happens(&bank, &transaction).await;
                is_in_progress(&other, &key).await;
                store.release(claim).await.unwrap();
                is_absent(&other, &key).await;
                // Whoever is next has it, and keeps it to himself.
                let (claim, transaction) = begin(&store, &key).await;
                is_in_progress(&other, &key).await;
                commit(&store, claim, &transaction, "then").await.unwrap();
                assert_eq!(replayed(&other, &key).await, "then");
            }
        }
        no_key_is_kept(&bank).await;
    });
}

async fn is_in_progress(store: &PostgresStore, key: &onlyonce_storage::ScopedKey) {
    for outcome in [
        store.begin(request(key)).await,
        store.claim(request(key)).await,
    ] {
        let Ok(ClaimOutcome::InProgress { .. }) = outcome else {
            panic!("{outcome:?}");
        };
    }
    for state in [store.peek(key.clone()).await, store.seal(key.clone()).await] {
        let Ok(KeyState::InProgress { .. }) = state else {
            panic!("{state:?}");
        };
    }
}

/// B5: who takes a call in a race, loses one or gives one up keeps no key for ever, also over connections that live on.
#[test]
fn after_a_race_no_connection_keeps_a_key() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Arc::new(Bank::open(server).await);
        let pooler = Pooler::start(server, 7).await;
        let mut stores = Vec::new();
        let mut racing = Vec::new();
        for options in everywhere(&bank, pooler.as_ref()) {
            let store = bank.store_with(options.connections_max(4)).await;
            for task in 0..2 {
                let (bank, store) = (Arc::clone(&bank), Arc::clone(&store));
                racing.push(tokio::spawn(async move {
                    for call in 0..20 {
                        let key = key(&format!("race-{call}"));
                        if task == 0 {
                            until_answered(&bank, &store, &key, "paid").await;
                        } else if let Ok(ClaimOutcome::Claimed(claim)) =
                            store.begin(request(&key)).await
                        {
                            refused(&store.start(&claim)).await;
                            store.release(claim).await.unwrap();
                        }
                    }
                }));
            }
            stores.push(store);
        }
        for racer in racing {
            racer.await.unwrap();
        }
        assert_eq!(bank.cents("bob").await, 120);
        no_key_is_kept(&bank).await;
        drop(stores);
    });
}

/// B5: who stands still with a transaction that the database has aborted does not keep its key for ever.
#[test]
fn an_owner_that_stands_still_after_a_refused_statement_loses_its_key() {
    with_a_bank(async |bank| {
        let options = bank.options.clone();
        let store = bank
            .store_with(options.answer_within(Duration::from_secs(1)))
            .await;
        let other = bank.store().await;
        let key = key("stands");
        let (claim, transaction): (Claim, Transaction) = begin(&store, &key).await;
        assert_eq!(bank.add(&transaction, "alice", -10).await, Ok(1));
        refused(&transaction).await;
        is_in_progress(&other, &key).await;
        for _ in 0..2_000 {
            if other.peek(key.clone()).await == Ok(KeyState::Absent) {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        let (theirs, transaction) = begin(&other, &key).await;
        assert_eq!(bank.add(&transaction, "alice", -1).await, Ok(1));
        commit(&other, theirs, &transaction, "theirs")
            .await
            .unwrap();
        store.complete(claim, answer("mine")).await.unwrap_err();
        assert_eq!(replayed(&store, &key).await, "theirs");
        assert_eq!(bank.cents("alice").await, 99);
        no_key_is_kept(&bank).await;
    });
}
