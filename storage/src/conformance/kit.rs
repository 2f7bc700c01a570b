//! What the claims of the suite are told with.

use std::time::Duration;

use crate::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, Completion, Fingerprint,
    FingerprintAlgorithm, Fingerprints, IdempotencyKey, InDoubt, Inspect, KeyState, Operator,
    Scope, ScopedKey,
};

pub(super) const LEASE: Duration = Duration::from_secs(30);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn key(text: &str) -> ScopedKey {
    key_of("alice", text)
}

pub(super) fn key_of(principal: &str, text: &str) -> ScopedKey {
    let scope = Scope::principal(principal).expect("the suite's principals are valid");
    let key = IdempotencyKey::parse(text).expect("the suite's keys are valid");
    ScopedKey::new(scope, key)
}

/// The request that the suite sends under every key, unless it says otherwise.
pub(super) fn request(key: &ScopedKey) -> ClaimRequest {
    request_of(key, "transfer 100")
}

pub(super) fn request_of(key: &ScopedKey, body: &str) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1))
        .field("body", body.as_bytes())
        .finish();
    ClaimRequest::new(key.clone(), Fingerprints::new(print), LEASE)
}

pub(super) fn answer(body: impl Into<bytes::Bytes>) -> Answer {
    Answer::new(AnswerFormat::new(7), body)
}

/// Who resolves in the suite.
pub(super) fn operator() -> Operator {
    operator_named("suite")
}

pub(super) fn operator_named(name: &str) -> Operator {
    Operator::parse(name).expect("the suite's operators are valid")
}

/// `length` bytes that do not repeat after a round number.
pub(super) fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

pub(super) async fn ask(store: &dyn Inspect, request: ClaimRequest) -> ClaimOutcome {
    let outcome = store.claim(request).await;
    outcome.expect("the store answers a claim")
}

pub(super) async fn claimed(store: &dyn Inspect, key: &ScopedKey) -> Claim {
    given(ask(store, request(key)).await)
}

pub(super) fn given(outcome: ClaimOutcome) -> Claim {
    match outcome {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("the claim should be given, and is answered {other:?}"),
    }
}

pub(super) async fn completed(store: &dyn Inspect, key: &ScopedKey) -> Completion {
    match ask(store, request(key)).await {
        ClaimOutcome::Completed(completion) => completion,
        other => panic!("the answer should be replayed, and the claim is answered {other:?}"),
    }
}

pub(super) async fn in_doubt(store: &dyn Inspect, key: &ScopedKey) -> InDoubt {
    match ask(store, request(key)).await {
        ClaimOutcome::InDoubt(doubt) => doubt,
        other => panic!("the key should be in doubt, and the claim is answered {other:?}"),
    }
}

/// Claims a key and completes it with `body`.
pub(super) async fn settle(store: &dyn Inspect, key: &ScopedKey, body: &str) {
    let claim = claimed(store, key).await;
    let settled = store.complete(claim, answer(body.to_owned())).await;
    settled.expect("the owner completes");
}

pub(super) async fn peek(store: &dyn Inspect, key: &ScopedKey) -> KeyState {
    let state = store.peek(key.clone()).await;
    state.expect("the store answers a peek")
}

pub(super) async fn seal(store: &dyn Inspect, key: &ScopedKey) -> KeyState {
    let state = store.seal(key.clone()).await;
    state.expect("the store answers a seal")
}

pub(super) async fn sweep(store: &dyn Inspect) {
    // The suite lets more time pass between two openings than a store trusts a clock with.
    store.confirm_clock().await.expect("the store believes");
    let swept = store.sweep().await.expect("the store sweeps");
    assert_eq!(swept.paused, None, "the clock was confirmed");
}

/// Waits until a key that was abandoned is in doubt: a store may need a moment for it. Says
/// whether it came to that; the owner's claim must never be given to somebody else meanwhile.
pub(super) async fn gets_in_doubt(store: &dyn Inspect, key: &ScopedKey) -> bool {
    for peeks in 0..PEEKS_MAX {
        match peek(store, key).await {
            KeyState::InDoubt(_) => return true,
            KeyState::Absent | KeyState::InProgress { .. } if peeks < PEEKS_AT_ONCE => {
                tokio::task::yield_now().await;
            }
            // One that has to reach its database first.
            KeyState::Absent | KeyState::InProgress { .. } => tokio::time::sleep(PAUSE).await,
            other => panic!("an abandoned key is {other:?}"),
        }
    }
    false
}

/// Each asks the store once; an embedded one needs one or two.
const PEEKS_MAX: usize = 3_000;
const PEEKS_AT_ONCE: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(1);
