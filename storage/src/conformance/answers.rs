//! Answers: byte for byte, or said to be lost.

use super::Harness;
use super::kit::{answer, bytes, claimed, completed, in_doubt, key, operator, peek};
use crate::{DoubtReason, KeyState, Resolution, SettleError, StoreError};

/// From nothing to a megabyte, around the size at which stores begin to cut, also after reopening.
pub async fn answers_come_back_byte_for_byte(mut harness: impl Harness) {
    let sizes = [
        0, 1, 3_999, 4_000, 4_001, 4_095, 4_096, 4_097, 8_000, 1_048_576,
    ];
    for size in sizes {
        let store = harness.store();
        let claim = claimed(&*store, &key(&size.to_string())).await;
        let settled = store.complete(claim, answer(bytes(size))).await;
        assert_eq!(settled, Ok(()), "{size} bytes");
    }
    for _ in 0..2 {
        let store = harness.store();
        for size in sizes {
            let replayed = completed(&*store, &key(&size.to_string())).await.answer;
            assert!(
                replayed == answer(bytes(size)),
                "{size} bytes: {replayed:?}"
            );
        }
        drop(store);
        if !harness.reopen().await {
            return;
        }
    }
}

/// The effect happened and its answer is not kept: nobody may be told anything else.
pub async fn a_too_large_answer_leaves_its_key_in_doubt(harness: impl Harness) {
    let store = harness.store();
    let key = key("huge");
    let claim = claimed(&*store, &key).await;
    let token = claim.token();
    let limit = super::limits().answer_bytes_max;
    let size = limit + 1;
    let settled = store.complete(claim, answer(bytes(size))).await;
    let too_large = StoreError::AnswerTooLarge { size, limit };
    assert_eq!(settled, Err(SettleError::Store(too_large)));
    let doubt = in_doubt(&*store, &key).await;
    assert_eq!(
        (doubt.token, doubt.reason),
        (token, DoubtReason::Unrecorded)
    );
    assert_eq!(doubt.answer, None);
}

/// The doubt matters more than what was answered.
pub async fn a_doubt_is_written_also_where_its_answer_is_too_large(harness: impl Harness) {
    let store = harness.store();
    let key = key("huge");
    let claim = claimed(&*store, &key).await;
    let huge = Some(answer(bytes(super::limits().answer_bytes_max + 1)));
    let doubted = store.doubt(claim, DoubtReason::Ambiguous, huge).await;
    assert!(
        matches!(
            &doubted,
            Err(SettleError::Store(StoreError::AnswerTooLarge { .. }))
        ),
        "{doubted:?}"
    );
    assert_eq!(in_doubt(&*store, &key).await.reason, DoubtReason::Ambiguous);
}

/// A resolution that cannot be kept does not end the doubt.
pub async fn a_too_large_resolution_changes_nothing(harness: impl Harness) {
    let store = harness.store();
    let key = key("huge");
    let claim = claimed(&*store, &key).await;
    let token = claim.token();
    let doubted = store.doubt(claim, DoubtReason::Ambiguous, None).await;
    assert_eq!(doubted, Ok(()));
    let before = peek(&*store, &key).await;
    assert!(matches!(before, KeyState::InDoubt(_)), "{before:?}");
    let huge = Resolution::Applied(answer(bytes(super::limits().answer_bytes_max + 1)));
    let resolved = store.resolve(key.clone(), token, huge, operator()).await;
    assert!(
        matches!(
            &resolved,
            Err(SettleError::Store(StoreError::AnswerTooLarge { .. }))
        ),
        "{resolved:?}"
    );
    assert_eq!(peek(&*store, &key).await, before);
}
