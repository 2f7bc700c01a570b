//! What becomes of a whole store whose log is torn, damaged, or not the one that belongs to it.
//! Every bit of the log's own bytes is in `log/layout_bytes.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use super::{
    answer, claimed, copied, copied_when_still, copy_into, draws, fill_log_file, key, refused,
    request, turn,
};
use crate::sled::{SledOptions, SledStore};
use crate::{ClaimOutcome, KeyState, Store as _};

/// Seals that are in the log, and where each group ends.
struct Sealed {
    folder: tempfile::TempDir,
    /// The file that was written.
    file: PathBuf,
    ends: Vec<usize>,
}

/// A crashed store with a checkpoint, and groups of one seal each behind it.
async fn crashed_with_seals(count: usize) -> Sealed {
    let original = tempfile::tempdir().unwrap();
    let store = SledStore::open(original.path(), SledOptions::new()).unwrap();
    store.seal(key("in-sled")).await.unwrap();
    store.close().await.unwrap();
    let store = SledStore::open(original.path(), SledOptions::new()).unwrap();
    let file = PathBuf::from(format!("LOG-{}", (turn(original.path()) - 1) % 2));
    let mut ends = vec![4_096];
    for number in 0..count {
        store.seal(key(&format!("sealed-{number}"))).await.unwrap();
        let length = fs::metadata(original.path().join(&file)).unwrap().len();
        ends.push(length as usize);
    }
    let folder = copied(original.path());
    store.close().await.unwrap();
    Sealed { folder, file, ends }
}

/// How many of the seals are there: the first ones, and the one that is in sled.
async fn seals(path: &Path, count: usize) -> usize {
    let store = SledStore::open(path, SledOptions::new()).unwrap();
    let mut found = 0;
    for number in 0..count {
        match store.peek(key(&format!("sealed-{number}"))).await.unwrap() {
            KeyState::Sealed { .. } => {
                assert_eq!(found, number, "an earlier one is missing");
                found += 1;
            }
            other => assert_eq!(other, KeyState::Absent),
        }
    }
    let state = store.peek(key("in-sled")).await.unwrap();
    assert!(matches!(state, KeyState::Sealed { .. }), "{state:?}");
    // And it goes on.
    store.seal(key("next")).await.unwrap();
    store.close().await.unwrap();
    found
}

// B21: a crash while the last group was written.
#[tokio::test]
async fn a_torn_end_of_the_log_loses_only_what_nobody_was_told_of_and_the_store_goes_on() {
    const SEALS: usize = 6;
    let sealed = crashed_with_seals(SEALS).await;
    let whole = fs::read(sealed.folder.path().join(&sealed.file)).unwrap();
    let [before, end] = [sealed.ends[SEALS - 1], sealed.ends[SEALS]];
    assert_eq!(whole.len(), end);
    let mut draw = draws(31);
    for round in 0..24 {
        let torn = match round % 3 {
            0 => whole[..before + draw(end - before - 8)].to_vec(),
            1 => {
                let mut torn = whole.clone();
                torn[before + draw(end - before - 8)] ^= 1 << draw(8);
                torn
            }
            // What the disk has of a file that grew is zeros.
            _ => {
                let mut torn = whole[..before + draw(end - before - 8)].to_vec();
                torn.resize(end, 0);
                torn
            }
        };
        let copy = copied(sealed.folder.path());
        fs::write(copy.path().join(&sealed.file), torn).unwrap();
        assert_eq!(seals(copy.path(), SEALS).await, SEALS - 1);
        // It is as lost when it is opened again.
        assert_eq!(seals(copy.path(), SEALS).await, SEALS - 1);
    }
    assert_eq!(seals(sealed.folder.path(), SEALS).await, SEALS);
}

// G5
#[tokio::test]
async fn a_damaged_group_with_a_whole_one_behind_it_keeps_the_store_shut() {
    const SEALS: usize = 6;
    let sealed = crashed_with_seals(SEALS).await;
    let path = sealed.folder.path().join(&sealed.file);
    let whole = fs::read(&path).unwrap();
    let mut draw = draws(32);
    for _ in 0..12 {
        let group = draw(SEALS - 1);
        let (begin, end) = (sealed.ends[group], sealed.ends[group + 1]);
        let mut damaged = whole.clone();
        damaged[begin + draw(end - begin - 8)] ^= 1 << draw(8);
        fs::write(&path, damaged).unwrap();
        let reason = refused(sealed.folder.path());
        assert!(reason.contains("damaged"), "{reason}");
        assert!(reason.contains("LOG-"), "{reason}");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(seals(sealed.folder.path(), SEALS).await, SEALS);
}

// G5: a head that cannot be believed is no log that was never begun.
#[tokio::test]
async fn a_log_with_a_damaged_head_or_a_missing_file_keeps_the_store_shut() {
    let sealed = crashed_with_seals(3).await;
    for name in ["LOG-0", "LOG-1"] {
        let path = sealed.folder.path().join(name);
        let whole = fs::read(&path).unwrap();
        for bit in 0..64 * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // What the opening itself asks; the whole opening of some.
            fs::write(&path, damaged).unwrap();
            let refused = crate::sled::log::read(sealed.folder.path(), true);
            let words = refused.map(drop).unwrap_err().to_string();
            assert!(words.contains(name), "bit {bit}: {words}");
            if bit % 97 == 0 {
                let reason = super::refused(sealed.folder.path());
                assert!(reason.contains(name), "bit {bit}: {reason}");
            }
        }
        for length in [0, 1, 63] {
            fs::write(&path, &whole[..length]).unwrap();
            let reason = refused(sealed.folder.path());
            assert!(reason.contains(name), "{length} bytes: {reason}");
        }
        fs::remove_file(&path).unwrap();
        let reason = refused(sealed.folder.path());
        assert!(reason.contains(name), "missing: {reason}");
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(seals(sealed.folder.path(), 3).await, 3);
}

// G5: nor is one without a database.
#[tokio::test]
async fn whatever_is_missing_of_a_store_it_is_never_opened_as_a_new_one() {
    let sealed = crashed_with_seals(3).await;
    let missing: [&[&str]; 9] = [
        &["db"],
        &["db", "LOG-0"],
        &["db", "LOG-1"],
        &["db", "LOG-0", "LOG-1"],
        &["db", "pages"],
        &["db", "pages", "LOG-0"],
        &["db", "pages", "LOG-1"],
        &["pages"],
        &["LOG-0", "LOG-1"],
    ];
    for names in missing {
        let copy = copied(sealed.folder.path());
        for name in names {
            let path = copy.path().join(name);
            let removed = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
            removed.unwrap();
        }
        println!("{names:?}: {}", refused(copy.path()));
        // Nor the next time, and nothing more is gone.
        refused(copy.path());
        for name in ["pages", "LOG-0", "LOG-1"] {
            let there = copy.path().join(name).exists();
            assert!(there || names.contains(&name), "{names:?}: {name} is gone");
        }
        if !names.contains(&"pages") {
            assert_eq!(super::page_files(copy.path()).len(), 1, "{names:?}");
        }
    }
    assert_eq!(seals(sealed.folder.path(), 3).await, 3);
}

// G5
#[tokio::test]
async fn the_log_of_another_store_is_refused() {
    let (ours, theirs) = (crashed_with_seals(3).await, crashed_with_seals(3).await);
    let copy = copied(ours.folder.path());
    for names in [&["LOG-0"][..], &["LOG-1"], &["LOG-0", "LOG-1"]] {
        for name in names {
            let theirs = theirs.folder.path().join(name);
            fs::copy(theirs, copy.path().join(name)).unwrap();
        }
        let reason = refused(copy.path());
        assert!(reason.contains("another store"), "{names:?}: {reason}");
        for name in names {
            fs::copy(ours.folder.path().join(name), copy.path().join(name)).unwrap();
        }
    }
    assert_eq!(seals(copy.path(), 3).await, 3);
}

// G5: an older copy lacks what was acknowledged since.
#[tokio::test]
async fn an_older_copy_of_the_database_or_of_the_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let store = SledStore::open(path, SledOptions::new()).unwrap();
    fill_log_file(&store, "first").await;
    let older = copied_when_still(path, &store).await;
    fill_log_file(&store, "second").await;
    let newer = copied_when_still(path, &store).await;
    store.close().await.unwrap();
    let closed = copied(path);

    let mixed = |db: &Path, pages: &Path, log: &Path| {
        let mixed = tempfile::tempdir().unwrap();
        copy_into(log, mixed.path());
        for (name, from) in [("db", db), ("pages", pages)] {
            let to = mixed.path().join(name);
            fs::remove_dir_all(&to).unwrap();
            copy_into(&from.join(name), &to);
        }
        mixed
    };
    let (older, newer, closed) = (older.path(), newer.path(), closed.path());
    for log in [newer, closed] {
        let mixed = mixed(older, older, log);
        let reason = refused(mixed.path());
        assert!(reason.contains("had reached it"), "{reason}");
    }
    for db in [newer, closed] {
        let mixed = mixed(db, db, older);
        let reason = refused(mixed.path());
        assert!(reason.contains("older copy"), "{reason}");
        let mixed = with_pages(db, older);
        let reason = refused(mixed.path());
        assert!(reason.contains("missing"), "{reason}");
    }
    // Whole copies open, and have what there was when they were made.
    for (copy, last) in [
        (older, "first-8"),
        (newer, "second-8"),
        (closed, "second-8"),
    ] {
        let store = SledStore::open(copy, SledOptions::new()).unwrap();
        for name in ["first-0", last] {
            let told = store.claim(request(&key(name))).await.unwrap();
            assert!(
                matches!(told, ClaimOutcome::Completed(_)),
                "{name}: {told:?}"
            );
        }
        store.close().await.unwrap();
    }
}

/// A store with the files of pages of an older copy.
fn with_pages(store: &Path, pages: &Path) -> tempfile::TempDir {
    let mixed = copied(store);
    fs::remove_dir_all(mixed.path().join("pages")).unwrap();
    copy_into(&pages.join("pages"), &mixed.path().join("pages"));
    mixed
}

// B21: what an earlier turn left in a file is not read again, also where the next turn ends before
// it, and where it ends with a torn group.
#[tokio::test]
async fn a_short_turn_over_a_long_one_brings_nothing_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let store = SledStore::open(path, SledOptions::new()).unwrap();
    for number in 0..200 {
        let claim = claimed(&store, &key(&format!("released-{number}"))).await;
        store.release(claim).await.unwrap();
        let held = claimed(&store, &key(&format!("settled-{number}"))).await;
        store.complete(held, answer(b"paid")).await.unwrap();
    }
    store.close().await.unwrap();
    for round in 0..4 {
        let store = SledStore::open(path, SledOptions::new()).unwrap();
        store.seal(key(&format!("sealed-{round}"))).await.unwrap();
        let copy = copied(path);
        store.close().await.unwrap();
        let reopened = SledStore::open(copy.path(), SledOptions::new()).unwrap();
        for number in 0..200 {
            let state = reopened.peek(key(&format!("released-{number}"))).await;
            assert_eq!(state, Ok(KeyState::Absent));
            let state = reopened
                .peek(key(&format!("settled-{number}")))
                .await
                .unwrap();
            assert!(matches!(state, KeyState::Completed(_)), "{state:?}");
        }
        let state = reopened
            .peek(key(&format!("sealed-{round}")))
            .await
            .unwrap();
        assert!(matches!(state, KeyState::Sealed { .. }), "{state:?}");
        reopened.close().await.unwrap();
    }
}
