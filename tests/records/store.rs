//! A store with something in it, as a server that died has left it.

use std::path::Path;
use std::time::Duration;

use onlyonce::storage::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, DoubtReason, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, Scope, ScopedKey, SledOptions, SledStore,
    Store,
};

/// Of alice: `done` is answered, `doubted` in doubt with an answer kept, `lost` was in progress.
/// Of a principal with a name that would move a cursor: `odd` is in doubt.
pub async fn make(folder: &Path) {
    let store = open(folder).await;
    let claim = claimed(&store, &key("alice", "done")).await;
    store.complete(claim, answer("paid")).await.unwrap();
    let claim = claimed(&store, &key("alice", "doubted")).await;
    let kept = Some(answer("a 500 with secrets"));
    let doubted = store.doubt(claim, DoubtReason::Ambiguous, kept).await;
    doubted.unwrap();
    let claim = claimed(&store, &key(ODD, "odd")).await;
    let doubted = store.doubt(claim, DoubtReason::Unrecorded, None).await;
    doubted.unwrap();
    // A crash does not drop its guards.
    std::mem::forget(claimed(&store, &key("alice", "lost")).await);
    store.close().await.unwrap();
}

pub async fn open(folder: &Path) -> SledStore {
    let path = folder.join("store");
    SledStore::open_async(path, SledOptions::new())
        .await
        .unwrap()
}

pub async fn claimed(store: &dyn Store, key: &ScopedKey) -> Claim {
    match store.claim(request(key)).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

pub fn request(key: &ScopedKey) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let lease = Duration::from_secs(600);
    ClaimRequest::new(key.clone(), Fingerprints::new(print), lease)
}

pub fn key(principal: &str, key: &str) -> ScopedKey {
    let scope = Scope::principal(principal).unwrap();
    ScopedKey::new(scope, IdempotencyKey::parse(key).unwrap())
}

pub fn answer(body: &'static str) -> Answer {
    Answer::new(AnswerFormat::new(1), body)
}

pub const ODD: &str = "mallory\u{1b}[2J\n\u{202e}root";
