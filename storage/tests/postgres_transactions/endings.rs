//! How a run ends: with everything, or with nothing.

use std::time::Duration;

use onlyonce_storage::transaction::{
    CommitError, Table, TransactionError, TransactionalStore as _, Work,
};
use onlyonce_storage::{
    ClaimOutcome, IdempotencyKey, KeyState, MemoryStore, Scope, ScopedKey, Store as _,
};

use crate::bank::{Bank, LEVELS, begin, commit, is_absent, replayed, with_a_bank};
use crate::calls::{answer, given, key, leased, request, run};
use crate::postgres_rig::{self, Durable, Server};

#[test]
fn what_a_handler_changes_is_there_with_its_answer_and_not_before() {
    with_a_bank(async |bank| {
        for level in LEVELS {
            let options = bank.options.clone().isolation(level);
            let (store, other) = (bank.store_with(options).await, bank.store().await);
            let before = bank.cents("alice").await;
            let key = key(&format!("{level:?}"));
            let (claim, transaction) = begin(&store, &key).await;
            assert_eq!(bank.add(&transaction, "alice", -10).await, Ok(1));
            assert_eq!(bank.read(&transaction, "alice").await, Ok(before - 10));
            assert_eq!(bank.cents("alice").await, before);
            for state in [store.peek(key.clone()).await, other.peek(key.clone()).await] {
                assert!(
                    matches!(state, Ok(KeyState::InProgress { .. })),
                    "{state:?}"
                );
            }
            commit(&store, claim, &transaction, "paid").await.unwrap();
            assert_eq!(bank.cents("alice").await, before - 10);
            assert_eq!(replayed(&store, &key).await, "paid");
            assert_eq!(replayed(&other, &key).await, "paid");
            // What is left of it is over.
            let late = bank.add(&transaction, "alice", -10).await;
            assert_eq!(late, Err(TransactionError::Ended));
        }
        // One row for each, written once: nothing for a vacuum to do.
        let dead = "SELECT count(*) FROM {schema}.records WHERE version <> 1 OR state <> 3";
        assert_eq!(bank.number(dead).await, 0);
    });
}

/// B1, B3: a crash of the database or of the server before the commit leaves nothing, and no doubt.
#[test]
fn a_crash_before_the_commit_leaves_nothing_and_no_doubt() {
    let Some(server) = Server::start(Durable::Yes) else {
        return;
    };
    run(async {
        let bank = Bank::open(&server).await;
        let options = bank.options.clone().answer_within(Duration::from_secs(2));
        let store = bank.store_with(options).await;
        let (done, transaction) = begin(&store, &key("done")).await;
        assert_eq!(bank.add(&transaction, "alice", -10).await, Ok(1));
        commit(&store, done, &transaction, "paid").await.unwrap();

        let (claim, transaction) = begin(&store, &key("lost")).await;
        assert_eq!(bank.add(&transaction, "alice", -50).await, Ok(1));
        server.crash();
        server.up();
        let failed = bank.add(&transaction, "alice", -50).await;
        assert!(
            matches!(failed, Err(TransactionError::Store(_))),
            "{failed:?}"
        );
        assert_eq!(transaction.end().map(drop), failed.map(drop));
        assert_eq!(store.release(claim).await, Ok(()));

        let bank = bank.again(&server).await;
        assert_eq!(bank.cents("alice").await, 90);
        is_absent(&store, &key("lost")).await;
        assert_eq!(replayed(&store, &key("done")).await, "paid");
    });
}

/// B15: an owner that goes away, gives up or panics has applied nothing, and its key is free.
#[test]
fn a_claim_that_is_dropped_or_released_undoes_its_run_and_frees_its_key() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let (claim, transaction) = begin(&store, &key("a")).await;
        assert_eq!(bank.add(&transaction, "alice", -10).await, Ok(1));
        assert_eq!(store.release(claim).await, Ok(()));
        is_absent(&store, &key("a")).await;

        let (claim, transaction) = begin(&store, &key("a")).await;
        assert_eq!(bank.add(&transaction, "alice", -10).await, Ok(1));
        drop(claim);
        let late = bank.add(&transaction, "alice", -10).await;
        assert_eq!(late, Err(TransactionError::Ended));
        // The database hears of it when the connection is closed.
        for _ in 0..1_000 {
            if store.peek(key("a")).await == Ok(KeyState::Absent) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (claim, transaction) = begin(&store, &key("a")).await;
        commit(&store, claim, &transaction, "nothing")
            .await
            .unwrap();
        assert_eq!(bank.cents("alice").await, 100);
    });
}

/// A refusal for good is an answer like any other, and has no effect: also where the database refused a
/// statement before.
#[test]
fn a_definitive_refusal_is_recorded_and_has_no_effect() {
    with_a_bank(async |bank| {
        for level in LEVELS {
            let store = bank.store_with(bank.options.clone().isolation(level)).await;
            let key = key(&format!("{level:?}"));
            let (claim, transaction) = begin(&store, &key).await;
            assert_eq!(bank.add(&transaction, "bob", 500).await, Ok(1));
            let refused = bank.add(&transaction, "alice", -500).await;
            let Err(TransactionError::Statement(refused)) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(refused.code(), "23514");
            assert_eq!(refused.constraint(), Some("accounts_cents_check"));
            // What the database says may repeat what the call holds; what is shown does not.
            assert!(!refused.to_string().contains("accounts"), "{refused}");
            transaction.refuse_writes();
            let late = bank.add(&transaction, "bob", 1).await;
            assert_eq!(late, Err(TransactionError::Ended));
            commit(&store, claim, &transaction, "not enough")
                .await
                .unwrap();
            assert_eq!(replayed(&store, &key).await, "not enough");
            assert_eq!(bank.cents("bob").await, 100);
        }
    });
}

#[test]
fn a_statement_that_is_refused_can_be_set_back_to_a_savepoint() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let (claim, transaction) = begin(&store, &key("a")).await;
        assert_eq!(bank.add(&transaction, "alice", 1).await, Ok(1));
        let sql = transaction.sql().unwrap();
        let point = sql.savepoint().await.unwrap();
        assert_eq!(bank.add(&transaction, "bob", 1).await, Ok(1));
        let refused = bank.add(&transaction, "alice", -500).await;
        assert!(matches!(refused, Err(TransactionError::Statement(_))));
        // Nothing more is done meanwhile, and what refused it is named again.
        assert_eq!(bank.add(&transaction, "bob", 1).await, refused);
        sql.roll_back_to(&point).await.unwrap();
        assert_eq!(bank.add(&transaction, "alice", 1).await, Ok(1));
        commit(&store, claim, &transaction, "two").await.unwrap();
        assert_eq!(
            (bank.cents("alice").await, bank.cents("bob").await),
            (102, 100)
        );
    });
}

/// B20: a handler that hides an error and says that all is well has nothing committed, and nothing
/// recorded: not where its run says so, and not where it is committed all the same, since the database
/// answers the `COMMIT` of an aborted transaction with a `ROLLBACK`.
#[test]
fn a_commit_that_the_database_turns_into_a_rollback_is_never_a_success() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let (claim, transaction) = begin(&store, &key("hidden")).await;
        assert_eq!(bank.add(&transaction, "bob", 5).await, Ok(1));
        let hidden = bank.add(&transaction, "alice", -500).await;
        assert!(matches!(hidden, Err(TransactionError::Statement(_))));
        let ended = transaction.end().unwrap_err();
        assert!(matches!(ended, TransactionError::Statement(_)), "{ended}");
        // And if somebody goes on all the same:
        let committed = store.commit(claim, Work::default(), answer("paid")).await;
        assert!(
            matches!(committed, Err(CommitError::Refused(_))),
            "{committed:?}"
        );
        is_absent(&store, &key("hidden")).await;

        // A transaction that was aborted without this program's knowing: the record cannot be written, so
        // the commit comes to nothing.
        let (claim, transaction) = begin(&store, &key("behind")).await;
        assert_eq!(bank.add(&transaction, "bob", 5).await, Ok(1));
        let behind = "SELECT set_config('onlyonce.call', 'another', true)";
        transaction.sql().unwrap().query(behind, &[]).await.unwrap();
        let committed = commit(&store, claim, &transaction, "paid").await;
        assert!(
            matches!(committed, Err(CommitError::Refused(_))),
            "{committed:?}"
        );
        is_absent(&store, &key("behind")).await;
        assert_eq!(bank.cents("bob").await, 100);
    });
}

/// A handler cannot end its transaction by itself, and so not commit half of its work.
#[test]
fn a_handler_cannot_end_its_transaction() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let ends = [
            "COMMIT",
            "/* x */ rollback",
            "DO $$ BEGIN COMMIT; END $$",
            "SELECT 1; COMMIT",
        ];
        for (number, ends) in ends.into_iter().enumerate() {
            let key = key(&format!("ends-{number}"));
            let (claim, transaction) = begin(&store, &key).await;
            assert_eq!(bank.add(&transaction, "bob", 5).await, Ok(1));
            let ended = transaction.sql().unwrap().execute(ends, &[]).await;
            let refused = matches!(
                ended,
                Err(TransactionError::StatementForbidden { .. } | TransactionError::Statement(_))
            );
            assert!(refused, "{ends}: {ended:?}");
            transaction.end().unwrap_err();
            assert_eq!(store.release(claim).await, Ok(()));
            is_absent(&store, &key).await;
        }
        assert_eq!(bank.cents("bob").await, 100);
    });
}

/// A constraint that is checked when the transaction is committed.
#[test]
fn what_is_refused_at_the_commit_leaves_nothing_and_frees_the_key() {
    with_a_bank(async |bank| {
        bank.run(
            "CREATE TABLE {schema}.seats (
                number bigint, UNIQUE (number) DEFERRABLE INITIALLY DEFERRED
            )",
        )
        .await;
        let store = bank.store().await;
        let (claim, transaction) = begin(&store, &key("a")).await;
        let book = bank.sql("INSERT INTO {schema}.seats VALUES (7), (7)");
        let booked = transaction.sql().unwrap().execute(&book, &[]).await;
        assert_eq!(booked, Ok(2));
        let committed = commit(&store, claim, &transaction, "yours").await;
        assert!(
            matches!(committed, Err(CommitError::Refused(_))),
            "{committed:?}"
        );
        is_absent(&store, &key("a")).await;
        assert_eq!(bank.number("SELECT count(*) FROM {schema}.seats").await, 0);
    });
}

/// What a handler meant to do with a statement's answer is not done.
#[test]
fn a_run_that_drops_a_statement_commits_nothing() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let (claim, transaction) = begin(&store, &key("a")).await;
        assert_eq!(bank.add(&transaction, "bob", 5).await, Ok(1));
        let sql = transaction.sql().unwrap();
        let slow = sql.execute("SELECT pg_sleep(1)", &[]);
        let dropped = tokio::time::timeout(Duration::from_millis(50), slow).await;
        assert!(dropped.is_err());
        assert_eq!(
            bank.add(&transaction, "bob", 5).await,
            Err(TransactionError::ReadDropped)
        );
        assert_eq!(
            transaction.end().unwrap_err(),
            TransactionError::ReadDropped
        );
        assert_eq!(store.release(claim).await, Ok(()));
        is_absent(&store, &key("a")).await;
        assert_eq!(bank.cents("bob").await, 100);
    });
}

/// B10: an owner that stands still for longer than its lease is cut off by the database, so that nobody
/// waits for it; what it says when it wakes comes too late.
#[test]
fn an_owner_that_stands_still_is_cut_off_and_its_late_commit_applies_nothing() {
    with_a_bank(async |bank| {
        let (store, other) = (bank.store().await, bank.store().await);
        let short = leased(&key("a"), Duration::from_millis(300));
        let mut claim = given(store.begin(short.clone()).await.unwrap());
        let transaction = store.start(&claim);
        assert_eq!(bank.add(&transaction, "bob", 5).await, Ok(1));
        // As long as it is renewed it lasts.
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            let renewed = store.renew(&mut claim, Duration::from_millis(300)).await;
            assert_eq!(renewed, Ok(()));
        }
        let outcome = other.begin(request(&key("a"))).await.unwrap();
        assert!(
            matches!(outcome, ClaimOutcome::InProgress { .. }),
            "{outcome:?}"
        );
        tokio::time::sleep(Duration::from_millis(900)).await;
        let (second, theirs) = begin(&other, &key("a")).await;
        assert_eq!(bank.add(&theirs, "bob", 7).await, Ok(1));
        commit(&other, second, &theirs, "theirs").await.unwrap();
        let late = commit(&store, claim, &transaction, "late").await;
        assert!(
            matches!(late, Err(CommitError::Fenced | CommitError::Refused(_))),
            "{late:?}"
        );
        assert_eq!(bank.cents("bob").await, 107);
        assert_eq!(replayed(&store, &key("a")).await, "theirs");
    });
}

/// Handlers that take long leave a connection for questions, and those for whom there is none are told so
/// within a bounded time.
#[test]
fn handlers_that_take_long_do_not_keep_questions_waiting() {
    with_a_bank(async |bank| {
        let options = bank.options.clone().connections_max(3);
        let options = options.answer_within(Duration::from_millis(500));
        let store = bank.store_with(options).await;
        let mut held = Vec::new();
        for number in 0..2 {
            held.push(begin(&store, &key(&format!("long-{number}"))).await);
        }
        let began = tokio::time::Instant::now();
        store.begin(request(&key("no-room"))).await.unwrap_err();
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        is_absent(&store, &key("no-room")).await;
        for (claim, transaction) in held {
            commit(&store, claim, &transaction, "done").await.unwrap();
        }
        let (claim, _) = begin(&store, &key("no-room")).await;
        drop(claim);
    });
}

/// Rows of the kind that embedded stores keep are refused by name, not lost.
#[test]
fn a_handler_that_asks_for_what_its_store_has_not_is_told_so() {
    let Some(server) = postgres_rig::shared() else {
        return;
    };
    run(async {
        const ROWS: Table = Table::new("rows");
        let bank = Bank::open(server).await;
        let store = bank.store().await;
        let (claim, transaction) = begin(&store, &key("a")).await;
        let refused = transaction.put(&ROWS, b"a", b"b").unwrap_err();
        assert!(
            refused.to_string().contains("Transaction::sql"),
            "{refused}"
        );
        transaction.end().unwrap_err();
        assert_eq!(store.release(claim).await, Ok(()));

        let memory = MemoryStore::new();
        let claim = given(memory.begin(request(&key("a"))).await.unwrap());
        let refused = memory.start(&claim).sql().unwrap_err();
        assert!(refused.to_string().contains("PostgreSQL"), "{refused}");
    });
}

/// I6: keys, scopes and the values of a handler's statements are values, whatever is in them.
#[test]
fn names_and_values_of_a_transaction_are_data_whatever_they_spell() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let nasty = [
            "'; DROP SCHEMA public CASCADE; --",
            "$1",
            "{schema}",
            "\\",
            "ünï©ode",
        ];
        for (number, principal) in nasty.iter().enumerate() {
            let scope = Scope::principal(principal).unwrap();
            let text = IdempotencyKey::parse("';DROP/**/TABLE/**/records;--").unwrap();
            let key = ScopedKey::new(scope, text);
            let (claim, transaction) = begin(&store, &key).await;
            let insert = bank.sql("INSERT INTO {schema}.accounts VALUES ($1, $2)");
            let sql = transaction.sql().unwrap();
            assert_eq!(sql.execute(&insert, &[principal, &1_i64]).await, Ok(1));
            commit(&store, claim, &transaction, &number.to_string())
                .await
                .unwrap();
            assert_eq!(replayed(&store, &key).await, number.to_string());
        }
        assert_eq!(
            bank.number("SELECT count(*) FROM {schema}.accounts").await,
            2 + 5
        );
    });
}

/// B22: a connection through a pooler outlives a failover, and the new primary may not have had everything.
/// Whoever begins a transaction there notices, and what was first sent before is not executed.
#[test]
fn a_transaction_that_begins_on_another_timeline_notices_it() {
    with_a_bank(async |bank| {
        for level in LEVELS {
            let store = bank.store_with(bank.options.clone().isolation(level)).await;
            let mut sent_before = request(&key(&format!("before-{level:?}")));
            sent_before.first_sent = Some(store.now());
            bank.run("UPDATE {schema}.store SET place = '1/FFFFFFFF'")
                .await;
            let outcome = store.begin(sent_before).await.unwrap();
            assert!(
                matches!(outcome, ClaimOutcome::Stale),
                "{level:?}: {outcome:?}"
            );
            let (claim, transaction) = begin(&store, &key(&format!("after-{level:?}"))).await;
            assert!(
                claim.token().incarnation() > 1_000_000,
                "{:?}",
                claim.token()
            );
            commit(&store, claim, &transaction, "then").await.unwrap();
        }
    });
}
