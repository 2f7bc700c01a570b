//! The end of a store.

use std::time::Duration;

use super::{answer, claimed, key, request};
use crate::sled::{SledOptions, SledStore};
use crate::transaction::{Table, TransactionalStore as _};
use crate::{ClaimOutcome, SettleError, Store as _, StoreError};

#[tokio::test]
async fn dropping_the_last_handle_frees_the_directory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    // On a thread without a runtime, where the drop waits.
    let reopened = tokio::task::spawn_blocking(|| {
        std::thread::spawn(move || {
            let id = SledStore::open(&path, SledOptions::new()).unwrap().id();
            let again = SledStore::open(&path, SledOptions::new()).unwrap();
            assert_eq!(again.id(), id);
        })
        .join()
    });
    reopened.await.unwrap().unwrap();
}

/// sled's file is free as soon as nothing of it is held, and a handlers' table is something of it.
#[tokio::test]
async fn a_store_with_tables_closes_without_waiting_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..3 {
        let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
        let key = key(&number.to_string());
        let ClaimOutcome::Claimed(claim) = store.begin(request(&key)).await.unwrap() else {
            panic!("a new key is free");
        };
        let transaction = store.start(&claim);
        transaction.put(&TABLE, b"row", b"value").unwrap();
        let work = transaction.end().unwrap();
        store.commit(claim, work, answer(b"done")).await.unwrap();
        let began = tokio::time::Instant::now();
        store.close().await.unwrap();
        // Five seconds are what it waits at most for somebody else's handle.
        assert!(began.elapsed() < Duration::from_secs(4), "{number}");
    }
}

#[tokio::test]
async fn a_closed_store_says_that_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    let claim = claimed(&store, &key("open")).await;
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(store.peek(key("open")).await, Err(StoreError::Closed));
    let late = store.complete(claim, answer(b"paid")).await;
    assert_eq!(late, Err(SettleError::Store(StoreError::Closed)));
}

const TABLE: Table = Table::new("table");
