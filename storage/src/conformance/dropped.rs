//! What a handler leaves unfinished in its transaction is not committed.

use super::Harness;
use super::kit::{LEASE, key};
use super::transactions::{ACCOUNTS, begin, commit, got, put, transactional, value};
use crate::transaction::TransactionError;

/// B19: a part of a handler that is dropped while it reads, as a `select!` does, has done half of what
/// it was to do; that the handler says that all is well does not commit it.
pub async fn a_run_that_drops_a_read_commits_nothing(harness: impl Harness) {
    let store = harness.store();
    put(&*store, "bob", "100").await;
    let key = key("order-1");
    let (mut claim, mut transaction) = begin(&*store, &key).await;
    let mut dropped = false;
    // A store may have answered before it is asked a second time.
    for _ in 0..READS_TRIED_MAX {
        let part = async {
            transaction
                .put(&ACCOUNTS, b"alice", b"90")
                .expect("it fits");
            transaction
                .get(&ACCOUNTS, b"bob")
                .await
                .expect("it is read");
            transaction.put(&ACCOUNTS, b"bob", b"110").expect("it fits");
        };
        dropped = poll_once(part).is_pending();
        if dropped {
            break;
        }
        transaction = transactional(&*store).start(&claim);
    }
    if !dropped {
        // It answers reads at once: there is no point at which one can be dropped.
        return;
    }
    let put = transaction.put(&ACCOUNTS, b"carol", b"1");
    assert_eq!(put, Err(TransactionError::ReadDropped));
    assert_eq!(transaction.end().err(), Some(TransactionError::ReadDropped));
    assert_eq!(value(&*store, "alice").await, None);
    // The claim holds: the handler may run again.
    let again = transactional(&*store).start(&claim);
    assert_eq!(got(&again, "bob").await.as_deref(), Some("100"));
    store
        .renew(&mut claim, LEASE)
        .await
        .expect("it still holds");
    commit(&*store, claim, &again, "nothing done")
        .await
        .expect("it has read all that it wanted");
    assert_eq!(value(&*store, "alice").await, None);
}

fn poll_once(future: impl Future<Output = ()>) -> std::task::Poll<()> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::pin!(future).poll(&mut context)
}

const READS_TRIED_MAX: usize = 100;
