//! Claims: who is given one, who is refused, and that a refusal leaves everything as it was.

use std::sync::Arc;

use super::Harness;
use super::kit::{
    LEASE, MINUTE, answer, ask, claimed, completed, given, key, key_of, peek, request, request_of,
    settle,
};
use crate::{
    ClaimOutcome, ClaimRequest, DoubtReason, Fingerprint, FingerprintAlgorithm, Fingerprints,
    IdempotencyKey, Inspect, KeyState, Scope, ScopedKey, StoreError,
};

/// A1: 64 identical requests start together, and one may execute.
pub async fn of_64_concurrent_claims_one_is_given(harness: impl Harness) {
    let store = harness.store();
    let key = key("hot");
    let (mut claims, refused) = crowd(&store, || request(&key)).await;
    assert_eq!(claims.len(), 1, "one of 64 is given the claim");
    assert_eq!(refused, 63, "the others are told that it is in progress");
    let claim = claims.pop().expect("one claim was given");
    let settled = store.complete(claim, answer("paid")).await;
    assert_eq!(settled, Ok(()));
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}

/// Also when all of them carry the same attempt id, as a careless caller's would.
pub async fn one_attempt_asking_64_times_holds_one_claim(harness: impl Harness) {
    let store = harness.store();
    let request = request(&key("hot"));
    let (claims, _) = crowd(&store, || request.clone()).await;
    let mut tokens: Vec<_> = claims.iter().map(crate::Claim::token).collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 1, "at most one right to execute is given");
}

/// A3, A4: a duplicate is refused with a hint, the owner goes on and completes, and only then is
/// it replayed.
pub async fn a_refused_duplicate_leaves_the_owner_undisturbed(harness: impl Harness) {
    let store = harness.store();
    let key = key("busy");
    let claim = claimed(&*store, &key).await;
    for _ in 0..3 {
        let outcome = ask(&*store, request(&key)).await;
        let ClaimOutcome::InProgress { retry_after } = outcome else {
            panic!("a duplicate of a call in progress is answered {outcome:?}");
        };
        assert!(!retry_after.is_zero() && retry_after <= LEASE);
    }
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}

/// A5, C1: another request under the key is refused and the first one's answer stays.
pub async fn a_refused_mismatch_leaves_the_answer_in_place(harness: impl Harness) {
    let store = harness.store();
    let key = key("once");
    settle(&*store, &key, "paid").await;
    let before = peek(&*store, &key).await;
    for _ in 0..2 {
        let outcome = ask(&*store, request_of(&key, "transfer 999")).await;
        assert!(matches!(outcome, ClaimOutcome::Mismatch), "{outcome:?}");
    }
    assert_eq!(peek(&*store, &key).await, before);
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}

/// C6, C7: in progress, completed, in doubt and past retention, a wrong request learns nothing but
/// that it is wrong.
pub async fn a_mismatch_is_refused_in_every_state(harness: impl Harness) {
    let store = harness.store();
    let (busy, done, doubted) = (key("busy"), key("done"), key("doubted"));
    let owner = claimed(&*store, &busy).await;
    settle(&*store, &done, "paid").await;
    let claim = claimed(&*store, &doubted).await;
    let kept = Some(answer("500"));
    let settled = store.doubt(claim, DoubtReason::Ambiguous, kept).await;
    assert_eq!(settled, Ok(()));
    for key in [&busy, &done, &doubted] {
        let outcome = ask(&*store, request_of(key, "other")).await;
        assert!(matches!(outcome, ClaimOutcome::Mismatch), "{outcome:?}");
    }
    // A lapsed claim is no exception.
    harness.clock().advance(LEASE);
    let outcome = ask(&*store, request_of(&busy, "other")).await;
    assert!(matches!(outcome, ClaimOutcome::Mismatch), "{outcome:?}");
    assert_eq!(store.complete(owner, answer("late")).await, Ok(()));
}

/// C4, C5: what is compared is what the first request was, through every change of state.
pub async fn a_completed_record_keeps_the_first_fingerprint(mut harness: impl Harness) {
    let store = harness.store();
    let key = key("kept");
    let claim = claimed(&*store, &key).await;
    let outcome = ask(&*store, request_of(&key, "mutated")).await;
    assert!(matches!(outcome, ClaimOutcome::Mismatch), "{outcome:?}");
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    if matches!(peek(&*store, &key).await, KeyState::Completed(_)) {
        let outcome = ask(&*store, request_of(&key, "mutated")).await;
        assert!(matches!(outcome, ClaimOutcome::Mismatch), "{outcome:?}");
        assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
    }
}

/// F10 as far as a request shows it: what cannot be compared fails closed.
pub async fn a_record_of_an_unknown_fingerprint_is_refused_not_absent(harness: impl Harness) {
    let store = harness.store();
    let key = key("newer");
    settle(&*store, &key, "paid").await;
    let print = Fingerprint::builder(FingerprintAlgorithm::new(99)).finish();
    let newer = ClaimRequest::new(key.clone(), Fingerprints::new(print), LEASE);
    let refused = store.claim(newer).await;
    let error = refused.expect_err("what cannot be compared is an error");
    assert_eq!(error, StoreError::IncomparableFingerprint(1));
    assert_eq!(completed(&*store, &key).await.answer, answer("paid"));
}

/// D9: what was refused leaves no trace.
pub async fn a_refusal_is_never_recorded(harness: impl Harness) {
    let store = harness.store();
    let key = key("early");
    let mut ahead = request(&key);
    ahead.first_sent = Some(store.now().plus(MINUTE * 10));
    let outcome = ask(&*store, ahead).await;
    assert!(
        matches!(outcome, ClaimOutcome::FirstSentAhead),
        "{outcome:?}"
    );
    let mut old = request(&key);
    old.first_sent = Some(store.now().minus(MINUTE * 10));
    let outcome = ask(&*store, old).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    assert_eq!(peek(&*store, &key).await, KeyState::Absent);
    drop(given(ask(&*store, request(&key)).await));
}

/// "Not executed" frees the key entirely.
pub async fn a_released_key_can_be_claimed_again_with_any_request(harness: impl Harness) {
    let store = harness.store();
    let key = key("refused");
    let claim = claimed(&*store, &key).await;
    assert_eq!(store.release(claim).await, Ok(()));
    assert_eq!(peek(&*store, &key).await, KeyState::Absent);
    let claim = given(ask(&*store, request_of(&key, "another")).await);
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
}

/// C12: the same key of another principal, or of another operation, is as new as any.
pub async fn two_tenants_with_the_same_key_do_not_meet(harness: impl Harness) {
    let store = harness.store();
    let alice = key_of("alice", "order-1");
    let bob = key_of("bob", "order-1");
    settle(&*store, &alice, "alice's").await;
    assert_eq!(peek(&*store, &bob).await, KeyState::Absent);
    settle(&*store, &bob, "bob's").await;
    assert_eq!(completed(&*store, &alice).await.answer, answer("alice's"));
    assert_eq!(completed(&*store, &bob).await.answer, answer("bob's"));
}

/// 64 tasks ask at once; the claims that are given, and how many are told "in progress".
async fn crowd(
    store: &Arc<dyn Inspect>,
    make: impl Fn() -> ClaimRequest,
) -> (Vec<crate::Claim>, usize) {
    let barrier = Arc::new(tokio::sync::Barrier::new(64));
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (store, request) = (Arc::clone(store), make());
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                barrier.wait().await;
                store.claim(request).await
            })
        })
        .collect();
    let (mut claims, mut refused) = (Vec::new(), 0);
    for task in tasks {
        let outcome = task.await.expect("a task that claims does not panic");
        match outcome.expect("the store answers a claim") {
            ClaimOutcome::Claimed(claim) => claims.push(claim),
            ClaimOutcome::InProgress { .. } => refused += 1,
            other => panic!("a duplicate of a call in progress is answered {other:?}"),
        }
    }
    (claims, refused)
}

/// Neither two operations, nor keys that differ in case or in their last character, nor parts of
/// which one ends where the other begins.
pub async fn names_that_look_alike_do_not_meet(harness: impl Harness) {
    let store = harness.store();
    let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let long = "k".repeat(254);
    let names = [
        ("alice", "pay", "order"),
        ("alice", "refund", "order"),
        ("alice", "", "order"),
        ("", "pay", "order"),
        ("", "", "order"),
        ("alice", "pay", "Order"),
        ("Alice", "pay", "order"),
        ("alice", "Pay", "order"),
        ("alicep", "ay", "order"),
        ("alice", "payo", "rder"),
        ("alice", "pay", &format!("{long}1")),
        ("alice", "pay", &format!("{long}2")),
    ];
    for (principal, operation, text) in names {
        let scope = part(principal).map_or_else(Scope::global, |principal| {
            Scope::principal(&principal).expect("the suite's principals are valid")
        });
        let scope = part(operation).map_or(scope.clone(), |operation| {
            scope
                .operation(&operation)
                .expect("the suite's operations are valid")
        });
        let text = IdempotencyKey::parse(text).expect("the suite's keys are valid");
        // One that met another would find it in use.
        settle(&*store, &ScopedKey::new(scope, text), "paid").await;
    }
}
