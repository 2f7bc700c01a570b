//! The journals of a store that keeps them in memory are bounded together, and a full store empties itself.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Duration;

use bytes::Bytes;
use onlyonce_storage::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, DoubtReason, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, Inspect, Journal, MemoryOptions,
    MemoryStore, Operator, Resolution, Scope, ScopedKey, StepName, StepNote, Store, StoreError,
    StoreLimits,
};

const ROOM: usize = 1_000;

fn full_at_1000_bytes() -> MemoryStore {
    let limits = StoreLimits::default().journals_bytes_max(ROOM);
    MemoryStore::with_options(MemoryOptions::default().limits(limits))
}

fn key(name: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(name).unwrap())
}

fn request(name: &str, bytes: usize) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let lease = Duration::from_secs(30);
    let mut request = ClaimRequest::new(key(name), Fingerprints::new(print), lease);
    request.journal = Some(Bytes::from(vec![7; bytes]));
    request
}

async fn claimed(store: &MemoryStore, request: ClaimRequest) -> Claim {
    match store.claim(request).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

async fn note(store: &MemoryStore, claim: &Claim, step: &str, bytes: usize) {
    let result = Bytes::from(vec![7; bytes]);
    for note in [
        StepNote::begun(StepName::parse(step).unwrap()),
        StepNote::done(StepName::parse(step).unwrap(), result),
    ] {
        let noted = store.note(claim.digest(), claim.token(), note).await;
        assert_eq!(noted, Ok(()), "{step}");
    }
}

/// That a new call with a journal is refused for want of room.
async fn is_full(store: &MemoryStore) {
    let refused = store.claim(request("one-more", 1)).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable { reason, .. }) if reason.contains("1000 bytes")),
        "{refused:?}"
    );
}

// E10: what stands still holds all the room, and only by going on does it give it back.
#[tokio::test]
async fn a_store_whose_room_for_journals_is_full_goes_on_with_the_calls_that_are_there() {
    let store = full_at_1000_bytes();
    let mut standing_still = Vec::new();
    for name in ["a", "b"] {
        let claim = claimed(&store, request(name, ROOM / 2)).await;
        standing_still.push((name, claim.token()));
        let doubted = store.doubt(claim, DoubtReason::OwnerGone, None).await;
        assert_eq!(doubted, Ok(()));
    }
    is_full(&store).await;

    // Those that are there note their steps, beyond the bound.
    for (name, token) in standing_still {
        let mut again = request(name, ROOM / 2);
        again.rerun_of = Some(token);
        let claim = claimed(&store, again).await;
        note(&store, &claim, "reserve", 300).await;
        note(&store, &claim, "charge", 300).await;
        is_full(&store).await;
        let answer = Answer::new(AnswerFormat::new(1), &b"paid"[..]);
        assert_eq!(store.complete(claim, answer).await, Ok(()), "{name}");
    }
    drop(claimed(&store, request("one-more", 1)).await);
}

// E10
#[tokio::test]
async fn a_call_that_an_operator_ends_gives_back_the_room_of_its_journal() {
    let store = full_at_1000_bytes();
    let claim = claimed(&store, request("a", ROOM)).await;
    let token = claim.token();
    note(&store, &claim, "reserve", 300).await;
    let doubted = store.doubt(claim, DoubtReason::Ambiguous, None).await;
    assert_eq!(doubted, Ok(()));
    is_full(&store).await;
    let by = Operator::parse("carol").unwrap();
    let resolved = store.resolve(key("a"), token, Resolution::NotApplied, by);
    assert_eq!(resolved.await, Ok(()));
    drop(claimed(&store, request("one-more", 1)).await);
}

// Who keeps no journal needs no room for one.
#[tokio::test]
async fn a_call_without_a_journal_is_claimed_where_the_room_for_journals_is_full() {
    let store = full_at_1000_bytes();
    let _held = claimed(&store, request("a", ROOM)).await;
    is_full(&store).await;
    let mut without = request("b", 0);
    without.journal = None;
    drop(claimed(&store, without).await);
}
