//! What is removed, in which order, and who is served meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{DAY, answer, claimed, key, open, page_files, raw};
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
    // And needs no sync of its own afterwards: files go behind.
    assert_eq!(steps, [&"note", &"sync", &"remove"]);
    store.close().await.unwrap();
}

// E9: a sweep drops files and walks no records, so that the queue waits as briefly whatever their
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
        assert_eq!(swept.tombstones, 1, "a file");
        let after = counts();
        assert_eq!(after.0 - before.0, 0, "no record is read");
        assert_eq!(after.1 - before.1, 0, "no record is changed");
        steps.push((script.sweep.lock().clone(), after.2 - before.2));
        assert_eq!(store.peek(key("sealed-7")).await, Ok(KeyState::Absent));
        store.close().await.unwrap();
    }
    assert_eq!(steps[0], steps[1]);
}

// E8, E9: what is in doubt lies in no bucket, so that nothing of it is moved or read when days go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_go_and_many_doubts_stay_without_a_record_being_touched() {
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
    // A sealed key beside them, so that there is something to go; and every claim is abandoned.
    store.seal(key("sealed")).await.unwrap();
    clock.advance(DAY * 30);
    let counts = || {
        let changes = script.changes.load(Ordering::SeqCst);
        (script.reads.load(Ordering::SeqCst), changes)
    };
    let before = counts();
    let swept = store.sweep().await.unwrap();
    assert_eq!((swept.answers, swept.tombstones), (0, 1));
    assert_eq!(counts(), before, "a record was read or changed");
    store.close().await.unwrap();

    let store = SledStore::open(folder.path(), options).unwrap();
    for number in 0..DOUBTS {
        let state = store.peek(key(&format!("doubted-{number}"))).await;
        let in_doubt = matches!(state, Ok(KeyState::InDoubt(_)));
        assert!(in_doubt, "{number}: {state:?}");
    }
    assert_eq!(store.peek(key("sealed")).await, Ok(KeyState::Absent));
    store.close().await.unwrap();
}

#[tokio::test]
async fn closing_finishes_a_sweep_that_has_begun() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(crate::ManualClock::default());
    let options = SledOptions::new().clock(clock.clone());
    let (store, _) = open(folder.path(), &options);
    for number in 0..20 {
        let claim = claimed(&store, &key(&number.to_string())).await;
        store.complete(claim, answer(b"paid")).await.unwrap();
    }
    clock.advance(DAY * 3);
    let (swept, again, closed) = tokio::join!(store.sweep(), store.sweep(), store.close());
    assert_eq!(swept.unwrap().answers, 1);
    assert_eq!(again.unwrap().answers, 0);
    assert_eq!(closed, Ok(()));
    let files = page_files(folder.path());
    assert_eq!(files.len(), 1, "the file is not removed: {files:?}");
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

// G7: a hot key leaves nothing behind but what the next turn of the log overwrites.
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
    for day in 0..DAYS {
        for _ in 0..CLAIMS / DAYS {
            let claim = claimed(&store, &key("hot")).await;
            store.release(claim).await.unwrap();
        }
        let swept = store.sweep().await.unwrap();
        clock.advance(DAY);
        assert!(swept.answers == 0 && swept.tombstones == 0, "day {day}");
    }
    script.unsynced.store(false, Ordering::SeqCst);
    store.sweep().await.unwrap();
    let turns = super::turn(folder.path());
    assert!(turns >= 6, "the log has not turned: {turns}");
    store.close().await.unwrap();

    let files = page_files(folder.path());
    assert!(files.is_empty(), "{files:?}");
    for which in 0..2 {
        let length = folder
            .path()
            .join(format!("LOG-{which}"))
            .metadata()
            .unwrap()
            .len();
        assert!(length < 9 * 1024 * 1024, "LOG-{which} has {length} bytes");
    }
    let db = raw(folder.path());
    assert_eq!(db.open_tree("onlyonce/open").unwrap().len(), 0);
    let bytes = db.size_on_disk().unwrap();
    assert!(bytes < 9 * 1024 * 1024, "sled has {bytes} bytes");
    drop(db);
    super::wait_for(folder.path());
    let store = SledStore::open(folder.path(), options).unwrap();
    assert_eq!(store.peek(key("hot")).await, Ok(KeyState::Absent));
    store.close().await.unwrap();
}
