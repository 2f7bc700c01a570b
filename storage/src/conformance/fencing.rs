//! Fencing: words that come late touch nothing that is not theirs.

use std::sync::Arc;

use super::Harness;
use super::kit::{
    LEASE, answer, ask, claimed, completed, given, in_doubt, key, operator, peek, request,
};
use crate::{
    Claim, ClaimOutcome, DoubtReason, Inspect, KeyState, Resolution, ScopedKey, SettleError,
};

/// B6: the successor's answer stays.
pub async fn a_late_completion_after_a_takeover_is_refused(harness: impl Harness) {
    let store = harness.store();
    let key = key("zombie");
    let zombie = claimed(&*store, &key).await;
    let successor = take_over(&harness, &key).await;
    let late = store.complete(zombie, answer("the zombie's")).await;
    assert_eq!(late, Err(SettleError::Fenced));
    let settled = store.complete(successor, answer("the successor's")).await;
    assert_eq!(settled, Ok(()));
    let kept = completed(&*store, &key).await.answer;
    assert_eq!(kept, answer("the successor's"));
}

/// B7: the successor's claim and answer stay.
pub async fn a_late_release_after_a_takeover_is_refused(harness: impl Harness) {
    let store = harness.store();
    for settled_first in [false, true] {
        let key = key(if settled_first { "settled" } else { "running" });
        let zombie = claimed(&*store, &key).await;
        let mut successor = Some(take_over(&harness, &key).await);
        if settled_first && let Some(claim) = successor.take() {
            assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
        }
        assert_eq!(store.release(zombie).await, Err(SettleError::Fenced));
        if let Some(claim) = successor {
            assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
        }
        assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
    }
}

/// B13: neither a renewal nor a doubt nor the drop of claim n reaches claim n + 1.
pub async fn delayed_words_of_one_claim_do_not_touch_the_next(harness: impl Harness) {
    let store = harness.store();
    for word in ["doubt", "drop", "renew"] {
        let key = key(word);
        let mut old = claimed(&*store, &key).await;
        let next = take_over(&harness, &key).await;
        match word {
            "doubt" => {
                let late = store.doubt(old, DoubtReason::Ambiguous, None).await;
                assert_eq!(late, Err(SettleError::Fenced));
            }
            "drop" => drop(old),
            _ => {
                let late = store.renew(&mut old, LEASE).await;
                assert_eq!(late, Err(SettleError::Fenced));
                drop(old);
            }
        }
        let outcome = ask(&*store, request(&key)).await;
        assert!(
            matches!(outcome, ClaimOutcome::InProgress { .. }),
            "{word}: {outcome:?}"
        );
        assert_eq!(store.complete(next, answer("paid")).await, Ok(()));
        assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
    }
}

/// B8: who resolves says which doubt was looked at.
pub async fn a_resolution_needs_the_token_that_was_seen(harness: impl Harness) {
    let store = harness.store();
    let key = key("seen");
    drop(claimed(&*store, &key).await);
    assert!(super::kit::gets_in_doubt(&*store, &key).await);
    let first = in_doubt(&*store, &key).await.token;
    let resolve = |token, resolution| store.resolve(key.clone(), token, resolution, operator());
    assert_eq!(resolve(first, Resolution::NotApplied).await, Ok(()));
    drop(claimed(&*store, &key).await);
    assert!(super::kit::gets_in_doubt(&*store, &key).await);
    let second = in_doubt(&*store, &key).await.token;
    let stale = resolve(first, Resolution::NotApplied).await;
    assert_eq!(stale, Err(SettleError::Fenced));
    let applied = Resolution::Applied(answer("guessed"));
    assert_eq!(resolve(first, applied).await, Err(SettleError::Fenced));
    assert_eq!(in_doubt(&*store, &key).await.token, second);
    assert_eq!(resolve(second, Resolution::NotApplied).await, Ok(()));
}

/// B8: the owner completes between the look and the word; its answer stays.
pub async fn a_resolution_after_the_owner_completed_is_refused(harness: impl Harness) {
    let store = harness.store();
    let key = key("raced");
    let claim = claimed(&*store, &key).await;
    harness.clock().advance(LEASE);
    let token = in_doubt(&*store, &key).await.token;
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    for resolution in [
        Resolution::NotApplied,
        Resolution::Applied(answer("guessed")),
    ] {
        let late = store
            .resolve(key.clone(), token, resolution, operator())
            .await;
        assert_eq!(late, Err(SettleError::Fenced));
    }
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}

/// B9: many see the same doubt, end it and claim; one runs.
pub async fn of_many_resolvers_one_wins_and_one_claim_is_given(harness: impl Harness) {
    let store = harness.store();
    let key = key("orphan");
    let claim = claimed(&*store, &key).await;
    harness.clock().advance(LEASE);
    let token = in_doubt(&*store, &key).await.token;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (store, key) = (Arc::clone(&store), key.clone());
            tokio::spawn(async move {
                let not_applied = Resolution::NotApplied;
                let resolved = store
                    .resolve(key.clone(), token, not_applied, operator())
                    .await;
                (resolved, ask(&*store, request(&key)).await)
            })
        })
        .collect();
    let (mut winners, mut claims) = (0, Vec::new());
    for task in tasks {
        let (resolved, outcome) = task.await.expect("a task that resolves does not panic");
        winners += usize::from(resolved.is_ok());
        if let ClaimOutcome::Claimed(claim) = outcome {
            claims.push(claim);
        }
    }
    assert_eq!((winners, claims.len()), (1, 1));
    drop(claim);
}

/// What is in progress is its owner's to settle.
pub async fn a_claim_in_progress_cannot_be_resolved(harness: impl Harness) {
    let store = harness.store();
    let key = key("alive");
    let claim = claimed(&*store, &key).await;
    for resolution in [
        Resolution::NotApplied,
        Resolution::Applied(answer("guessed")),
    ] {
        let early = store
            .resolve(key.clone(), claim.token(), resolution, operator())
            .await;
        assert_eq!(early, Err(SettleError::Fenced));
    }
    assert!(matches!(
        peek(&*store, &key).await,
        KeyState::InProgress { .. }
    ));
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
}

/// B12: no token comes twice, and none comes late.
pub async fn tokens_grow_after_release_and_after_reopening(mut harness: impl Harness) {
    let key = key("again");
    let mut last = None;
    for _ in 0..3 {
        let store = harness.store();
        for _ in 0..3 {
            let claim = claimed(&*store, &key).await;
            assert!(
                Some(claim.token()) > last,
                "{:?} after {last:?}",
                claim.token()
            );
            last = Some(claim.token());
            assert_eq!(store.release(claim).await, Ok(()));
        }
        drop(store);
        if !harness.reopen().await {
            return;
        }
    }
}

/// The claim of a key whose owner is thought to be dead.
async fn take_over(harness: &impl Harness, key: &ScopedKey) -> Claim {
    let store: Arc<dyn Inspect> = harness.store();
    harness.clock().advance(LEASE);
    let token = in_doubt(&*store, key).await.token;
    let not_applied = Resolution::NotApplied;
    let resolved = store
        .resolve(key.clone(), token, not_applied, operator())
        .await;
    assert_eq!(resolved, Ok(()));
    given(ask(&*store, request(key)).await)
}
