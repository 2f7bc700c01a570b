//! Checkpoints that a crash has left half done: the next opening undoes what does not count.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use ::sled::{Db, IVec};

use super::{answer, claimed, copied, draws, file_name, key, page_files, raw, wait_for};
use crate::sled::{SledOptions, SledStore, SyncPoint};
use crate::{DoubtReason, Inspect as _, KeyState, Resolution, ScopedKey, Store as _};

/// A store before a checkpoint and after it, with everything in its log.
struct Crash {
    /// Nothing of the checkpoint is done.
    before: tempfile::TempDir,
    /// All of it is.
    after: tempfile::TempDir,
    expected: Vec<(ScopedKey, KeyState)>,
}

/// Calls of each kind before the last opening, changed in each way after it.
async fn crash() -> Crash {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut keys = Vec::new();
    let mut named = |name: String| {
        let key = key(&name);
        keys.push(key.clone());
        key
    };
    let store = SledStore::open(path, SledOptions::new()).unwrap();
    for (number, length) in LENGTHS.into_iter().enumerate() {
        let body = vec![number as u8; length];
        let claim = claimed(&store, &named(format!("early-{number}"))).await;
        store.complete(claim, answer(&body)).await.unwrap();
        for what in ["stays", "resolved", "cleared", "again"] {
            let claim = claimed(&store, &named(format!("{what}-{number}"))).await;
            let doubt = store.doubt(claim, DoubtReason::Ambiguous, Some(answer(&body)));
            doubt.await.unwrap();
        }
    }
    store.close().await.unwrap();

    let store = SledStore::open(path, SledOptions::new()).unwrap();
    for (number, length) in LENGTHS.into_iter().enumerate() {
        let body = vec![100 + number as u8; length];
        let late = named(format!("late-{number}"));
        let claim = claimed(&store, &late).await;
        store.complete(claim, answer(&body)).await.unwrap();
        let claim = claimed(&store, &named(format!("doubted-{number}"))).await;
        let doubt = store.doubt(claim, DoubtReason::Ambiguous, Some(answer(&body)));
        doubt.await.unwrap();
        for what in ["resolved", "cleared", "again"] {
            let key = key(&format!("{what}-{number}"));
            let KeyState::InDoubt(doubt) = store.peek(key.clone()).await.unwrap() else {
                panic!("{what} is not in doubt");
            };
            let resolution = match what {
                "resolved" => Resolution::Applied(answer(&body)),
                _ => Resolution::NotApplied,
            };
            let resolved = store.resolve(key.clone(), doubt.token, resolution);
            resolved.await.unwrap();
            if what == "again" {
                // With another answer, of another length.
                let claim = claimed(&store, &key).await;
                let body = vec![200 + number as u8; LENGTHS[LENGTHS.len() - 1 - number]];
                let doubt = store.doubt(claim, DoubtReason::Unrecorded, Some(answer(&body)));
                doubt.await.unwrap();
            }
        }
    }
    let mut expected = Vec::new();
    for key in keys {
        let state = store.peek(key.clone()).await.unwrap();
        expected.push((key, state));
    }
    let before = copied(path);
    store.close().await.unwrap();
    let after = copied(path);
    Crash {
        before,
        after,
        expected,
    }
}

/// Everything is there, nothing twice and nothing else, now and when it is opened again; and what
/// is open can be settled.
async fn whole(path: &Path, crash: &Crash, what: &str) {
    for _ in 0..2 {
        let store = SledStore::open(path, SledOptions::new());
        let store = store.unwrap_or_else(|error| panic!("{what}: {error}"));
        for (key, state) in &crash.expected {
            let found = store.peek(key.clone()).await;
            assert_eq!(found.as_ref(), Ok(state), "{what}");
        }
        store.close().await.unwrap();
        // As whoever finished the checkpoint at once has it.
        let (rows, expected) = (rows(path), rows(crash.after.path()));
        assert_eq!(rows, expected, "{what}: rows of open calls");
        let settled = |path: &Path| {
            let files = page_files(path).into_iter();
            let lengths = files.map(|file| fs::metadata(file).unwrap().len());
            lengths.collect::<Vec<_>>()
        };
        assert_eq!(settled(path), settled(crash.after.path()), "{what}: pages");
    }
    let store = SledStore::open(path, SledOptions::new()).unwrap();
    for (key, state) in &crash.expected {
        if let KeyState::InDoubt(doubt) = state {
            let resolution = Resolution::Applied(answer(b"settled"));
            let resolved = store.resolve(key.clone(), doubt.token, resolution);
            resolved.await.unwrap();
            let now = store.peek(key.clone()).await.unwrap();
            assert!(matches!(now, KeyState::Completed(_)), "{what}: {now:?}");
        }
    }
    store.close().await.unwrap();
    assert_eq!(rows(path), [], "{what}: rows stay");
}

fn rows(path: &Path) -> Vec<(IVec, IVec)> {
    with_database(path, |db| {
        let tree = db.open_tree("onlyonce/open").unwrap();
        tree.iter().map(Result::unwrap).collect()
    })
}

fn with_database<T>(path: &Path, work: impl FnOnce(&Db) -> T) -> T {
    let db = raw(path);
    let done = work(&db);
    SyncPoint::open(path.join("db"))
        .unwrap()
        .commit(&db)
        .unwrap();
    drop(db);
    wait_for(path);
    done
}

// B21
#[tokio::test]
async fn pages_that_do_not_count_are_removed_and_written_again() {
    let crash = crash().await;
    let mut draw = draws(41);
    let files = page_files(crash.after.path());
    assert_eq!(files.len(), 2);
    for round in 0..6 {
        let copy = copied(crash.before.path());
        for file in &files {
            let here = copy.path().join("pages").join(file_name(file));
            let (counted, written) = (fs::read(&here).unwrap(), fs::read(file).unwrap());
            assert_eq!(written[..counted.len()], counted);
            assert!(written.len() > counted.len());
            // Some of what the checkpoint writes, torn anywhere, or anything.
            let end = counted.len() + draw(written.len() - counted.len() + 1);
            let mut torn = written[..end].to_vec();
            match round % 3 {
                0 => {}
                1 => torn[counted.len()..].fill(0),
                _ => torn.resize(end + draw(20_000), 0xff),
            }
            fs::write(here, torn).unwrap();
        }
        whole(copy.path(), &crash, &format!("round {round}")).await;
    }
}

// B21: of every row the checkpoint may have been the last to be written.
#[tokio::test]
async fn rows_of_open_calls_that_are_ahead_of_what_counts_are_said_again_by_the_log() {
    let crash = crash().await;
    let (old, new) = (rows(crash.before.path()), rows(crash.after.path()));
    let gone: Vec<_> = old.iter().filter(|(row, _)| !has(&new, row)).collect();
    let put: Vec<_> = new.iter().filter(|row| !old.contains(row)).collect();
    assert!(gone.len() >= LENGTHS.len() && put.len() > 2 * LENGTHS.len());
    let mut draw = draws(42);
    for round in 0..10 {
        let copy = copied(crash.before.path());
        // As `OpenChanges` writes it: what goes first, by whole calls; then row after row.
        let gone_count = if round < 5 {
            draw(gone.len() + 1)
        } else {
            gone.len()
        };
        let put_count = if round < 5 { 0 } else { draw(put.len() + 1) };
        let goes: Vec<_> = gone
            .iter()
            .take(gone_count)
            .map(|(row, _)| &row[..32])
            .collect();
        with_database(copy.path(), |db| {
            let tree = db.open_tree("onlyonce/open").unwrap();
            for (row, _) in &old {
                let replaced = round >= 5 && put.iter().any(|(new, _)| new[..32] == row[..32]);
                if replaced || goes.contains(&&row[..32]) {
                    tree.remove(row).unwrap();
                }
            }
            for (row, value) in put.iter().take(put_count) {
                tree.insert(row, value).unwrap();
            }
        });
        let what = format!("{gone_count} gone, {put_count} put");
        whole(copy.path(), &crash, &what).await;
    }
}

fn has(rows: &[(IVec, IVec)], row: &IVec) -> bool {
    rows.iter().any(|(other, _)| other == row)
}

// B21: a bucket whose first pages were written, and of which sled does not know yet.
#[tokio::test]
async fn a_file_that_sled_does_not_know_is_removed_or_begun_again() {
    let crash = crash().await;
    for (kind, content) in [("answers-", &b"torn"[..]), ("settled-", &[0; 9_000])] {
        let copy = copied(crash.before.path());
        // One that nobody needs, and whatever else lies there.
        let name = format!("{kind}0000000000000000-0000000005265c00");
        let unknown = copy.path().join("pages").join(name);
        File::create(&unknown).unwrap().write_all(content).unwrap();
        whole(copy.path(), &crash, "a file of another day").await;
        assert!(!unknown.exists());
    }
    // Before the first checkpoint: the log needs the files that lie there.
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    let claim = claimed(&store, &key("first")).await;
    store.complete(claim, answer(&[1; 9_000])).await.unwrap();
    let copy = copied(folder.path());
    store.close().await.unwrap();
    for file in page_files(copy.path()) {
        fs::write(file, [0xff; 30_000]).unwrap();
    }
    for _ in 0..2 {
        let store = SledStore::open(copy.path(), SledOptions::new()).unwrap();
        let state = store.peek(key("first")).await.unwrap();
        let KeyState::Completed(completion) = state else {
            panic!("{state:?}");
        };
        assert_eq!(completion.answer, answer(&[1; 9_000]));
        store.close().await.unwrap();
    }
    // Each opening removes what does not count of the files that sled knows.
    let length = |file: &Path| fs::metadata(file).unwrap().len();
    let lengths: Vec<_> = page_files(copy.path())
        .iter()
        .map(|file| length(file))
        .collect();
    assert_eq!(lengths, [3 * 4_096, 4_096]);
}

// B21: everything was done but the file of the log is not free yet, or nobody knows that it is.
#[tokio::test]
async fn a_checkpoint_that_was_done_is_not_done_twice_when_the_log_still_has_its_groups() {
    let crash = crash().await;
    let copy = copied(crash.after.path());
    for name in ["LOG-0", "LOG-1"] {
        fs::copy(crash.before.path().join(name), copy.path().join(name)).unwrap();
    }
    whole(copy.path(), &crash, "the log as it was before").await;
}

/// Around what a part of a row, a page and several of them hold.
const LENGTHS: [usize; 6] = [0, 20, 3_992, 3_993, 9_000, 100_000];
