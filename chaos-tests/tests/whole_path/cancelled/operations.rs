//! Operations of a store.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use onlyonce::middleware::server::Keys;
use onlyonce::storage::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, Completion, DoubtReason, Fingerprint,
    FingerprintAlgorithm, Fingerprints, InDoubt, KeyState, Scope, ScopedKey, Store, StoreLimits,
};
use onlyonce::storage::{SledOptions, SledStore};
use onlyonce_chaos::cancel::{CancelAt, Ended};

use super::{on_every_store_that_waits, settled};
use crate::shop::key;

on_every_store_that_waits![
    a_cancelled_claim_leaves_the_key_absent_or_in_doubt,
    // B14
    a_cancelled_completion_is_recorded_or_in_doubt,
    a_cancelled_release_frees_the_key_or_leaves_it_in_doubt,
    a_cancelled_doubt_is_a_doubt,
    // B11
    a_cancelled_renewal_leaves_the_claim_to_its_holder,
    a_cancelled_peek_changes_nothing,
    a_cancelled_seal_sealed_the_key_or_did_not,
    a_cancelled_wait_for_a_key_leaves_it_to_its_owner,
];

async fn a_cancelled_claim_leaves_the_key_absent_or_in_doubt(store: Arc<dyn Store>) {
    let cancelled = CancelAt::sweep(async |cancel| {
        let key = key_of(cancel);
        let ended = match cancel.run(store.claim(request(&key))).await {
            Ended::Cancelled => Ended::Cancelled,
            Ended::Completed(outcome) => {
                assert!(
                    matches!(outcome, Ok(ClaimOutcome::Claimed(_))),
                    "{outcome:?}"
                );
                // Dropped here, unspent.
                Ended::Completed(())
            }
        };
        match settled(&*store, &key).await {
            KeyState::Absent => assert_eq!(ended, Ended::Cancelled),
            KeyState::InDoubt(doubt) => assert_eq!(doubt.reason, DoubtReason::OwnerGone),
            other => panic!("{cancel:?}: {other:?}"),
        }
        is_claimed_where_absent(&*store, &key).await;
        ended
    })
    .await;
    assert!(cancelled > 0);
}

async fn a_cancelled_completion_is_recorded_or_in_doubt(store: Arc<dyn Store>) {
    CancelAt::sweep(async |cancel| {
        let key = key_of(cancel);
        let claim = claimed(&*store, &key).await;
        let ended = cancel.run(store.complete(claim, answer())).await;
        match settled(&*store, &key).await {
            KeyState::Completed(Completion { answer: kept, .. }) => assert!(kept == answer()),
            KeyState::InDoubt(doubt) => {
                assert_eq!(doubt.reason, DoubtReason::OwnerGone);
                assert!(!matches!(ended, Ended::Completed(Ok(()))), "{cancel:?}");
            }
            other => panic!("{cancel:?}: {other:?}"),
        }
        is_claimed_where_absent(&*store, &key).await;
        ended
    })
    .await;
}

async fn a_cancelled_release_frees_the_key_or_leaves_it_in_doubt(store: Arc<dyn Store>) {
    CancelAt::sweep(async |cancel| {
        let key = key_of(cancel);
        let claim = claimed(&*store, &key).await;
        let ended = cancel.run(store.release(claim)).await;
        match settled(&*store, &key).await {
            KeyState::Absent => {}
            KeyState::InDoubt(doubt) => {
                assert_eq!(doubt.reason, DoubtReason::OwnerGone);
                assert!(!matches!(ended, Ended::Completed(Ok(()))), "{cancel:?}");
            }
            other => panic!("{cancel:?}: {other:?}"),
        }
        is_claimed_where_absent(&*store, &key).await;
        ended
    })
    .await;
}

async fn a_cancelled_doubt_is_a_doubt(store: Arc<dyn Store>) {
    CancelAt::sweep(async |cancel| {
        let key = key_of(cancel);
        let claim = claimed(&*store, &key).await;
        let doubt = store.doubt(claim, DoubtReason::Ambiguous, Some(answer()));
        let ended = cancel.run(doubt).await;
        let KeyState::InDoubt(InDoubt {
            reason,
            answer: kept,
            ..
        }) = settled(&*store, &key).await
        else {
            panic!("{cancel:?}: not in doubt");
        };
        // With all that was said of it, or as a claim that was dropped.
        match reason {
            DoubtReason::Ambiguous => assert!(kept == Some(answer())),
            DoubtReason::OwnerGone => {
                assert!(kept.is_none());
                assert!(!matches!(ended, Ended::Completed(Ok(()))), "{cancel:?}");
            }
            other => panic!("{cancel:?}: {other:?}"),
        }
        is_claimed_where_absent(&*store, &key).await;
        ended
    })
    .await;
}

async fn a_cancelled_renewal_leaves_the_claim_to_its_holder(store: Arc<dyn Store>) {
    CancelAt::sweep(async |cancel| {
        let key = key_of(cancel);
        let mut claim = claimed(&*store, &key).await;
        let ended = cancel.run(store.renew(&mut claim, LEASE * 2)).await;
        let state = store.peek(key.clone()).await.unwrap();
        assert!(
            matches!(state, KeyState::InProgress { .. }),
            "{cancel:?}: {state:?}"
        );
        store.complete(claim, answer()).await.unwrap();
        is_claimed_where_absent(&*store, &key).await;
        ended
    })
    .await;
}

async fn a_cancelled_peek_changes_nothing(store: Arc<dyn Store>) {
    CancelAt::sweep(async |cancel| {
        let key = key_of(cancel);
        let ended = cancel.run(store.peek(key.clone())).await;
        let claim = claimed(&*store, &key).await;
        let ended = match ended {
            Ended::Cancelled => ended,
            Ended::Completed(_) => cancel.run(store.peek(key.clone())).await,
        };
        store.complete(claim, answer()).await.unwrap();
        ended
    })
    .await;
}

async fn a_cancelled_seal_sealed_the_key_or_did_not(store: Arc<dyn Store>) {
    CancelAt::sweep(async |cancel| {
        let key = key_of(cancel);
        let ended = cancel.run(store.seal(key.clone())).await;
        match settled(&*store, &key).await {
            KeyState::Absent => assert_eq!(ended, Ended::Cancelled),
            KeyState::Sealed { .. } => {}
            other => panic!("{cancel:?}: {other:?}"),
        }
        is_claimed_where_absent(&*store, &key).await;
        ended
    })
    .await;
}

async fn a_cancelled_wait_for_a_key_leaves_it_to_its_owner(store: Arc<dyn Store>) {
    let keys = Keys::new(Arc::clone(&store));
    tokio::time::pause();
    CancelAt::sweep(async |cancel| {
        let key = key_of(cancel);
        let claim = claimed(&*store, &key).await;
        // Three looks and the waits between them.
        let wait = keys.resume(key.clone(), Duration::from_millis(250));
        let ended = cancel.run(wait).await;
        store.complete(claim, answer()).await.unwrap();
        let state = keys.resume(key, Duration::ZERO).await.unwrap();
        assert!(matches!(state, KeyState::Completed(_)), "{state:?}");
        ended
    })
    .await;
}

// A caller that gives up while it waits for a place in the queue of the writer has spent nothing.
#[tokio::test]
async fn a_completion_that_is_cancelled_before_a_full_queue_is_recorded_or_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let limits = StoreLimits::default().in_progress_max(usize::MAX);
    let options = SledOptions::new().limits(limits);
    let store = SledStore::open_async(folder.path().join("store"), options).await;
    let store = store.unwrap();
    let mut doubts = 0;
    let cancelled = CancelAt::sweep(async |cancel| {
        let key = key_of(cancel);
        let claim = claimed(&store, &key).await;
        // Each has to be made durable, so that the queue is full before they are.
        let mut crowd: Vec<_> = (0..QUEUED)
            .map(|number| store.seal(sealed(cancel, number)))
            .collect();
        // Few are made before the others are asked for.
        crowd.retain_mut(|seal| seal.now_or_never().is_none());
        // Behind the crowd, which goes on: a place that is given to one who does not take it would
        // hold up all who come after.
        let completion = cancel.run(store.complete(claim, answer()));
        let (ended, _) = tokio::join!(completion, join_all(crowd));
        match settled(&store, &key).await {
            KeyState::Completed(_) => {}
            KeyState::InDoubt(_) => doubts += 1,
            other => panic!("{cancel:?}: {other:?}"),
        }
        is_claimed_where_absent(&store, &key).await;
        ended
    })
    .await;
    // One before its first poll, and at least one in front of the queue.
    assert!(doubts >= 2 && cancelled >= 3, "{doubts} of {cancelled}");
    store.close().await.unwrap();
}

/// Whoever asks next executes only where nobody has before, and is told the same otherwise.
pub async fn is_claimed_where_absent(store: &dyn Store, key: &ScopedKey) {
    let state = store.peek(key.clone()).await.unwrap();
    let outcome = store.claim(request(key)).await.unwrap();
    match (state, outcome) {
        (KeyState::Absent, ClaimOutcome::Claimed(claim)) => {
            store.complete(claim, answer()).await.unwrap();
        }
        (KeyState::Completed(known), ClaimOutcome::Completed(told)) => assert!(known == told),
        (KeyState::InDoubt(known), ClaimOutcome::InDoubt(told)) => assert!(known == told),
        (KeyState::Sealed { .. }, ClaimOutcome::Stale) => {}
        (state, outcome) => panic!("{state:?}, then {outcome:?}"),
    }
}

pub async fn claimed(store: &dyn Store, key: &ScopedKey) -> Claim {
    match store.claim(request(key)).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("a new key is {other:?}"),
    }
}

fn request(key: &ScopedKey) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    ClaimRequest::new(key.clone(), Fingerprints::new(print), LEASE)
}

pub fn key_of(cancel: CancelAt) -> ScopedKey {
    ScopedKey::new(Scope::global(), key(&format!("k-{}", cancel.suspension())))
}

fn sealed(cancel: CancelAt, number: usize) -> ScopedKey {
    let name = format!("s-{}-{number}", cancel.suspension());
    ScopedKey::new(Scope::global(), key(&name))
}

pub fn answer() -> Answer {
    Answer::new(AnswerFormat::new(1), "paid")
}

/// So long that no lapse helps a claim that somebody forgot.
const LEASE: Duration = Duration::from_secs(3_600);

/// What the queue holds, and two groups that may be out of it.
const QUEUED: usize = 1_024 + 2 * 256;
