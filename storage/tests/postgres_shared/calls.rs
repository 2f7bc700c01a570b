//! What the tests call with.

use std::time::Duration;

use onlyonce_storage::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, Scope, ScopedKey, Store,
};

pub const LEASE: Duration = Duration::from_secs(30);

pub fn key(text: &str) -> ScopedKey {
    let key = IdempotencyKey::parse(text).unwrap();
    ScopedKey::new(Scope::principal("alice").unwrap(), key)
}

pub fn request(key: &ScopedKey) -> ClaimRequest {
    leased(key, LEASE)
}

pub fn leased(key: &ScopedKey, lease: Duration) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1))
        .field("body", b"transfer 100")
        .finish();
    ClaimRequest::new(key.clone(), Fingerprints::new(print), lease)
}

pub fn answer(body: impl Into<bytes::Bytes>) -> Answer {
    Answer::new(AnswerFormat::new(7), body)
}

pub fn given(outcome: ClaimOutcome) -> Claim {
    match outcome {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("the claim should be given, and is answered {other:?}"),
    }
}

/// The answer that a call under this key has, which is not executed here.
pub async fn replayed(store: &dyn Store, key: &ScopedKey) -> Answer {
    match store.claim(request(key)).await.unwrap() {
        ClaimOutcome::Completed(completion) => completion.answer,
        other => panic!("the answer should be replayed, and the claim is answered {other:?}"),
    }
}

/// Runs a test that needs a runtime.
pub fn run(test: impl Future<Output = ()>) {
    onlyonce_storage::conformance::run(test);
}
