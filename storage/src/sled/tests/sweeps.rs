//! What is removed, in which order, and who is served meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{DAY, answer, claimed, key, open, raw, wait_for};
use crate::sled::{SledOptions, SledStore};
use crate::{Inspect as _, KeyState, Store as _};

#[tokio::test]
async fn forgetting_is_durably_noted_before_anything_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(crate::ManualClock::default());
    let options = SledOptions::new().clock(clock.clone());
    let (store, script) = open(folder.path(), &options);
    let claim = claimed(&store, &key("old")).await;
    store.complete(claim, answer(b"paid")).await.unwrap();
    script.sweep.lock().clear();
    clock.advance(Duration::from_secs(9 * 24 * 60 * 60));
    let swept = store.sweep().await.unwrap();
    assert_eq!((swept.answers, swept.tombstones), (1, 1));
    let steps = script.sweep.lock().clone();
    let steps: Vec<_> = steps.iter().skip_while(|step| **step != "note").collect();
    assert_eq!(steps, [&"note", &"sync", &"remove", &"sync"]);
    store.close().await.unwrap();
}

// E9: a sweep drops trees and walks no records, so that the queue waits as briefly whatever their
// number is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_of_many_records_takes_the_steps_of_a_sweep_of_few() {
    let mut steps = Vec::new();
    for records in [10, 20_000] {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(crate::ManualClock::default());
        let options = SledOptions::new().clock(clock.clone());
        let (store, script) = open(folder.path(), &options);
        seal_all(&store, records).await;
        // Nor those which stay.
        clock.advance(DAY * 8);
        let claim = claimed(&store, &key("younger")).await;
        store.complete(claim, answer(b"paid")).await.unwrap();
        clock.advance(DAY);
        script.sweep.lock().clear();
        let counts = || {
            let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
            (
                count(&script.reads),
                count(&script.changes),
                count(&script.groups),
            )
        };
        let before = counts();
        let swept = store.sweep().await.unwrap();
        assert_eq!(swept.tombstones, 1, "a tree");
        let after = counts();
        assert_eq!(after.0 - before.0, 0, "no record is read");
        assert_eq!(after.1 - before.1, 0, "no record is changed");
        steps.push((script.sweep.lock().clone(), after.2 - before.2));
        assert_eq!(store.peek(key("sealed-7")).await, Ok(KeyState::Absent));
        store.close().await.unwrap();
    }
    assert_eq!(steps[0], steps[1]);
}

// E8, E9: what is in doubt moves out of a day before the day goes, some at a time, and calls are
// served in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_served_while_a_sweep_moves_many_doubts() {
    const DOUBTS: usize = 5_000;
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(crate::ManualClock::default());
    let options = SledOptions::new().clock(clock.clone());
    let (store, script) = open(folder.path(), &options);
    for numbers in (0..DOUBTS).collect::<Vec<_>>().chunks(500) {
        let doubting: Vec<_> = numbers
            .iter()
            .map(|number| {
                let (store, key) = (Arc::clone(&store), key(&format!("doubted-{number}")));
                tokio::spawn(async move { drop(claimed(&store, &key).await) })
            })
            .collect();
        for doubting in doubting {
            doubting.await.unwrap();
        }
    }
    clock.advance(DAY * 3);
    script.slow.store(true, Ordering::SeqCst);
    let done = AtomicUsize::new(0);
    let sweeping = async {
        let swept = store.sweep().await.unwrap();
        assert_eq!((swept.answers, swept.tombstones), (1, 0));
        done.fetch_add(1, Ordering::SeqCst)
    };
    let calling = async {
        let claim = claimed(&store, &key("meanwhile")).await;
        store.complete(claim, answer(b"paid")).await.unwrap();
        done.fetch_add(1, Ordering::SeqCst)
    };
    let (swept, called) = tokio::join!(sweeping, calling);
    assert!(called < swept, "the call waited for the whole sweep");
    let moves = script.moves.load(Ordering::SeqCst);
    assert!(moves >= 10, "{DOUBTS} doubts moved in {moves} steps");
    store.close().await.unwrap();

    let store = SledStore::open(folder.path(), options).unwrap();
    for number in 0..DOUBTS {
        let state = store.peek(key(&format!("doubted-{number}"))).await;
        let in_doubt = matches!(state, Ok(KeyState::InDoubt(_)));
        assert!(in_doubt, "{number}: {state:?}");
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn closing_finishes_a_sweep_that_has_begun() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(crate::ManualClock::default());
    let options = SledOptions::new().clock(clock.clone());
    let (store, _) = open(folder.path(), &options);
    for number in 0..1_200 {
        drop(claimed(&store, &key(&number.to_string())).await);
    }
    clock.advance(DAY * 3);
    let (swept, again, closed) = tokio::join!(store.sweep(), store.sweep(), store.close());
    assert_eq!(swept.unwrap().answers, 1);
    assert_eq!(again.unwrap().answers, 0);
    assert_eq!(closed, Ok(()));
}

async fn seal_all(store: &Arc<SledStore>, count: usize) {
    let sealing: Vec<_> = (0..64)
        .map(|caller| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                for number in (caller..count).step_by(64) {
                    store.seal(key(&format!("sealed-{number}"))).await.unwrap();
                }
            })
        })
        .collect();
    for sealing in sealing {
        sealing.await.unwrap();
    }
}

// G7: what a hot key leaves behind goes with its day, whatever became of the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_claimed_and_released_for_ever_does_not_grow_the_store() {
    const CLAIMS: u32 = 100_000;
    const DAYS: u32 = 50;
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(crate::ManualClock::default());
    let options = SledOptions::new().clock(clock.clone());
    let (store, script) = open(folder.path(), &options);
    // One at a time: a hundred thousand syncs would show nothing more.
    script.unsynced.store(true, Ordering::SeqCst);
    let mut dropped = 0;
    for day in 0..DAYS {
        for _ in 0..CLAIMS / DAYS {
            let claim = claimed(&store, &key("hot")).await;
            store.release(claim).await.unwrap();
        }
        let swept = store.sweep().await.unwrap();
        dropped += swept.answers;
        clock.advance(DAY);
        assert!(swept.answers <= 1 && swept.tombstones == 0, "day {day}");
    }
    script.unsynced.store(false, Ordering::SeqCst);
    store.sweep().await.unwrap();
    assert!(dropped >= u64::from(DAYS) - 3, "{dropped} days went");
    store.close().await.unwrap();

    let frames = 2 * (CLAIMS / DAYS) as usize;
    let pages = pages_of(folder.path());
    // Yesterday's, today's, and a day that is not over. A page has more than one frame, and two
    // trees more are what a claim over midnight may need.
    assert!(pages.len() <= 4, "{pages:?}");
    assert!(pages.iter().all(|pages| *pages <= frames), "{pages:?}");
    let store = SledStore::open(folder.path(), options).unwrap();
    assert_eq!(store.peek(key("hot")).await, Ok(KeyState::Absent));
    store.close().await.unwrap();
}

/// How many pages each tree of a closed store has.
fn pages_of(path: &Path) -> Vec<usize> {
    let db = raw(path);
    let names = db.tree_names().into_iter();
    let buckets = names.filter(|name| {
        name.starts_with(b"onlyonce/recent/") || name.starts_with(b"onlyonce/settled/")
    });
    let counts = buckets.map(|name| db.open_tree(name).unwrap().len());
    let counts = counts.collect();
    drop(db);
    wait_for(path);
    counts
}
