//! Calls on a store, and what became of them.

use std::path::Path;
use std::time::Duration;

use onlyonce_storage::sled::{OpenError, SledOptions, SledStore};
use onlyonce_storage::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, DoubtReason, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, Inspect as _, ListRequest, Scope,
    ScopedKey, SettleError, Store as _, StoreError,
};

pub fn key(name: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(name).unwrap())
}

pub fn request(name: &str) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    ClaimRequest::new(
        key(name),
        Fingerprints::new(print),
        Duration::from_secs(3_600),
    )
}

/// An answer that no other call has.
pub fn answer(name: &str, length: usize) -> Answer {
    let mut body = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes());
    hasher.finalize_xof().fill(&mut body);
    Answer::new(AnswerFormat::new(1), body)
}

pub fn open(path: &Path) -> Result<SledStore, OpenError> {
    SledStore::open(path, SledOptions::new())
}

pub async fn claim(store: &SledStore, name: &str) -> Result<Claim, StoreError> {
    match store.claim(request(name)).await? {
        ClaimOutcome::Claimed(claim) => Ok(claim),
        other => panic!("{name} is new and its claim was answered {other:?}"),
    }
}

/// The reason for which a settling failed: the store was poisoned by it.
pub fn poison(failed: &Result<(), SettleError>) -> String {
    match failed {
        Err(SettleError::Store(StoreError::Poisoned(reason))) => reason.clone(),
        other => panic!("{other:?}"),
    }
}

/// It answers everything with the one error that says why, and nothing else.
pub async fn acknowledges_nothing_more(store: &SledStore, reason: &str) {
    let poisoned = StoreError::Poisoned(reason.to_owned());
    for _ in 0..3 {
        let claimed = claim(store, "another").await;
        assert_eq!(claimed.unwrap_err(), poisoned);
        assert_eq!(store.peek(key("another")).await, Err(poisoned.clone()));
        assert_eq!(store.seal(key("another")).await, Err(poisoned.clone()));
        assert_eq!(store.sweep().await, Err(poisoned.clone()));
        let listed = store.list(ListRequest::new()).await;
        assert_eq!(listed, Err(poisoned.clone()));
        // But of its own state it tells: whoever looks for the cause has nothing else to ask.
        let stats = store.stats().await.unwrap();
        assert_eq!(stats.poisoned.as_deref(), Some(reason));
    }
    assert_eq!(store.close().await, Err(poisoned), "closing says so");
}

/// `name` was completed with its answer, and cannot be executed again.
pub async fn is_completed(store: &SledStore, name: &str, length: usize) {
    match store.claim(request(name)).await.unwrap() {
        ClaimOutcome::Completed(found) => {
            assert!(
                found.answer == answer(name, length),
                "{name} has another answer"
            );
        }
        other => panic!("{name} was completed and is {other:?}"),
    }
}

/// `name` was claimed and its owner is gone, and it cannot be executed again.
pub async fn is_in_doubt(store: &SledStore, name: &str) {
    match store.claim(request(name)).await.unwrap() {
        ClaimOutcome::InDoubt(found) => assert_eq!(found.reason, DoubtReason::OwnerGone),
        other => panic!("{name} was claimed and is {other:?}"),
    }
}
