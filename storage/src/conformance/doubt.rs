//! Doubt: where it comes from, that it is never guessed away, and how it ends.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};

use super::Harness;
use super::kit::{
    DAY, LEASE, answer, ask, claimed, completed, gets_in_doubt, given, in_doubt, key, operator,
    peek, request, settle,
};
use crate::{ClaimOutcome, DoubtReason, KeyState, Resolution, SettleError};

/// A lease that lapsed means that nobody knows; a day later it still does.
pub async fn a_lapsed_claim_is_in_doubt_and_never_given_again(harness: impl Harness) {
    let store = harness.store();
    let key = key("lapsed");
    let claim = claimed(&*store, &key).await;
    let token = claim.token();
    harness.clock().advance(LEASE);
    let doubt = in_doubt(&*store, &key).await;
    assert_eq!(
        (doubt.token, doubt.reason),
        (token, DoubtReason::LeaseLapsed)
    );
    let since = doubt.since;
    harness.clock().advance(DAY);
    assert_eq!(in_doubt(&*store, &key).await.since, since);
    drop(claim);
}

/// A renewal holds for its lease from the moment it was asked for.
pub async fn a_renewed_claim_holds_on(harness: impl Harness) {
    let store = harness.store();
    let key = key("renewed");
    let mut claim = claimed(&*store, &key).await;
    for _ in 0..3 {
        harness.clock().advance(LEASE / 2);
        assert_eq!(store.renew(&mut claim, LEASE).await, Ok(()));
    }
    assert_eq!(claim.lease().expires_at(), store.now().plus(LEASE));
    let outcome = ask(&*store, request(&key)).await;
    assert!(
        matches!(outcome, ClaimOutcome::InProgress { .. }),
        "{outcome:?}"
    );
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
}

/// Somebody may already have been told that it is in doubt.
pub async fn a_lapsed_claim_cannot_be_renewed(harness: impl Harness) {
    let store = harness.store();
    let key = key("too-late");
    let mut claim = claimed(&*store, &key).await;
    harness.clock().advance(LEASE);
    let renewed = store.renew(&mut claim, LEASE).await;
    assert_eq!(renewed, Err(SettleError::Fenced));
    in_doubt(&*store, &key).await;
}

/// The owner knows, and nobody else has said anything.
pub async fn the_owner_of_a_lapsed_claim_may_still_say_what_happened(harness: impl Harness) {
    let store = harness.store();
    let key = key("slow");
    let claim = claimed(&*store, &key).await;
    harness.clock().advance(LEASE * 2);
    in_doubt(&*store, &key).await;
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}

/// A guard that is dropped unspent says so.
pub async fn a_dropped_claim_is_in_doubt(harness: impl Harness) {
    let store = harness.store();
    let key = key("dropped");
    drop(claimed(&*store, &key).await);
    assert!(gets_in_doubt(&*store, &key).await);
    assert_eq!(in_doubt(&*store, &key).await.reason, DoubtReason::OwnerGone);
}

/// A caller that gives up while it waits for its claim leaves nobody who would execute or spend it.
pub async fn a_claim_that_nobody_took_is_in_doubt(harness: impl Harness) {
    let store = harness.store();
    let key = key("given-up");
    {
        let mut asked = pin!(store.claim(request(&key)));
        let _ = asked
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .map(drop);
    }
    assert!(gets_in_doubt(&*store, &key).await);
    let outcome = ask(&*store, request(&key)).await;
    assert!(matches!(outcome, ClaimOutcome::InDoubt(_)), "{outcome:?}");
}

/// The owner's process is gone: no lease needs to lapse for that, where the store is of one process.
pub async fn what_was_in_progress_is_in_doubt_at_once_after_reopening(mut harness: impl Harness) {
    let key = key("crashed");
    let claim = claimed(&*harness.store(), &key).await;
    let token = claim.token();
    // A crash does not drop its guards.
    std::mem::forget(claim);
    if !harness.reopen().await {
        return;
    }
    let mut reason = DoubtReason::OwnerGone;
    if harness.is_shared() {
        let outcome = ask(&*harness.store(), request(&key)).await;
        let held = matches!(outcome, ClaimOutcome::InProgress { .. });
        assert!(held, "its owner may live: {outcome:?}");
        harness.clock().advance(LEASE);
        reason = DoubtReason::LeaseLapsed;
    }
    let doubt = in_doubt(&*harness.store(), &key).await;
    assert_eq!((doubt.token, doubt.reason), (token, reason));
}

/// Duplicates of a call in doubt get the answer that it gave, also after reopening.
pub async fn a_doubt_keeps_its_answer(mut harness: impl Harness) {
    let (small, large) = (key("small"), key("large"));
    let body = super::kit::bytes(100_000);
    for (key, body) in [(&small, b"500".to_vec()), (&large, body.clone())] {
        let store = harness.store();
        let claim = claimed(&*store, key).await;
        let kept = Some(answer(body));
        let doubted = store.doubt(claim, DoubtReason::Ambiguous, kept).await;
        assert_eq!(doubted, Ok(()));
    }
    for _ in 0..2 {
        let store = harness.store();
        let doubt = in_doubt(&*store, &small).await;
        assert_eq!(doubt.reason, DoubtReason::Ambiguous);
        assert_eq!(doubt.answer, Some(answer("500")));
        let KeyState::InDoubt(doubt) = peek(&*store, &large).await else {
            panic!("a key in doubt is peeked at as such");
        };
        assert_eq!(doubt.answer, Some(answer(body.clone())));
        drop(store);
        if !harness.reopen().await {
            return;
        }
    }
    // Its answer goes with the doubt.
    let store = harness.store();
    let token = in_doubt(&*store, &large).await.token;
    let applied = Resolution::Applied(answer("paid"));
    let resolved = store
        .resolve(large.clone(), token, applied, operator())
        .await;
    assert_eq!(resolved, Ok(()));
    assert_eq!(completed(&*store, &large).await.answer, answer("paid"));
}

/// The answer that became known is everybody's answer.
pub async fn a_doubt_resolved_as_applied_is_replayed(harness: impl Harness) {
    let store = harness.store();
    let key = key("applied");
    let claim = claimed(&*store, &key).await;
    harness.clock().advance(LEASE);
    // Peeked at, so that the lapse is known and not yet written down.
    let KeyState::InDoubt(doubt) = peek(&*store, &key).await else {
        panic!("a lapsed claim is peeked at as a doubt");
    };
    let applied = Resolution::Applied(answer("paid"));
    let resolved = store
        .resolve(key.clone(), doubt.token, applied, operator())
        .await;
    assert_eq!(resolved, Ok(()));
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
    // The owner comes late.
    let late = store.complete(claim, answer("other")).await;
    assert_eq!(late, Err(SettleError::Fenced));
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}

/// Not applied: the key is as new.
pub async fn a_doubt_resolved_as_not_applied_can_be_claimed_again(harness: impl Harness) {
    let store = harness.store();
    let key = key("not-applied");
    let claim = claimed(&*store, &key).await;
    let token = claim.token();
    let doubted = store.doubt(claim, DoubtReason::Ambiguous, None).await;
    assert_eq!(doubted, Ok(()));
    let not_applied = Resolution::NotApplied;
    let resolved = store
        .resolve(key.clone(), token, not_applied, operator())
        .await;
    assert_eq!(resolved, Ok(()));
    assert_eq!(peek(&*store, &key).await, KeyState::Absent);
    let next = given(ask(&*store, request(&key)).await);
    assert!(next.token() > token);
    assert_eq!(store.complete(next, answer("paid")).await, Ok(()));
}

/// Every kind of acknowledged change, and the identity of the store.
pub async fn what_is_acknowledged_is_there_after_reopening(mut harness: impl Harness) {
    let store = harness.store();
    let (done, freed, sealed) = (key("done"), key("freed"), key("sealed"));
    let id = store.id();
    settle(&*store, &done, "paid").await;
    let claim = claimed(&*store, &freed).await;
    assert_eq!(store.release(claim).await, Ok(()));
    let seal = super::kit::seal(&*store, &sealed).await;
    let completion = peek(&*store, &done).await;
    drop(store);
    if !harness.reopen().await {
        return;
    }
    let store = harness.store();
    assert_eq!(store.id(), id);
    assert_eq!(peek(&*store, &done).await, completion);
    assert_eq!(peek(&*store, &freed).await, KeyState::Absent);
    assert_eq!(peek(&*store, &sealed).await, seal);
}
