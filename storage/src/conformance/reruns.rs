//! Re-runs: a call in doubt is claimed anew in one step, by whoever names the doubt it has seen.

use std::sync::Arc;

use super::kit::{
    DAY, LEASE, answer, ask, bytes, claimed, completed, given, in_doubt, key, peek, request,
    request_of, seal, settle, sweep,
};
use super::{Harness, IN_DOUBT_MAX};
use crate::{
    Claim, ClaimOutcome, ClaimRequest, DoubtReason, FencingToken, KeyState, ScopedKey, SettleError,
};

/// B6, B7: the new claim has a larger token, and the earlier one can say nothing any more.
pub async fn a_rerun_is_claimed_under_a_larger_token_and_fences_the_run_before(
    mut harness: impl Harness,
) {
    let key = key("rerun");
    let store = harness.store();
    let zombie = claimed(&*store, &key).await;
    harness.clock().advance(LEASE);
    let token = in_doubt(&*store, &key).await.token;
    let rerun = given(ask(&*store, rerun(&key, token)).await);
    assert!(rerun.token() > token);
    assert!(matches!(
        peek(&*store, &key).await,
        KeyState::InProgress { .. }
    ));
    // The claim that was superseded is dropped, released, completed: nothing of it counts.
    assert_eq!(store.release(zombie).await, Err(SettleError::Fenced));
    assert_eq!(store.complete(rerun, answer("paid")).await, Ok(()));
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}

/// What is not in doubt under the very token that was named is as if nothing had been named.
pub async fn only_the_doubt_that_was_seen_can_be_claimed_anew(harness: impl Harness) {
    let store = harness.store();
    let (running, done, doubted, sealed) =
        (key("running"), key("done"), key("doubted"), key("sealed"));
    let held = claimed(&*store, &running).await;
    let outcome = ask(&*store, rerun(&running, held.token())).await;
    assert!(
        matches!(outcome, ClaimOutcome::InProgress { .. }),
        "{outcome:?}"
    );
    assert_eq!(store.release(held).await, Ok(()));

    let claim = claimed(&*store, &done).await;
    let token = claim.token();
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    let outcome = ask(&*store, rerun(&done, token)).await;
    assert!(matches!(outcome, ClaimOutcome::Completed(_)), "{outcome:?}");

    let claim = claimed(&*store, &doubted).await;
    let token = claim.token();
    let written = store.doubt(claim, DoubtReason::Ambiguous, None).await;
    assert_eq!(written, Ok(()));
    let other = FencingToken::new(token.incarnation(), token.sequence() + 1_000);
    let outcome = ask(&*store, rerun(&doubted, other)).await;
    assert!(matches!(outcome, ClaimOutcome::InDoubt(_)), "{outcome:?}");
    // Another request learns nothing and changes nothing.
    let mut wrong = request_of(&doubted, "transfer 900");
    wrong.rerun_of = Some(token);
    let outcome = ask(&*store, wrong).await;
    assert!(matches!(outcome, ClaimOutcome::Mismatch), "{outcome:?}");
    assert_eq!(in_doubt(&*store, &doubted).await.token, token);

    seal(&*store, &sealed).await;
    let outcome = ask(&*store, rerun(&sealed, token)).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
}

/// B9: many see the same doubt and want to run again; one does.
pub async fn of_many_reruns_of_one_doubt_one_is_given(harness: impl Harness) {
    let store = harness.store();
    let key = key("crowd");
    let claim = claimed(&*store, &key).await;
    let token = claim.token();
    let written = store.doubt(claim, DoubtReason::OwnerGone, None).await;
    assert_eq!(written, Ok(()));
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (store, key) = (Arc::clone(&store), key.clone());
            tokio::spawn(async move { ask(&*store, rerun(&key, token)).await })
        })
        .collect();
    let mut claims = Vec::new();
    for task in tasks {
        match task.await.expect("a task that claims does not panic") {
            ClaimOutcome::Claimed(claim) => claims.push(claim),
            ClaimOutcome::InProgress { .. } => {}
            other => panic!("a re-run is given or in progress, and is {other:?}"),
        }
    }
    assert_eq!(claims.len(), 1);
}

/// A crash of the re-run leaves a doubt of its own, never a free key.
pub async fn a_rerun_that_crashes_is_in_doubt_under_its_own_token(mut harness: impl Harness) {
    let store = harness.store();
    let key = key("again");
    let claim = claimed(&*store, &key).await;
    let kept = Some(answer("500"));
    let first = claim.token();
    let written = store.doubt(claim, DoubtReason::Ambiguous, kept).await;
    assert_eq!(written, Ok(()));
    let claim = given(ask(&*store, rerun(&key, first)).await);
    let second = claim.token();
    // A crash does not drop its guards.
    std::mem::forget(claim);
    drop(store);
    if !harness.reopen().await {
        return;
    }
    let store = harness.store();
    let mut reason = DoubtReason::OwnerGone;
    if harness.is_shared() {
        harness.clock().advance(LEASE);
        reason = DoubtReason::LeaseLapsed;
    }
    let doubt = in_doubt(&*store, &key).await;
    assert_eq!((doubt.token, doubt.reason), (second, reason));
    let third = given(ask(&*store, rerun(&key, second)).await);
    assert!(third.token() > second);
    assert_eq!(store.complete(third, answer("paid")).await, Ok(()));
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}

/// A lapsed lease does not say whether its owner lives. Once its process is gone, one knows, where
/// the store is of one process.
pub async fn after_reopening_the_owner_of_a_lapsed_lease_is_known_to_be_gone(
    mut harness: impl Harness,
) {
    let store = harness.store();
    let key = key("lapsed");
    let claim = claimed(&*store, &key).await;
    harness.clock().advance(LEASE);
    let doubt = in_doubt(&*store, &key).await;
    assert!(!doubt.reason.is_owner_known_gone());
    std::mem::forget(claim);
    drop(store);
    if !harness.reopen().await {
        return;
    }
    let store = harness.store();
    let is_known = !harness.is_shared();
    let doubt = in_doubt(&*store, &key).await;
    assert_eq!(doubt.reason.is_owner_known_gone(), is_known);
    let KeyState::InDoubt(doubt) = peek(&*store, &key).await else {
        panic!("it is still in doubt");
    };
    assert_eq!(doubt.reason.is_owner_known_gone(), is_known);
}

/// What was learned from outside is recorded once, whoever learns it.
pub async fn of_a_doubts_owner_and_those_who_ask_outside_one_says_what_happened(
    harness: impl Harness,
) {
    let store = harness.store();
    let key = key("learned");
    let owner = claimed(&*store, &key).await;
    harness.clock().advance(LEASE);
    let doubt = in_doubt(&*store, &key).await;
    let learned = |text: &'static str| {
        let claim = Claim::of_doubt(key.clone(), &doubt);
        store.complete(claim, answer(text))
    };
    drop(Claim::of_doubt(key.clone(), &doubt));
    assert_eq!(in_doubt(&*store, &key).await, doubt);
    assert_eq!(learned("first").await, Ok(()));
    assert_eq!(learned("second").await, Err(SettleError::Fenced));
    let late = store.complete(owner, answer("own")).await;
    assert_eq!(late, Err(SettleError::Fenced));
    assert_eq!(completed(&*store, &key).await.answer, answer("first"));
}

/// The reason stays as well: that an answer was learned does not say that the owner has ended.
pub async fn what_was_learned_and_is_too_large_changes_nothing(harness: impl Harness) {
    let store = harness.store();
    let key = key("large");
    let owner = claimed(&*store, &key).await;
    harness.clock().advance(LEASE);
    let doubt = in_doubt(&*store, &key).await;
    let claim = Claim::of_doubt(key.clone(), &doubt);
    let large = answer(bytes(super::limits().answer_bytes_max + 1));
    let refused = store.complete(claim, large).await;
    assert!(matches!(refused, Err(SettleError::Store(_))), "{refused:?}");
    assert_eq!(in_doubt(&*store, &key).await, doubt);
    drop(owner);
}

/// E1: a duplicate that comes from before what is remembered runs nothing, also where its record
/// was kept because it is in doubt.
pub async fn a_call_older_than_what_is_remembered_does_not_run_again(harness: impl Harness) {
    let store = harness.store();
    let key = key("late");
    let first_sent = store.now();
    let claim = claimed(&*store, &key).await;
    let token = claim.token();
    let written = store.doubt(claim, DoubtReason::OwnerGone, None).await;
    assert_eq!(written, Ok(()));
    settle(&*store, &super::kit::key("other"), "paid").await;
    harness.clock().advance(DAY * 10);
    sweep(&*store).await;
    let mut late = rerun(&key, token);
    late.first_sent = Some(first_sent);
    let outcome = ask(&*store, late).await;
    assert!(matches!(outcome, ClaimOutcome::InDoubt(_)), "{outcome:?}");
    // Who says nothing, or was first sent now, is no late duplicate.
    let mut now = rerun(&key, token);
    now.first_sent = Some(store.now());
    drop(given(ask(&*store, now).await));
}

/// E10: a scope that is full of doubts must be able to end them.
pub async fn a_full_quota_of_doubts_keeps_none_of_them_from_running_again(harness: impl Harness) {
    let store = harness.store();
    let mut tokens = Vec::new();
    for number in 0..IN_DOUBT_MAX {
        let claim = claimed(&*store, &key(&number.to_string())).await;
        tokens.push(claim.token());
        let written = store.doubt(claim, DoubtReason::Ambiguous, None).await;
        assert_eq!(written, Ok(()));
    }
    let over = ask(&*store, request(&key("over"))).await;
    assert!(matches!(over, ClaimOutcome::OverQuota), "{over:?}");
    for (number, token) in tokens.into_iter().enumerate() {
        let claim = given(ask(&*store, rerun(&key(&number.to_string()), token)).await);
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    }
    drop(given(ask(&*store, request(&key("over"))).await));
}

fn rerun(key: &ScopedKey, doubt: FencingToken) -> ClaimRequest {
    let mut request = request(key);
    request.rerun_of = Some(doubt);
    request
}
