//! Sealing and peeking: looking at a key, and making sure that it never happens.

use super::Harness;
use super::kit::{
    DAY, LEASE, answer, ask, claimed, given, key, peek, request, request_of, seal, settle, sweep,
};
use crate::{ClaimOutcome, DoubtReason, KeyState};

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
