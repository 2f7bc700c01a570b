//! Quotas: refused before the effect, and only whoever is over.

use super::kit::{LEASE, ask, claimed, given, key, key_of, peek, request};
use super::{Harness, IN_DOUBT_MAX, IN_PROGRESS_MAX};
use crate::{ClaimOutcome, DoubtReason, KeyState};

/// E10: one more than allowed is refused before its effect, leaves no trace and evicts nobody;
/// others go on, and room is made by spending a claim.
pub async fn a_scope_with_too_much_in_progress_is_refused(harness: impl Harness) {
    let store = harness.store();
    let mut claims = Vec::new();
    for number in 0..IN_PROGRESS_MAX {
        claims.push(claimed(&*store, &key(&number.to_string())).await);
    }
    let over = key("over");
    let outcome = ask(&*store, request(&over)).await;
    assert!(matches!(outcome, ClaimOutcome::OverQuota), "{outcome:?}");
    assert_eq!(peek(&*store, &over).await, KeyState::Absent);
    // A duplicate is answered, whatever the quota.
    for number in 0..IN_PROGRESS_MAX {
        let outcome = ask(&*store, request(&key(&number.to_string()))).await;
        let there = matches!(outcome, ClaimOutcome::InProgress { .. });
        assert!(there, "{number}: {outcome:?}");
    }
    let other = given(ask(&*store, request(&key_of("bob", "over"))).await);
    assert_eq!(store.release(other).await, Ok(()));
    let spent = claims.pop().expect("some were given");
    assert_eq!(store.release(spent).await, Ok(()));
    claims.push(given(ask(&*store, request(&over)).await));
    for claim in claims {
        assert_eq!(store.release(claim).await, Ok(()));
    }
}

/// E10: doubts count on their own, also those of leases that lapsed without anybody asking.
pub async fn a_scope_with_too_much_in_doubt_is_refused(harness: impl Harness) {
    let store = harness.store();
    let mut lapsing = Vec::new();
    for number in 0..IN_DOUBT_MAX {
        let claim = claimed(&*store, &key(&number.to_string())).await;
        if number % 2 == 0 {
            let doubted = store.doubt(claim, DoubtReason::Ambiguous, None).await;
            assert_eq!(doubted, Ok(()));
        } else {
            lapsing.push(claim);
        }
    }
    harness.clock().advance(LEASE);
    let over = key("over");
    let outcome = ask(&*store, request(&over)).await;
    assert!(matches!(outcome, ClaimOutcome::OverQuota), "{outcome:?}");
    assert_eq!(peek(&*store, &over).await, KeyState::Absent);
    drop(given(ask(&*store, request(&key_of("bob", "over"))).await));
    let known = lapsing.pop().expect("some lapsed");
    assert_eq!(store.release(known).await, Ok(()));
    drop(given(ask(&*store, request(&over)).await));
}

/// E10: a restart is no way around a quota.
pub async fn quotas_count_what_an_earlier_opening_left(mut harness: impl Harness) {
    let store = harness.store();
    for number in 0..IN_DOUBT_MAX {
        // A crash does not drop its guards.
        std::mem::forget(claimed(&*store, &key(&number.to_string())).await);
    }
    drop(store);
    if !harness.reopen().await {
        return;
    }
    if harness.is_shared() {
        harness.clock().advance(LEASE);
    }
    let outcome = ask(&*harness.store(), request(&key("over"))).await;
    assert!(matches!(outcome, ClaimOutcome::OverQuota), "{outcome:?}");
}
