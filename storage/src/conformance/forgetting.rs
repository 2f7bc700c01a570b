//! Forgetting: what is past is refused, never executed again by those who say when they were sent.

use super::Harness;
use super::kit::{
    DAY, MINUTE, answer, ask, claimed, completed, given, key, peek, request, settle, sweep,
};
use crate::{ClaimOutcome, Clock as _, ClockSuspicion, KeyState, Timestamp};

/// Past its retention a call is stale at once, whether or not it was swept.
pub async fn after_retention_a_call_is_stale_and_never_executed(harness: impl Harness) {
    let store = harness.store();
    let key = key("yesterday");
    settle(&*store, &key, "paid").await;
    harness.clock().advance(DAY - MINUTE);
    super::kit::completed(&*store, &key).await;
    harness.clock().advance(MINUTE);
    // Not swept, swept early, and swept when a whole day's answers can go.
    for wait in [MINUTE, MINUTE, DAY * 2] {
        let outcome = ask(&*store, request(&key)).await;
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
        let state = peek(&*store, &key).await;
        assert!(matches!(state, KeyState::Tombstone { .. }), "{state:?}");
        harness.clock().advance(wait);
        sweep(&*store).await;
    }
    let outcome = ask(&*store, request(&key)).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
}

/// A call may ask for less than the store keeps, not for more.
pub async fn a_shorter_retention_is_kept_and_a_longer_one_is_not(harness: impl Harness) {
    let store = harness.store();
    for (name, asked, kept) in [("shorter", MINUTE, MINUTE), ("longer", DAY * 5, DAY)] {
        let key = key(name);
        let mut wanted = request(&key);
        wanted.retention = Some(asked);
        let claim = given(ask(&*store, wanted).await);
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
        harness.clock().advance(kept - MINUTE / 2);
        let outcome = ask(&*store, request(&key)).await;
        assert!(matches!(outcome, ClaimOutcome::Completed(_)), "{outcome:?}");
        harness.clock().advance(MINUTE / 2);
        let outcome = ask(&*store, request(&key)).await;
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    }
}

/// Whatever time of the day it was recorded at, and however often somebody sweeps.
pub async fn a_sweep_takes_no_answer_before_its_retention(harness: impl Harness) {
    let store = harness.store();
    for round in 0..7 {
        let key = key(&round.to_string());
        settle(&*store, &key, "paid").await;
        for _ in 0..6 {
            harness.clock().advance(DAY / 6 - MINUTE / 6);
            sweep(&*store).await;
            let replayed = super::kit::completed(&*store, &key).await;
            assert_eq!(replayed.answer, answer("paid"));
        }
        // So that the next round begins at another time of the day.
        harness.clock().advance(MINUTE * 200);
        sweep(&*store).await;
        let outcome = ask(&*store, request(&key)).await;
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    }
}

/// Past the horizon the record is gone, and who was sent before is refused all the same.
pub async fn after_the_horizon_an_older_call_is_stale(mut harness: impl Harness) {
    let store = harness.store();
    let key = key("last-week");
    harness.clock().advance(MINUTE);
    let first_sent = store.now();
    let mut first = request(&key);
    first.first_sent = Some(first_sent);
    let claim = given(ask(&*store, first.clone()).await);
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    harness.clock().advance(DAY * 9);
    sweep(&*store).await;
    assert_eq!(peek(&*store, &key).await, KeyState::Absent);
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    let outcome = ask(&*store, first).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    // A new intent under the same key is nobody's duplicate.
    let mut fresh = request(&key);
    fresh.first_sent = Some(store.now());
    drop(given(ask(&*store, fresh).await));
}

/// However long it takes somebody to resolve it.
pub async fn what_is_open_is_never_forgotten(harness: impl Harness) {
    let store = harness.store();
    let (doubted, running) = (key("doubted"), key("running"));
    let claim = claimed(&*store, &doubted).await;
    let mut long = request(&running);
    long.lease = DAY * 1_000;
    let running_claim = given(ask(&*store, long).await);
    harness.clock().advance(DAY * 90);
    sweep(&*store).await;
    harness.clock().advance(DAY * 90);
    sweep(&*store).await;
    super::kit::in_doubt(&*store, &doubted).await;
    let outcome = ask(&*store, request(&running)).await;
    assert!(
        matches!(outcome, ClaimOutcome::InProgress { .. }),
        "{outcome:?}"
    );
    let settled = store.complete(running_claim, answer("paid")).await;
    assert_eq!(settled, Ok(()));
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
}

/// An earlier store may have executed it.
pub async fn a_call_first_sent_before_the_store_was_made_is_stale(harness: impl Harness) {
    let store = harness.store();
    let mut old = request(&key("old"));
    old.first_sent = Some(store.now().minus(MINUTE));
    let outcome = ask(&*store, old).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
}

/// Five minutes ahead is what clocks may differ by.
pub async fn a_call_first_sent_too_far_ahead_is_refused(harness: impl Harness) {
    let store = harness.store();
    let limit = store.now().plus(MINUTE * 5).as_millis();
    let sent_at = |name: &str, millis| {
        let mut sent = request(&key(name));
        sent.first_sent = Some(Timestamp::from_millis(millis));
        sent
    };
    let outcome = ask(&*store, sent_at("ahead", limit + 1)).await;
    assert!(
        matches!(outcome, ClaimOutcome::FirstSentAhead),
        "{outcome:?}"
    );
    drop(given(ask(&*store, sent_at("near", limit)).await));
}

/// Neither after a sweep, nor after reopening, nor when the clock was set back by days.
pub async fn a_call_first_sent_at_the_time_the_store_tells_is_never_refused(
    mut harness: impl Harness,
) {
    let start = harness.store().now();
    let fresh = |name: &str, now| {
        let mut fresh = request(&key(name));
        fresh.first_sent = Some(now);
        fresh
    };
    let store = harness.store();
    drop(given(ask(&*store, fresh("created", store.now())).await));
    settle(&*store, &key("old"), "paid").await;
    harness.clock().advance(DAY * 30);
    settle(&*store, &key("younger"), "paid").await;
    sweep(&*store).await;
    harness.clock().advance(DAY * 30);
    sweep(&*store).await;
    drop(given(ask(&*store, fresh("swept", store.now())).await));
    harness.clock().set(start);
    drop(given(ask(&*store, fresh("set-back", store.now())).await));
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    drop(given(ask(&*store, fresh("reopened", store.now())).await));
}

/// What was forgotten by a clock that was set wrong cannot be remembered again.
pub async fn nothing_is_forgotten_while_the_clock_is_not_trusted(harness: impl Harness) {
    let (store, clock) = (harness.store(), harness.clock());
    let key = key("recent");
    settle(&*store, &key, "paid").await;
    let right = clock.now();
    clock.set(right.plus(DAY * 30));
    let swept = store.sweep().await.expect("the store answers a sweep");
    assert_eq!(
        swept.paused,
        Some(ClockSuspicion::Jumped { by: DAY * 30 }),
        "{swept:?}"
    );
    clock.set(right);
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
    let swept = store.sweep().await.expect("the store answers a sweep");
    assert_eq!(swept.paused, None, "the clock is right again");
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}
