//! Statements that a connection keeps, and what must not come of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use onlyonce_storage::postgres::{OneStatement, OneStatementOutcome, SqlValue};
use onlyonce_storage::transaction::{Transaction, TransactionError, TransactionalStore as _};
use onlyonce_storage::{KeyState, Store as _};

use crate::bank::{Bank, begin, commit, is_absent, replayed, with_a_bank};
use crate::calls::{given, key, request, run};
use crate::postgres_rig;

async fn columns(bank: &Bank, transaction: &Transaction) -> Result<usize, TransactionError> {
    let all = bank.sql("SELECT * FROM {schema}.accounts WHERE name = $1");
    let row = transaction.sql()?.query_one(&all, &[&"alice"]).await?;
    Ok(row.len())
}

async fn kept(transaction: &Transaction, like: &str) -> i64 {
    let count = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE $1";
    let sql = transaction.sql().unwrap();
    let row = sql.query_one(count, &[&like]).await.unwrap();
    row.get(0)
}

/// A handler's statement is kept when it is asked again; a plan that a change of its table has made useless
/// costs one more run, and no call.
#[test]
fn a_table_that_is_altered_under_a_kept_statement_costs_a_run_and_no_call() {
    with_a_bank(async |bank| {
        let store = bank
            .store_with(bank.options.clone().connections_max(2))
            .await;
        for number in 0..3 {
            let key = key(&format!("before-{number}"));
            let (claim, transaction) = begin(&store, &key).await;
            assert_eq!(columns(&bank, &transaction).await, Ok(2));
            let expected = if number == 0 { 0 } else { 1 };
            assert_eq!(kept(&transaction, "%accounts%").await, expected);
            commit(&store, claim, &transaction, "read").await.unwrap();
        }
        bank.run("ALTER TABLE {schema}.accounts ADD COLUMN note text")
            .await;
        let (claim, transaction) = begin(&store, &key("after")).await;
        let lapsed = columns(&bank, &transaction).await;
        assert_eq!(lapsed, Err(TransactionError::Conflict));
        drop(transaction);
        let again = store.start(&claim);
        assert_eq!(columns(&bank, &again).await, Ok(3));
        commit(&store, claim, &again, "read").await.unwrap();
        assert_eq!(replayed(&store, &key("after")).await, "read");
    });
}

/// What is kept is planned for any values after the first five calls. Where that seems dearer to the database than to
/// plan it anew for each call, it does that, and a call costs half as much again.
#[test]
fn what_is_kept_is_not_planned_for_each_call() {
    with_a_bank(async |bank| {
        let store = bank
            .store_with(bank.options.clone().connections_max(2))
            .await;
        let add = bank.sql("UPDATE {schema}.accounts SET cents = cents + $1 WHERE name = $2");
        for number in 0..40 {
            let one = key(&format!("one-{number}"));
            let values: [&dyn SqlValue; 2] = [&1_i64, &"alice"];
            let effect = OneStatement::new(&add, &values);
            let answer = crate::calls::answer("paid");
            let done = store
                .execute_once(request(&one), effect, answer.clone())
                .await;
            assert!(
                matches!(done, Ok(OneStatementOutcome::Executed { rows: 1 })),
                "{done:?}"
            );
            assert_eq!(replayed(&store, &one).await, "paid");
            let claimed = key(&format!("claimed-{number}"));
            let claim = given(store.claim(request(&claimed)).await.unwrap());
            store.complete(claim, answer).await.unwrap();
            store.peek(claimed).await.unwrap();
            is_absent(&store, &key("none")).await;
            let (claim, transaction) = begin(&store, &key(&format!("begun-{number}"))).await;
            bank.add(&transaction, "bob", 5).await.unwrap();
            commit(&store, claim, &transaction, "paid").await.unwrap();
        }
        let (_claim, transaction) = begin(&store, &key("asks")).await;
        let plans =
            "SELECT statement, custom_plans FROM pg_prepared_statements WHERE custom_plans > 5";
        let rows = transaction.sql().unwrap().query(plans, &[]).await.unwrap();
        let anew: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert!(anew.is_empty(), "{anew:#?}");
        let often = "SELECT statement FROM pg_prepared_statements WHERE generic_plans > 5";
        let rows = transaction.sql().unwrap().query(often, &[]).await.unwrap();
        let often: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        // The first statement of a call, its last one, and the one of a call that is no more.
        for text in ["AS stands_still", "call_is_over", "AS is_done"] {
            assert!(often.iter().any(|kept| kept.contains(text)), "{often:#?}");
        }
    });
}

/// Who says that a pooler lies between has nothing kept, whoever has greeted.
#[test]
fn behind_a_pooler_that_was_declared_nothing_is_kept() {
    with_a_bank(async |bank| {
        for (is_declared, expected) in [(false, true), (true, false)] {
            let mut options = bank.options.clone().connections_max(2);
            if is_declared {
                options = options.behind_pooler();
            }
            let store = bank.store_with(options).await;
            for number in 0..3 {
                let key = key(&format!("{is_declared}-{number}"));
                let (claim, transaction) = begin(&store, &key).await;
                assert_eq!(columns(&bank, &transaction).await, Ok(2));
                let is_kept = kept(&transaction, "%").await > 0;
                assert_eq!(is_kept, expected, "{is_declared}");
                commit(&store, claim, &transaction, "read").await.unwrap();
            }
        }
    });
}

/// A function of the handler's that does not support something is refused for good, and not run again: only
/// the database's own word of a plan means that the plan is of no use.
#[test]
fn a_function_that_says_not_supported_is_taken_at_its_word() {
    with_a_bank(async |bank| {
        bank.run(
            "CREATE FUNCTION {schema}.refuses() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN
                RAISE EXCEPTION 'not here' USING ERRCODE = 'feature_not_supported';
            END $$",
        )
        .await;
        let two = bank.options.clone().connections_max(2);
        let store = bank.store_with(two).await;
        for number in 0..4 {
            let (claim, transaction) = begin(&store, &key(&format!("{number}"))).await;
            let asks = bank.sql("SELECT {schema}.refuses()");
            let refused = transaction.sql().unwrap().execute(&asks, &[]).await;
            let is_refused = matches!(refused, Err(TransactionError::Statement(_)));
            assert!(is_refused, "{number}: {refused:?}");
            assert_eq!(store.release(claim).await, Ok(()));
        }
    });
}

/// Also where the store's own statements are forgotten by somebody: the call is begun again.
#[test]
fn statements_that_were_forgotten_behind_the_store_are_made_anew() {
    with_a_bank(async |bank| {
        let store = bank
            .store_with(bank.options.clone().connections_max(2))
            .await;
        for number in 0..3 {
            let (claim, transaction) = begin(&store, &key(&format!("warm-{number}"))).await;
            commit(&store, claim, &transaction, "warm").await.unwrap();
        }
        // Not by a word, which is refused, but by a function that says it.
        bank.run(
            "CREATE FUNCTION {schema}.forget() RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$",
        )
        .await;
        let (claim, transaction) = begin(&store, &key("forgets")).await;
        assert_eq!(bank.add(&transaction, "bob", 5).await, Ok(1));
        let forget = bank.sql("SELECT {schema}.forget()");
        transaction
            .sql()
            .unwrap()
            .execute(&forget, &[])
            .await
            .unwrap();
        let work = transaction.end().unwrap();
        let answer = crate::calls::answer("paid");
        let committed = store.commit(claim, work, answer).await;
        // Nothing of it is there; it may run again.
        let Err(onlyonce_storage::transaction::CommitError::Conflict(claim)) = committed else {
            panic!("{committed:?}");
        };
        assert_eq!(bank.cents("bob").await, 100);
        let again = store.start(&claim);
        assert_eq!(bank.add(&again, "bob", 5).await, Ok(1));
        commit(&store, claim, &again, "paid").await.unwrap();
        assert_eq!(bank.cents("bob").await, 105);
        assert_eq!(replayed(&store, &key("forgets")).await, "paid");
    });
}

/// B13: whoever looks in the instant of a commit is told that the call is in progress, or its answer, and
/// never that there is none.
#[test]
fn a_look_in_the_instant_of_a_commit_never_finds_nothing() {
    with_a_bank(async |bank| {
        let (store, other) = (bank.store().await, bank.store().await);
        for number in 0..300 {
            let key = key(&format!("look-{number}"));
            let (claim, transaction) = begin(&store, &key).await;
            let is_over = Arc::new(AtomicBool::new(false));
            let looking: Vec<_> = (0..4)
                .map(|_| {
                    let (other, key) = (Arc::clone(&other), key.clone());
                    let is_over = Arc::clone(&is_over);
                    tokio::spawn(async move {
                        while !is_over.load(Ordering::Relaxed) {
                            let state = other.peek(key.clone()).await.unwrap();
                            assert_ne!(state, KeyState::Absent);
                        }
                    })
                })
                .collect();
            commit(&store, claim, &transaction, "paid").await.unwrap();
            is_over.store(true, Ordering::Relaxed);
            for looking in looking {
                looking.await.unwrap();
            }
        }
        is_absent(&store, &key("look-none")).await;
    });
}

/// What became of a commit is not said by who may have a picture that is older than the lock.
#[test]
fn an_outcome_is_not_told_from_an_old_picture() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        let bank = Bank::open(server).await;
        let outcome = bank.sql("SELECT {schema}.outcome('\\x00', 7, 1, 1, '\\x00', NULL, NULL)");
        let client = server.client().await;
        for (level, told) in [
            ("READ COMMITTED", 0),
            ("REPEATABLE READ", 2),
            ("SERIALIZABLE", 2),
        ] {
            let begin = format!("BEGIN ISOLATION LEVEL {level}");
            client.batch_execute(&begin).await.unwrap();
            let row = client.query_one(&outcome, &[]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), told, "{level}");
            client.batch_execute("ROLLBACK").await.unwrap();
        }
    });
}
