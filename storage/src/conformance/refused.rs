//! What a handler has written when it refuses is not committed, and its answer is.

use super::Harness;
use super::kit::{answer, completed, key};
use super::transactions::{ACCOUNTS, commit_as, got, value};
use crate::transaction::{TransactionError, VALUE_BYTES_MAX};

/// A definitive refusal is an answer without an effect; what it was decided by still counts.
pub async fn an_answer_whose_writes_were_discarded_has_no_effect(harness: impl Harness) {
    let store = harness.store();
    let key = key("order-1");
    commit_as(&*store, &key, "declined", async |transaction| {
        assert_eq!(got(transaction, "alice").await, None);
        transaction.put(&ACCOUNTS, b"alice", b"1").expect("it fits");
        transaction.discard_writes();
    })
    .await;
    assert_eq!(value(&*store, "alice").await, None);
    assert_eq!(completed(&*store, &key).await.answer, answer("declined"));
}

/// Nor does it have one where a handle was kept that still writes when the handler has answered.
pub async fn who_writes_after_writes_were_refused_changes_nothing(harness: impl Harness) {
    let store = harness.store();
    let key = key("order-1");
    commit_as(&*store, &key, "declined", async |transaction| {
        transaction.put(&ACCOUNTS, b"alice", b"1").expect("it fits");
        transaction.refuse_writes();
        let large = vec![0; VALUE_BYTES_MAX + 1];
        for late in [
            transaction.put(&ACCOUNTS, b"alice", b"2"),
            transaction.put(&ACCOUNTS, b"alice", &large),
            transaction.put(&ACCOUNTS, b"", b"2"),
            transaction.delete(&ACCOUNTS, b"bob"),
        ] {
            assert_eq!(late, Err(TransactionError::Ended));
        }
    })
    .await;
    assert_eq!(value(&*store, "alice").await, None);
    assert_eq!(completed(&*store, &key).await.answer, answer("declined"));
}
