//! A step of a group fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::faulty::Step;
use super::{answer, claimed, is_poisoned, key, open, request};
use crate::sled::{SledOptions, SledStore};
use crate::{Inspect as _, KeyState, SettleError, Store as _, StoreError};

/// What was asked while the sync that fails was under way: it would tell what is not durable.
#[tokio::test]
async fn nobody_is_told_of_an_answer_whose_sync_fails() {
    let folder = tempfile::tempdir().unwrap();
    let (store, script) = open(folder.path(), &SledOptions::new());
    let claim = claimed(&store, &key("lost")).await;
    script.slow.store(true, Ordering::SeqCst);
    *script.fails_in.lock() = Some(Step::LateSync);
    let syncs = script.syncs.load(Ordering::SeqCst);
    let completing = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.complete(claim, answer(b"paid")).await }
    });
    while script.syncs.load(Ordering::SeqCst) == syncs {
        tokio::task::yield_now().await;
    }
    let peeked = store.peek(key("lost")).await;
    assert!(is_poisoned(&peeked), "{peeked:?}");
    assert!(is_poisoned(&store.claim(request(&key("lost"))).await));
    assert!(completing.await.unwrap().is_err());
}

#[tokio::test]
async fn the_first_failure_poisons_and_reopening_finds_what_was_acknowledged() {
    let steps = [
        Step::Apply,
        Step::Flush,
        Step::HandOver,
        Step::Panic,
        Step::Sync,
    ];
    for step in steps {
        let folder = tempfile::tempdir().unwrap();
        let (store, script) = open(folder.path(), &SledOptions::new());
        let claim = claimed(&store, &key("acknowledged")).await;
        store.complete(claim, answer(b"paid")).await.unwrap();
        let pending = claimed(&store, &key("pending")).await;

        *script.fails_in.lock() = Some(step);
        let failed = store.complete(pending, answer(b"lost")).await;
        let poisoned = matches!(failed, Err(SettleError::Store(StoreError::Poisoned(_))));
        assert!(poisoned, "{step:?}: {failed:?}");
        // The next sync would succeed, and what the failed one lost would be gone for good.
        assert!(is_poisoned(&store.claim(request(&key("next"))).await));
        assert!(is_poisoned(&store.peek(key("acknowledged")).await));
        assert!(is_poisoned(&store.seal(key("other")).await));
        assert!(is_poisoned(&store.sweep().await));
        assert!(is_poisoned(&store.close().await), "closing says so");

        let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
        let state = store.peek(key("acknowledged")).await.unwrap();
        assert!(matches!(state, KeyState::Completed(_)), "{state:?}");
        // It was told neither that it is recorded nor that it is not: both may be found.
        let state = store.peek(key("pending")).await.unwrap();
        let either = matches!(state, KeyState::Completed(_) | KeyState::InDoubt(_));
        assert!(either, "{step:?}: {state:?}");
        assert_eq!(store.peek(key("next")).await, Ok(KeyState::Absent));
        store.close().await.unwrap();
    }
}
