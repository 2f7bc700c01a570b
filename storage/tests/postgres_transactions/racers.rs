//! Several at once: on one key, and on the same rows.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::postgres::{Isolation, PostgresStore};
use onlyonce_storage::transaction::{CommitError, TransactionError, TransactionalStore as _};
use onlyonce_storage::{
    ClaimOutcome, KeyState, ScopedKey, SessionCall, SessionRequest, SessionState, Store as _,
};

use crate::bank::{Bank, LEVELS, begin, commit, is_absent, replayed, with_a_bank};
use crate::calls::{answer, given, key, request};

/// A2, A10: of two that race for a key one has its effect; the other one is told that the call is in
/// progress, and replays the winner. At every level of isolation.
#[test]
fn of_two_racers_the_loser_has_no_effect_and_replays_the_winner() {
    with_a_bank(async |bank| {
        for level in LEVELS {
            let options = bank.options.clone().isolation(level);
            let store = bank.store_with(options.clone()).await;
            let other = bank.store_with(options).await;
            let before = bank.cents("bob").await;
            let key = key(&format!("{level:?}"));
            let (claim, transaction) = begin(&store, &key).await;
            assert_eq!(bank.add(&transaction, "bob", 5).await, Ok(1));
            for racer in [&store, &other] {
                let outcome = racer.begin(request(&key)).await.unwrap();
                assert!(
                    matches!(outcome, ClaimOutcome::InProgress { .. }),
                    "{outcome:?}"
                );
                // By the other way of asking as well.
                let outcome = racer.claim(request(&key)).await.unwrap();
                assert!(
                    matches!(outcome, ClaimOutcome::InProgress { .. }),
                    "{outcome:?}"
                );
                let sealed = racer.seal(key.clone()).await.unwrap();
                assert!(matches!(sealed, KeyState::InProgress { .. }), "{sealed:?}");
            }
            commit(&store, claim, &transaction, "the first")
                .await
                .unwrap();
            assert_eq!(replayed(&other, &key).await, "the first");
            assert_eq!(bank.cents("bob").await, before + 5);
        }
    });
}

/// A2, A10: three servers, many tasks, few keys: each call has its effect once, and all hear the same.
#[test]
fn of_many_racers_on_three_servers_each_call_is_executed_once() {
    with_a_bank(async |bank| {
        let bank = Arc::new(bank);
        for level in LEVELS {
            let options = bank.options.clone().isolation(level).connections_max(4);
            let mut racing = Vec::new();
            for number in 0..3 {
                let store = bank.store_with(options.clone()).await;
                for task in 0..4 {
                    let (bank, store) = (Arc::clone(&bank), Arc::clone(&store));
                    racing.push(tokio::spawn(async move {
                        let mut heard = Vec::new();
                        for call in 0..10 {
                            let key = key(&format!("{level:?}-{call}"));
                            let name = format!("{number}-{task}");
                            heard.push(until_answered(&bank, &store, &key, &name).await);
                        }
                        heard
                    }));
                }
            }
            let mut heard = Vec::new();
            for racer in racing {
                heard.push(racer.await.unwrap());
            }
            assert!(
                heard.iter().all(|all| *all == heard[0]),
                "{level:?}: {heard:?}"
            );
        }
        assert_eq!(bank.cents("bob").await, 100 + 3 * 10);
    });
}

/// Executes the call, or hears what it came to.
pub async fn until_answered(
    bank: &Bank,
    store: &PostgresStore,
    key: &ScopedKey,
    name: &str,
) -> String {
    'claims: loop {
        let mut claim = match store.begin(request(key)).await.unwrap() {
            ClaimOutcome::Claimed(claim) => claim,
            ClaimOutcome::Completed(completion) => {
                return String::from_utf8(completion.answer.body().to_vec()).unwrap();
            }
            ClaimOutcome::InProgress { .. } => {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            other => panic!("{other:?}"),
        };
        loop {
            let transaction = store.start(&claim);
            let added = bank.add(&transaction, "bob", 1).await;
            match (added, transaction.end()) {
                (Ok(1), Ok(work)) => {
                    match store.commit(claim, work, answer(name.to_owned())).await {
                        Ok(()) => return name.to_owned(),
                        Err(CommitError::Conflict(still)) => claim = still,
                        Err(CommitError::Fenced) => continue 'claims,
                        Err(error) => panic!("{error}"),
                    }
                }
                (_, Err(TransactionError::Conflict)) => {}
                (_, Err(TransactionError::Superseded)) => continue 'claims,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A10: each reads what the other writes. One runs again, and nothing is recorded of the run that lost.
#[test]
fn a_serialization_failure_runs_again_and_is_never_recorded() {
    with_a_bank(async |bank| {
        let options = bank.options.clone().isolation(Isolation::Serializable);
        let (store, other) = (
            bank.store_with(options.clone()).await,
            bank.store_with(options).await,
        );
        let (first, mine) = begin(&store, &key("a")).await;
        let (second, theirs) = begin(&other, &key("b")).await;
        for transaction in [&mine, &theirs] {
            let both = bank.read(transaction, "alice").await.unwrap()
                + bank.read(transaction, "bob").await.unwrap();
            assert_eq!(both, 200);
        }
        // Each takes what is there of both, from one of them.
        bank.add(&mine, "alice", -100).await.unwrap();
        bank.add(&theirs, "bob", -100).await.unwrap();
        commit(&store, first, &mine, "alice's").await.unwrap();
        let lost = commit(&other, second, &theirs, "bob's").await;
        let Err(CommitError::Conflict(again)) = lost else {
            panic!("{lost:?}");
        };
        is_absent(&store, &key("b")).await;
        let theirs = other.start(&again);
        assert_eq!(bank.read(&theirs, "alice").await, Ok(0));
        commit(&other, again, &theirs, "nothing left")
            .await
            .unwrap();
        assert_eq!(replayed(&store, &key("b")).await, "nothing left");
        assert_eq!(
            (bank.cents("alice").await, bank.cents("bob").await),
            (0, 100)
        );
    });
}

/// A10: two that wait for each other's rows. The database ends one; it runs again.
#[test]
fn a_deadlock_runs_again_and_is_never_recorded() {
    with_a_bank(async |bank| {
        let store = bank.store().await;
        let (first, mine) = begin(&store, &key("a")).await;
        let (second, theirs) = begin(&store, &key("b")).await;
        bank.add(&mine, "alice", 1).await.unwrap();
        bank.add(&theirs, "bob", 1).await.unwrap();
        let (crossed, crossing) =
            tokio::join!(bank.add(&mine, "bob", 1), bank.add(&theirs, "alice", 1));
        let (claim, lost, won, wins) = if crossed.is_err() {
            (first, mine, theirs, second)
        } else {
            (second, theirs, mine, first)
        };
        let failed = crossed.and(crossing);
        assert_eq!(failed, Err(TransactionError::Conflict));
        // Hiding it does not help: what was done is undone.
        assert_eq!(lost.end().unwrap_err(), TransactionError::Conflict);
        commit(&store, wins, &won, "won").await.unwrap();
        let again = store.start(&claim);
        bank.add(&again, "alice", 1).await.unwrap();
        bank.add(&again, "bob", 1).await.unwrap();
        commit(&store, claim, &again, "then").await.unwrap();
        assert_eq!(
            (bank.cents("alice").await, bank.cents("bob").await),
            (102, 102)
        );
    });
}

/// The lock of its key goes with a run that lost. Who has the call by then keeps it, and the run that comes
/// again finds that out before it has any effect.
#[test]
fn a_run_that_comes_again_finds_that_somebody_else_has_the_call() {
    with_a_bank(async |bank| {
        let options = bank.options.clone().isolation(Isolation::RepeatableRead);
        let (store, other) = (bank.store_with(options).await, bank.store().await);
        let (claim, transaction) = begin(&store, &key("a")).await;
        assert_eq!(bank.read(&transaction, "bob").await, Ok(100));
        bank.run("UPDATE {schema}.accounts SET cents = 50 WHERE name = 'bob'")
            .await;
        let lost = bank.add(&transaction, "bob", 5).await;
        assert_eq!(lost, Err(TransactionError::Conflict));
        assert_eq!(transaction.end().unwrap_err(), TransactionError::Conflict);
        let again = store.start(&claim);
        // Begun anew with its first statement; before, it is still held.
        let outcome = other.begin(request(&key("a"))).await.unwrap();
        assert!(
            matches!(outcome, ClaimOutcome::InProgress { .. }),
            "{outcome:?}"
        );
        // The database ends it meanwhile.
        bank.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = '{schema}' AND state LIKE 'idle in transaction%'",
        )
        .await;
        let (theirs, transaction) = loop {
            match other.begin(request(&key("a"))).await.unwrap() {
                ClaimOutcome::Claimed(claim) => {
                    let transaction = other.start(&claim);
                    break (claim, transaction);
                }
                ClaimOutcome::InProgress { .. } => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        };
        bank.add(&transaction, "bob", 7).await.unwrap();
        commit(&other, theirs, &transaction, "theirs")
            .await
            .unwrap();
        let late = bank.add(&again, "bob", 5).await;
        assert_eq!(late, Err(TransactionError::Superseded));
        assert_eq!(store.release(claim).await, Ok(()));
        assert_eq!(bank.cents("bob").await, 57);
        assert_eq!(replayed(&store, &key("a")).await, "theirs");
    });
}

/// E7: a call that was answered and acknowledged elsewhere leaves no record; whoever begins it late is
/// refused all the same, at every level of isolation.
#[test]
fn what_was_acknowledged_elsewhere_is_not_executed_by_a_late_transaction() {
    with_a_bank(async |bank| {
        for level in LEVELS {
            let options = bank.options.clone().isolation(level);
            let (store, other) = (
                bank.store_with(options.clone()).await,
                bank.store_with(options).await,
            );
            let before = bank.cents("bob").await;
            let named = key(&format!("{level:?}"));
            let scope = named.scope().clone();
            let opened = store.session(scope.clone(), SessionRequest::Open).await;
            let Ok(SessionState::Live { session, .. }) = opened else {
                panic!("{opened:?}");
            };
            let mut asked = request(&named);
            asked.session = Some(SessionCall {
                session,
                sequence: 1,
                first_unanswered: 1,
            });
            let claim = given(store.begin(asked.clone()).await.unwrap());
            let transaction = store.start(&claim);
            bank.add(&transaction, "bob", 5).await.unwrap();
            // While it runs, nothing of the session is locked.
            let resumed = other
                .session(scope.clone(), SessionRequest::Resume { session })
                .await;
            assert!(
                matches!(resumed, Ok(SessionState::Live { .. })),
                "{resumed:?}"
            );
            commit(&store, claim, &transaction, "paid").await.unwrap();
            let done = SessionRequest::Acknowledge {
                session,
                first_unanswered: 2,
            };
            other.session(scope, done).await.unwrap();
            asked.attempt = onlyonce_storage::AttemptId::random();
            let late = other.begin(asked).await.unwrap();
            assert!(matches!(late, ClaimOutcome::Stale), "{late:?}");
            assert_eq!(bank.cents("bob").await, before + 5);
        }
    });
}
