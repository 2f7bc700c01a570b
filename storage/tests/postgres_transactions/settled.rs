//! Calls that are settled after statements, and what one call leaves for the next.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::postgres::Isolation;
use onlyonce_storage::transaction::TransactionalStore as _;
use onlyonce_storage::{ClaimOutcome, DoubtReason, KeyState, Store as _};
use tokio::time::{sleep, timeout};

use crate::bank::{Bank, begin, commit, replayed, with_a_bank};
use crate::calls::{answer, key, request, run};
use crate::postgres_rig::{Durable, Server};

/// B15: what was done is rolled back and the call begun again, to write its doubt. Meanwhile nobody else is
/// given the key, and nobody who waits for a connection is given that of the call.
#[test]
fn a_doubt_after_statements_keeps_its_key_and_its_connection() {
    let Some(server) = Server::start(Durable::No) else {
        return;
    };
    run(async {
        let bank = Bank::open(&server).await;
        let two = bank.options.clone().connections_max(2);
        let (store, other) = (bank.store_with(two).await, bank.store().await);
        for round in 0..20 {
            let key = key(&format!("doubt-{round}"));
            let (claim, transaction) = begin(&store, &key).await;
            assert_eq!(bank.add(&transaction, "alice", -10).await, Ok(1));
            let waits = {
                let store = Arc::clone(&store);
                let another = crate::calls::key(&format!("waits-{round}"));
                tokio::spawn(async move { store.begin(request(&another)).await })
            };
            let rival = {
                let (other, key) = (Arc::clone(&other), key.clone());
                tokio::spawn(async move {
                    loop {
                        match other.begin(request(&key)).await.unwrap() {
                            ClaimOutcome::InProgress { .. } => {}
                            ended => return ended,
                        }
                    }
                })
            };
            sleep(Duration::from_millis(20)).await;
            let reason = DoubtReason::Ambiguous;
            assert_eq!(store.doubt(claim, reason, None).await, Ok(()));
            let ended = rival.await.unwrap();
            assert!(matches!(ended, ClaimOutcome::InDoubt(_)), "{ended:?}");
            let given = waits.await.unwrap().unwrap();
            assert!(matches!(given, ClaimOutcome::Claimed(_)), "{given:?}");
        }
        assert_eq!(bank.cents("alice").await, 100);
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
        for _ in 0..1_000 {
            if bank.number(locks).await == 0 {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("a key is kept for ever");
    });
}

/// The same where a statement was refused: an aborted transaction takes no word but to be rolled back.
#[test]
fn an_answer_after_a_refused_statement_keeps_its_connection() {
    with_a_bank(async |bank| {
        for level in [Isolation::ReadCommitted, Isolation::Serializable] {
            let two = bank.options.clone().connections_max(2).isolation(level);
            let store = bank.store_with(two).await;
            let key = key(&format!("{level:?}"));
            let (claim, transaction) = begin(&store, &key).await;
            assert_eq!(bank.add(&transaction, "alice", -10).await, Ok(1));
            let refused = transaction
                .sql()
                .unwrap()
                .execute("SELECT 1 / 0", &[])
                .await;
            refused.unwrap_err();
            let waits = {
                let store = Arc::clone(&store);
                let another = crate::calls::key(&format!("waits-{level:?}"));
                tokio::spawn(async move { store.begin(request(&another)).await })
            };
            sleep(Duration::from_millis(20)).await;
            assert_eq!(store.complete(claim, answer("no")).await, Ok(()));
            drop(waits.await.unwrap().unwrap());
            assert_eq!(replayed(&store, &key).await, "no");
        }
        assert_eq!(bank.cents("alice").await, 100);
    });
}

/// B10: a setting of the session that a handler has got in does not keep the database from ending a later
/// call whose owner stands still.
#[test]
fn a_setting_that_a_handler_leaves_behind_does_not_reach_the_next_call() {
    with_a_bank(async |bank| {
        let store = bank
            .store_with(bank.options.clone().connections_max(2))
            .await;
        let (claim, transaction) = begin(&store, &key("leaves")).await;
        let leaves = "DO $$ BEGIN
            PERFORM set_config('idle_in_' || 'transaction_session_timeout', '0', false);
        END $$";
        transaction
            .sql()
            .unwrap()
            .execute(leaves, &[])
            .await
            .unwrap();
        commit(&store, claim, &transaction, "done").await.unwrap();

        let (_claim, transaction) = begin(&store, &key("next")).await;
        let asks = "SELECT current_setting('idle_in_transaction_session_timeout')";
        let row = transaction.sql().unwrap().query_one(asks, &[]).await;
        let told: String = row.unwrap().get(0);
        assert_ne!(told, "0");
    });
}

/// B21: no answer leaves before it is durable, whatever the handler says of its commit.
#[test]
fn a_handler_that_does_not_wait_for_its_commit_waits_all_the_same() {
    with_a_bank(async |bank| {
        bank.run("CREATE TABLE {schema}.seen (how text)").await;
        bank.run(
            "CREATE FUNCTION {schema}.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO {schema}.seen VALUES (current_setting('synchronous_commit'));
                RETURN NULL;
            END $$",
        )
        .await;
        bank.run(
            "CREATE CONSTRAINT TRIGGER sees AFTER UPDATE ON {schema}.accounts
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.see()",
        )
        .await;
        let store = bank.store().await;
        for (number, said) in ["off", "local"].into_iter().enumerate() {
            let (claim, transaction) = begin(&store, &key(said)).await;
            let says = format!("SET LOCAL synchronous_commit = {said}");
            transaction
                .sql()
                .unwrap()
                .execute(&says, &[])
                .await
                .unwrap();
            assert_eq!(bank.add(&transaction, "alice", 1).await, Ok(1));
            commit(&store, claim, &transaction, "done").await.unwrap();
            let expected = ["on", "local"][number];
            let seen = format!("SELECT count(*) FROM {{schema}}.seen WHERE how = '{expected}'");
            assert_eq!(bank.number(&seen).await, 1, "{said}");
        }
    });
}

/// B5: the claim is dropped while a renewal is not answered. When it is, the key is free, also where somebody
/// still has a handle of the run.
#[test]
fn a_claim_that_is_dropped_during_a_renewal_frees_its_key_when_that_is_answered() {
    let Some(server) = Server::start(Durable::No) else {
        return;
    };
    run(async {
        let bank = Bank::open(&server).await;
        let store = bank.store().await;
        let (mut claim, transaction) = begin(&store, &key("dropped")).await;
        server.freeze(true);
        let renewal = store.renew(&mut claim, Duration::from_secs(30));
        timeout(Duration::from_millis(200), renewal)
            .await
            .unwrap_err();
        drop(claim);
        server.freeze(false);
        for _ in 0..1_000 {
            if store.peek(key("dropped")).await == Ok(KeyState::Absent) {
                drop(transaction);
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("nobody has the claim, and the key is taken");
    });
}
