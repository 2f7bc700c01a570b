//! A step of a group fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::faulty::Step;
use super::{answer, claimed, is_poisoned, key, open, page_files, raw, request, turn};
use crate::sled::{OpenError, SledOptions, SledStore};
use crate::{ClaimOutcome, Inspect as _, KeyState, SettleError, Store as _, StoreError};

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
        Step::HandOver,
        Step::LateSync,
        Step::Panic,
        Step::Sync,
        Step::Write,
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

/// What a failed group has left is not carried on by the closing: it must be there for whoever
/// opens the store again as the failure has left it.
#[tokio::test]
async fn a_closing_after_a_failed_group_writes_nothing_more() {
    for step in [Step::Write, Step::Sync, Step::LateSync, Step::HandOver] {
        let folder = tempfile::tempdir().unwrap();
        let (store, script) = open(folder.path(), &SledOptions::new());
        let claim = claimed(&store, &key("acknowledged")).await;
        store.complete(claim, answer(b"paid")).await.unwrap();
        let pending = claimed(&store, &key("pending")).await;
        let before = log_files(folder.path());
        *script.fails_in.lock() = Some(step);
        assert!(store.complete(pending, answer(b"lost")).await.is_err());
        // Nobody can be told that it is in doubt, either: that would be one more write.
        assert!(is_poisoned(&store.close().await));
        let after = log_files(folder.path());
        // Nor a turn that begins over what is needed.
        let is_written = matches!(step, Step::Sync | Step::LateSync);
        for (before, after) in before.iter().zip(&after) {
            assert!(after.starts_with(before), "{step:?}: written over");
            let longer = after.len() > before.len();
            assert!(!longer || is_written, "{step:?}: written behind");
        }
        for file in page_files(folder.path()) {
            assert_eq!(std::fs::read(&file).unwrap(), [], "{step:?}: {file:?}");
        }
        let db = raw(folder.path());
        let meta = db.open_tree("onlyonce/meta").unwrap();
        let reached = meta.get("group").unwrap().unwrap();
        assert_eq!(*reached, [0; 8], "{step:?}: something was carried over");
        assert!(db.open_tree("onlyonce/open").unwrap().is_empty());
    }
}

fn log_files(path: &Path) -> Vec<Vec<u8>> {
    let read = |name| std::fs::read(path.join(name)).unwrap();
    ["LOG-0", "LOG-1"].map(read).to_vec()
}

/// The disk is full when the checkpoint comes. What is acknowledged until then stays, because it
/// is in the log.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_checkpoint_that_fails_poisons_and_reopening_finds_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let options = SledOptions::new().clock(Arc::new(crate::ManualClock::default()));
    let store = SledStore::open(path, options.clone()).unwrap();
    let full = path.join("pages/answers-0000018bcb20b400-0000018bd0471000");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let turn_before = turn(path);
    let mut acknowledged = Vec::new();
    let poison = loop {
        let name = format!("filling-{}", acknowledged.len());
        let claim = match store.claim(request(&key(&name))).await {
            Ok(ClaimOutcome::Claimed(claim)) => claim,
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        };
        let completed = store.complete(claim, answer(&vec![1; 100_000])).await;
        match completed {
            Ok(()) => acknowledged.push(name),
            Err(SettleError::Store(error)) => break error,
            Err(other) => panic!("{other:?}"),
        }
        // Where the log is full again, it waits for the checkpoint.
        assert!(acknowledged.len() < 200, "nobody was told");
    };
    let StoreError::Poisoned(reason) = &poison else {
        panic!("{poison:?}");
    };
    assert!(reason.contains("space"), "{reason}");
    assert!(
        acknowledged.len() > 75,
        "the first file of the log was not full"
    );
    assert!(is_poisoned(&store.peek(key("filling-0")).await));
    assert!(is_poisoned(&store.sweep().await));
    let log = log_files(path);
    assert!(is_poisoned(&store.close().await));
    assert_eq!(log_files(path), log, "the log was written to");
    assert_eq!(
        turn(path),
        turn_before,
        "a turn has begun over what is needed"
    );
    let db = raw(path);
    let meta = db.open_tree("onlyonce/meta").unwrap();
    assert_eq!(*meta.get("group").unwrap().unwrap(), [0; 8]);
    drop((meta, db));
    super::wait_for(path);

    // It fails as long as the disk is full, and loses nothing.
    let refused = SledStore::open(path, options.clone());
    assert!(matches!(refused, Err(OpenError::Io { .. })), "{refused:?}");
    std::fs::remove_file(&full).unwrap();
    let store = SledStore::open(path, options).unwrap();
    for name in acknowledged {
        let told = store.claim(request(&key(&name))).await.unwrap();
        let ClaimOutcome::Completed(completion) = told else {
            panic!("{name}: {told:?}");
        };
        assert_eq!(completion.answer, answer(&vec![1; 100_000]));
    }
    store.close().await.unwrap();
}
