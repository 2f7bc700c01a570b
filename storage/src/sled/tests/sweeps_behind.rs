//! Files are removed behind a sweep, on the thread that makes checkpoints.

use std::sync::Arc;

use super::{
    DAY, answer, claimed, copied_when_still, draws, file_name, fill_log_file, key, page_files,
    request, turn,
};
use crate::sled::{SledOptions, SledStore};
use crate::{ClaimOutcome, Inspect as _, KeyState, ManualClock, Store as _};

// E8, E9
#[tokio::test]
async fn a_sweep_while_a_checkpoint_is_under_way_removes_what_is_due_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let clock = Arc::new(ManualClock::default());
    let options = SledOptions::new().clock(clock.clone());
    let mut store = SledStore::open(path, options.clone()).unwrap();
    let mut draw = draws(61);
    let (mut under_way, mut behind) = (0, 0);
    let mut days: Vec<Vec<String>> = Vec::new();
    for day in 0..16 {
        let before = turn(path);
        let mut names = fill_log_file(&store, &format!("day-{day}")).await;
        // From nothing behind the full file, which is then given away by the sweep itself, to a
        // checkpoint that is done.
        for number in 0..draw(4) {
            let name = format!("small-{day}-{number}");
            let claim = claimed(&store, &key(&name)).await;
            store.complete(claim, answer(b"paid")).await.unwrap();
            names.push(name);
        }
        days.push(names);
        let swept = store.sweep().await.unwrap();
        if turn(path) == before {
            under_way += 1;
        } else {
            behind += 1;
        }
        assert_eq!(swept.paused, None);
        assert!(swept.answers <= 1 && swept.tombstones <= 1, "{swept:?}");
        if day % 5 == 4 {
            store.close().await.unwrap();
            store = SledStore::open(path, options.clone()).unwrap();
        }
        for (age, names) in days.iter().rev().enumerate() {
            let told = store.claim(request(&key(&names[0]))).await.unwrap();
            match (age, told) {
                (0..=1, ClaimOutcome::Completed(completion)) => {
                    assert_eq!(completion.answer.body().len(), super::MIB);
                }
                (1..=8, ClaimOutcome::Stale) => {}
                (8.., ClaimOutcome::Claimed(claim)) => store.release(claim).await.unwrap(),
                (age, told) => panic!("{age} days: {told:?}"),
            }
        }
        clock.advance(DAY);
    }
    println!("{under_way} sweeps beside a checkpoint, {behind} behind one");
    assert!(under_way > 0, "no checkpoint was under way");
    store.close().await.unwrap();
    let files = page_files(path);
    let of = |kind| {
        files
            .iter()
            .filter(|file| file_name(file).starts_with(kind))
            .count()
    };
    assert!(of("answers-") <= 3 && of("settled-") <= 10, "{files:?}");
}

// E8, F4: a clock that was set back needs a day again whose files are being removed.
#[tokio::test]
async fn a_bucket_that_is_needed_again_after_it_was_removed_works_and_survives_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let clock = Arc::new(ManualClock::default());
    let begin = crate::Clock::now(&*clock);
    let options = SledOptions::new().clock(clock.clone());
    let store = SledStore::open(path, options.clone()).unwrap();
    for number in 0..20 {
        let claim = claimed(&store, &key(&format!("first-{number}"))).await;
        store.complete(claim, answer(&[1; 3_000])).await.unwrap();
    }
    clock.advance(DAY * 10);
    let swept = store.sweep().await.unwrap();
    assert_eq!((swept.answers, swept.tombstones), (1, 1));
    // Back to where it was. Nothing is forgotten that is settled from now on.
    clock.set(begin);
    store.confirm_clock().await.unwrap();
    let mut lengths = std::collections::BTreeMap::new();
    let complete = async |store: &SledStore, name: String, length: usize| {
        let claim = claimed(store, &key(&name)).await;
        store
            .complete(claim, answer(&vec![2; length]))
            .await
            .unwrap();
    };
    let check = async |store: &SledStore, when: &str, lengths: &Lengths| {
        for (name, length) in lengths {
            let told = store.claim(request(&key(name))).await;
            let Ok(ClaimOutcome::Completed(completion)) = told else {
                panic!("{name}, {when}: {told:?}");
            };
            assert_eq!(
                completion.answer,
                answer(&vec![2; *length]),
                "{name}, {when}"
            );
        }
        let forgotten = store.peek(key("first-7")).await;
        assert_eq!(forgotten, Ok(KeyState::Absent), "{when}");
    };
    for number in 0..20 {
        let (name, length) = (format!("again-{number}"), 1_000 + number * 100);
        complete(&store, name.clone(), length).await;
        lengths.insert(name, length);
    }
    check(&store, "at once", &lengths).await;
    for name in fill_log_file(&store, "filled").await {
        assert!(store.peek(key(&name)).await.is_ok());
    }
    check(&store, "after a checkpoint", &lengths).await;
    let crashed = copied_when_still(path, &store).await;
    store.close().await.unwrap();
    for path in [crashed.path(), path] {
        let mut lengths = lengths.clone();
        for opening in 0..3 {
            let store = SledStore::open(path, options.clone()).unwrap();
            check(&store, &format!("opening {opening}"), &lengths).await;
            // In a file of the first name, beside the other one: both hold this time.
            for number in 0..20 {
                let (name, length) = (format!("more-{opening}-{number}"), 700 + number * 77);
                complete(&store, name.clone(), length).await;
                lengths.insert(name, length);
            }
            check(&store, &format!("opening {opening}, with more"), &lengths).await;
            store.close().await.unwrap();
        }
        let of_a_day = page_files(path).into_iter();
        let answers = of_a_day.filter(|file| file_name(file).starts_with("answers-"));
        assert_eq!(answers.count(), 2, "the bucket was not needed twice");
    }
    // And it goes with its day.
    clock.advance(DAY * 10);
    let store = SledStore::open(path, options).unwrap();
    store.confirm_clock().await.unwrap();
    let swept = store.sweep().await.unwrap();
    assert_eq!((swept.answers, swept.tombstones), (2, 2));
    store.close().await.unwrap();
    assert_eq!(page_files(path).len(), 0);
}

// B21, F4: the note is durable, the files are still there, and the day is needed again. They count
// until sled says otherwise, so that an opening that crashes must find them as they were.
#[tokio::test]
async fn a_bucket_that_is_needed_again_is_never_written_over_one_that_still_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let clock = Arc::new(ManualClock::default());
    let begin = crate::Clock::now(&*clock);
    let options = SledOptions::new().clock(clock.clone());
    let store = SledStore::open(path, options.clone()).unwrap();
    for number in 0..20 {
        let claim = claimed(&store, &key(&format!("first-{number}"))).await;
        store.complete(claim, answer(&[1; 3_000])).await.unwrap();
    }
    store.close().await.unwrap();
    let store = SledStore::open(path, options.clone()).unwrap();
    let crashed = super::copied(path);
    clock.advance(DAY * 10);
    let swept = store.sweep().await.unwrap();
    assert_eq!((swept.answers, swept.tombstones), (1, 1));
    clock.set(begin);
    store.confirm_clock().await.unwrap();
    for number in 0..20 {
        let claim = claimed(&store, &key(&format!("again-{number}"))).await;
        store.complete(claim, answer(&[2; 2_000])).await.unwrap();
    }
    // As it is before the thread that removes files has come to it.
    for name in ["LOG-0", "LOG-1"] {
        std::fs::copy(path.join(name), crashed.path().join(name)).unwrap();
    }
    store.close().await.unwrap();
    let counted: Vec<_> = page_files(crashed.path());
    assert_eq!(counted.len(), 2);
    for opening in 0..2 {
        let store = SledStore::open(crashed.path(), options.clone()).unwrap();
        for number in 0..20 {
            let told = store.claim(request(&key(&format!("again-{number}")))).await;
            let Ok(ClaimOutcome::Completed(completion)) = told else {
                panic!("{number}, opening {opening}: {told:?}");
            };
            assert_eq!(completion.answer, answer(&[2; 2_000]));
            let forgotten = store.peek(key(&format!("first-{number}"))).await;
            assert_eq!(forgotten, Ok(KeyState::Absent));
        }
        store.close().await.unwrap();
        let files = page_files(crashed.path());
        assert_eq!(files.len(), 2, "{files:?}");
        assert!(
            files.iter().all(|file| !counted.contains(file)),
            "{files:?}"
        );
    }
}

type Lengths = std::collections::BTreeMap<String, usize>;
