//! The end of a store.

use super::{answer, claimed, key};
use crate::sled::{SledOptions, SledStore};
use crate::{SettleError, Store as _, StoreError};

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
