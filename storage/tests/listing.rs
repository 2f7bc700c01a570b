//! A list takes a bounded time however much is open, and the figures say when a store has failed.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::inspect::{PAGE_RECORDS_MAX, PAGE_SEEN_MAX, SCOPES_SHOWN_MAX};
use onlyonce_storage::{
    Claim, ClaimOutcome, ClaimRequest, DoubtReason, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, Inspect, ListRequest, ManualClock, MemoryOptions, MemoryStore,
    OpenState, Scope, ScopedKey, StateView, Store,
};

/// Puts `count` calls in doubt, each of a principal of its own.
async fn doubts(count: usize) -> MemoryStore {
    let store = MemoryStore::new();
    for at in 0..count {
        let claim = claim(&store, at).await;
        let doubted = store.doubt(claim, DoubtReason::Ambiguous, None).await;
        doubted.unwrap();
    }
    store
}

async fn claim(store: &MemoryStore, at: usize) -> Claim {
    let scope = Scope::principal(&format!("tenant-{at}")).unwrap();
    let key = ScopedKey::new(scope, IdempotencyKey::parse("order-1").unwrap());
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let lease = Duration::from_secs(30);
    let request = ClaimRequest::new(key, Fingerprints::new(print), lease);
    match store.claim(request).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("a new key is claimed, and this one is {other:?}"),
    }
}

/// More than twice as many as one group puts in doubt.
const CROWD: usize = 600;

#[tokio::test]
async fn a_page_has_a_bound_whatever_is_asked_for() {
    let store = doubts(PAGE_RECORDS_MAX + 10).await;
    for records_max in [0, 1, PAGE_RECORDS_MAX, usize::MAX] {
        let mut request = ListRequest::new();
        request.records_max = records_max;
        let page = store.list(request).await.unwrap();
        let bound = records_max.clamp(1, PAGE_RECORDS_MAX);
        assert_eq!(page.records.len(), bound);
        assert!(page.next.is_some());
    }
}

#[tokio::test]
async fn a_filter_that_fits_nothing_looks_at_a_bounded_number_of_records_a_page() {
    let store = doubts(2 * PAGE_SEEN_MAX + 1).await;
    let mut request = ListRequest::new();
    request.principal = Some("nobody".to_owned());
    for _ in 0..2 {
        let page = store.list(request.clone()).await.unwrap();
        assert_eq!(page.records, []);
        assert!(page.next.is_some(), "more is to be looked at");
        request.after = page.next;
    }
    let page = store.list(request).await.unwrap();
    assert_eq!((page.records, page.next), (vec![], None));
}

#[tokio::test]
async fn what_is_in_progress_alone_does_not_go_through_the_doubts() {
    let store = doubts(2 * PAGE_SEEN_MAX).await;
    let mut request = ListRequest::new();
    request.state = Some(OpenState::InProgress);
    let page = store.list(request).await.unwrap();
    assert_eq!((page.records, page.next), (vec![], None));
}

/// A store writes the lapses of many leases down some at a time.
#[tokio::test]
async fn a_crowd_of_lapsed_leases_is_listed_as_in_doubt_before_all_are_written_down() {
    let clock = Arc::new(ManualClock::default());
    let store = MemoryStore::with_options(MemoryOptions::new().clock(clock.clone()));
    for at in 0..CROWD {
        std::mem::forget(claim(&store, at).await);
    }
    clock.advance(Duration::from_secs(31));
    let mut request = ListRequest::new();
    request.state = Some(OpenState::InDoubt);
    let mut seen = BTreeSet::new();
    loop {
        let page = store.list(request.clone()).await.unwrap();
        for view in page.records {
            assert!(matches!(view.state, StateView::InDoubt { .. }), "{view:?}");
            seen.insert(view.token);
        }
        request.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), CROWD);
}

#[tokio::test]
async fn the_figures_name_a_bounded_number_of_scopes_and_count_the_others() {
    let store = doubts(SCOPES_SHOWN_MAX + 15).await;
    let open = store.stats().await.unwrap().open;
    assert_eq!(open.most.len(), SCOPES_SHOWN_MAX);
    assert_eq!(open.scopes, SCOPES_SHOWN_MAX as u64 + 15);
    assert_eq!(open.in_doubt, SCOPES_SHOWN_MAX as u64 + 15);
}
