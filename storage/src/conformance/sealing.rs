//! Sealing and peeking: looking at a key, and making sure that it never happens.

use std::sync::Arc;

use tokio::sync::Barrier;

use super::Harness;
use super::kit::{
    DAY, LEASE, MINUTE, answer, ask, claimed, given, key, peek, request, request_of, seal, settle,
    sweep,
};
use crate::{ClaimOutcome, DoubtReason, KeyState, Question};

/// Whatever request comes with it, also after reopening.
pub async fn a_sealed_key_is_stale_for_ever(mut harness: impl Harness) {
    let key = key("sealed");
    let store = harness.store();
    harness.clock().advance(LEASE);
    let sealed = seal(&*store, &key).await;
    assert_eq!(sealed, KeyState::Sealed { at: store.now() });
    drop(store);
    for reopened in [false, true] {
        if reopened && !harness.reopen().await {
            return;
        }
        let store = harness.store();
        for body in ["transfer 100", "other"] {
            let outcome = ask(&*store, request_of(&key, body)).await;
            assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
        }
        harness.clock().advance(DAY);
        assert_eq!(
            seal(&*store, &key).await,
            sealed,
            "sealing again changes nothing"
        );
        assert_eq!(peek(&*store, &key).await, sealed);
    }
}

/// The call that was sealed away was first sent before the seal.
pub async fn a_seal_outlives_the_horizon_for_calls_that_say_when_they_were_sent(
    harness: impl Harness,
) {
    let store = harness.store();
    let key = key("sealed");
    harness.clock().advance(LEASE);
    let mut delayed = request(&key);
    delayed.first_sent = Some(store.now().plus(LEASE));
    seal(&*store, &key).await;
    harness.clock().advance(DAY * 9);
    sweep(&*store).await;
    let outcome = ask(&*store, delayed).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
}

/// And changes nothing.
pub async fn sealing_a_used_key_reports_its_state(harness: impl Harness) {
    let store = harness.store();
    let (busy, done, doubted) = (key("busy"), key("done"), key("doubted"));
    settle(&*store, &done, "paid").await;
    let state = seal(&*store, &done).await;
    let KeyState::Completed(completion) = state else {
        panic!("a completed key is sealed as {state:?}");
    };
    assert_eq!(completion.answer, answer("paid"));
    harness.clock().advance(DAY);
    let state = seal(&*store, &done).await;
    assert!(matches!(state, KeyState::Tombstone { .. }), "{state:?}");
    let claim = claimed(&*store, &doubted).await;
    let spent = store.doubt(claim, DoubtReason::Ambiguous, None).await;
    assert_eq!(spent, Ok(()));
    let state = seal(&*store, &doubted).await;
    assert!(matches!(state, KeyState::InDoubt(_)), "{state:?}");
    let claim = claimed(&*store, &busy).await;
    let state = seal(&*store, &busy).await;
    assert!(matches!(state, KeyState::InProgress { .. }), "{state:?}");
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
}

/// Whoever is told `Sealed` may do the same under another key.
pub async fn of_a_seal_and_64_claims_one_side_wins(harness: impl Harness) {
    for round in 0..16 {
        let key = key(&format!("raced-{round}"));
        let start = Arc::new(Barrier::new(65));
        let sealing = tokio::spawn({
            let (store, key, start) = (harness.store(), key.clone(), Arc::clone(&start));
            async move {
                start.wait().await;
                matches!(seal(&*store, &key).await, KeyState::Sealed { .. })
            }
        });
        let claims: Vec<_> = (0..64)
            .map(|number| {
                let (store, start) = (harness.store(), Arc::clone(&start));
                let request = request(&key);
                tokio::spawn(async move {
                    start.wait().await;
                    // Some before the seal, some after it, some in between.
                    for _ in 0..number / 4 + round % 4 {
                        tokio::task::yield_now().await;
                    }
                    ask(&*store, request).await
                })
            })
            .collect();
        let mut outcomes = Vec::new();
        for claim in claims {
            outcomes.push(claim.await.expect("no claim panics"));
        }
        let sealed = sealing.await.expect("no seal panics");
        let given = |outcome: &&ClaimOutcome| matches!(outcome, ClaimOutcome::Claimed(_));
        let given = outcomes.iter().filter(given).count();
        assert_eq!(given, usize::from(!sealed), "sealed: {sealed}");
    }
}

/// It may have been executed.
pub async fn a_forgotten_call_is_neither_absent_nor_sealed_for_who_says_when_it_was_sent(
    harness: impl Harness,
) {
    let store = harness.store();
    let key = key("forgotten");
    harness.clock().advance(MINUTE);
    let first_sent = Some(store.now());
    let mut call = request(&key);
    call.first_sent = first_sent;
    let claim = given(ask(&*store, call).await);
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    harness.clock().advance(DAY * 9);
    sweep(&*store).await;
    for question in [Question::Peek, Question::Seal, Question::Peek] {
        let state = store.ask(question, key.clone(), first_sent).await;
        assert_eq!(state, Ok(KeyState::Stale), "{question:?}");
    }
    // And the seal holds all the same.
    let outcome = ask(&*store, request(&key)).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    // A younger call of the same name is not what was forgotten.
    let state = store.ask(Question::Peek, key, Some(store.now())).await;
    assert!(matches!(state, Ok(KeyState::Sealed { .. })), "{state:?}");
}

/// Neither of an absent key nor of any other.
pub async fn a_peek_changes_nothing(harness: impl Harness) {
    let store = harness.store();
    let key = key("looked-at");
    for _ in 0..3 {
        assert_eq!(peek(&*store, &key).await, KeyState::Absent);
    }
    let mut claim = given(ask(&*store, request(&key)).await);
    for _ in 0..3 {
        let state = peek(&*store, &key).await;
        assert!(matches!(state, KeyState::InProgress { .. }), "{state:?}");
    }
    assert_eq!(store.renew(&mut claim, LEASE).await, Ok(()));
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    let state = peek(&*store, &key).await;
    assert!(matches!(state, KeyState::Completed(_)), "{state:?}");
    assert_eq!(peek(&*store, &key).await, state);
}
