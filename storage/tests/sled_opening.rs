//! Opening a directory: what is refused, what is repaired, and what is said.
#![cfg(feature = "sled")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::sled::{OpenError, SledOptions, SledStore, SyncPoint};
use onlyonce_storage::{
    ClockSuspicion, IdempotencyKey, Inspect, KeyState, ManualClock, Scope, ScopedKey, Store,
};

fn open(path: &Path) -> Result<SledStore, OpenError> {
    SledStore::open(path, SledOptions::new())
}

fn key(text: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(text).unwrap())
}

/// Everything in a directory, with its bytes.
fn listing(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let content = fs::read(entry.path()).unwrap_or_default();
            (entry.file_name().to_string_lossy().into_owned(), content)
        })
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_store_that_is_open_is_refused_at_once_and_free_after_closing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let second = open(folder.path());
    assert!(
        matches!(second, Err(OpenError::Locked { .. })),
        "{second:?}"
    );
    store.close().await.unwrap();
    let again = open(folder.path()).unwrap();
    assert_eq!(again.id(), store.id());
    again.close().await.unwrap();
}

#[test]
fn whoever_holds_the_lock_file_keeps_the_store_shut() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let lock = fs::File::open(folder.path().join("LOCK")).unwrap();
    lock.try_lock().unwrap();
    let refused = open(folder.path());
    assert!(
        matches!(refused, Err(OpenError::Locked { .. })),
        "{refused:?}"
    );
    drop(lock);
    drop(open(folder.path()).unwrap());
}

#[tokio::test]
async fn closing_frees_the_directory_every_time() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let store = open(folder.path()).unwrap();
        store.seal(key("k")).await.unwrap();
        store.close().await.unwrap();
    }
}

#[test]
fn a_foreign_directory_is_refused_and_left_untouched() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "work of years").unwrap();
    let before = listing(folder.path());
    let refused = open(folder.path());
    match refused {
        Err(OpenError::Foreign { ref found, .. }) => assert_eq!(found, "thesis.tex"),
        other => panic!("{other:?}"),
    }
    assert_eq!(listing(folder.path()), before);
}

#[test]
fn a_plain_sled_database_is_foreign() {
    let folder = tempfile::tempdir().unwrap();
    {
        let db = sled::Config::new()
            .path(folder.path())
            .flush_every_ms(None)
            .open()
            .unwrap();
        db.insert("a", "b").unwrap();
    }
    let refused = open(folder.path());
    assert!(
        matches!(refused, Err(OpenError::Foreign { .. })),
        "{refused:?}"
    );
}

#[test]
fn another_format_is_foreign_and_a_newer_one_is_named_with_ours() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("FORMAT");
    for content in [
        &b"something else"[..],
        b"onlyonce sled store, format x",
        b"\xff\xfe",
    ] {
        fs::write(&mark, content).unwrap();
        let refused = open(folder.path());
        assert!(
            matches!(refused, Err(OpenError::Foreign { .. })),
            "{refused:?}"
        );
    }
    fs::write(&mark, "onlyonce sled store, format 7\n").unwrap();
    let before = listing(folder.path());
    let refused = open(folder.path());
    let Err(error @ OpenError::NewerFormat { .. }) = refused else {
        panic!("{refused:?}");
    };
    let text = error.to_string();
    assert!(
        text.contains("has format 7, this version reads up to"),
        "{text}"
    );
    assert_eq!(listing(folder.path()), before);
}

#[test]
fn the_mark_on_disk_has_these_bytes() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let mark = fs::read(folder.path().join("FORMAT")).unwrap();
    assert_eq!(mark, b"onlyonce sled store, format 1\n");
}

#[test]
fn a_path_that_is_no_directory_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for path in [file.clone(), file.join("below")] {
        let refused = open(&path);
        assert!(
            matches!(refused, Err(OpenError::NotADirectory { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(fs::read(&file).unwrap(), b"x");
}

#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_directory_says_so() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("read-only");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
    // Whoever may write everywhere (a container's root) needs a place where nobody may.
    let probe = fs::write(path.join("probe"), "");
    let denied = probe.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    if denied {
        let refused = open(&path);
        assert!(
            matches!(refused, Err(OpenError::NotWritable { .. })),
            "{refused:?}"
        );
        return;
    }
    let refused = open(Path::new("/sys/onlyonce"));
    assert!(
        matches!(refused, Err(OpenError::NotWritable { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_left_over_snapshot_does_not_keep_a_store_shut() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let sealed = store.seal(key("k")).await.unwrap();
    store.close().await.unwrap();
    let left = folder.path().join("db/snap.00000000000012AB.generating");
    fs::write(&left, b"half of a snapsh").unwrap();

    let store = open(folder.path()).unwrap();
    assert_eq!(store.peek(key("k")).await, Ok(sealed));
    assert!(!left.exists());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_first_opening_that_crashed_before_its_mark_is_opened_as_new() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("LOCK"), "").unwrap();
    fs::write(folder.path().join("FORMAT.new"), "onlyon").unwrap();
    let store = open(folder.path()).unwrap();
    assert_eq!(store.peek(key("k")).await, Ok(KeyState::Absent));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_database_is_an_error_never_a_panic_and_never_an_empty_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    for number in 0..200 {
        store.seal(key(&format!("key-{number}"))).await.unwrap();
    }
    store.close().await.unwrap();
    let db = folder.path().join("db");
    let configuration = db.join("conf");
    let whole = fs::read(&configuration).unwrap();
    fs::write(&configuration, b"\0\0\0\0garbage").unwrap();
    let refused = open(folder.path());
    assert!(
        matches!(refused, Err(OpenError::Corrupt { .. })),
        "{refused:?}"
    );
    fs::write(&configuration, whole).unwrap();

    // The store is still there when what was damaged is put back.
    let again = open(folder.path()).unwrap();
    let state = again.peek(key("key-7")).await.unwrap();
    assert!(matches!(state, KeyState::Sealed { .. }), "{state:?}");
    again.close().await.unwrap();
}

/// sled takes the first damaged message of its log for the end of it, and opens what is left.
#[tokio::test]
async fn a_database_that_lost_what_was_acknowledged_is_corrupt_never_a_shorter_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    for number in 0..200 {
        store.seal(key(&format!("key-{number}"))).await.unwrap();
    }
    store.close().await.unwrap();
    let log = folder.path().join("db/db");
    let length = fs::metadata(&log).unwrap().len() as usize;
    let mut refused = 0;
    for at in (0..length).step_by(length / 12) {
        let copy = tempfile::tempdir().unwrap();
        copy_all(folder.path(), copy.path());
        let damaged = copy.path().join("db/db");
        let mut bytes = fs::read(&damaged).unwrap();
        bytes
            .iter_mut()
            .skip(at)
            .take(64)
            .for_each(|byte| *byte ^= 0xff);
        fs::write(&damaged, bytes).unwrap();
        match open(copy.path()) {
            Err(OpenError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("byte {at}: {other:?}"),
            // Where nothing was lost by it.
            Ok(store) => {
                for number in 0..200 {
                    let state = store.peek(key(&format!("key-{number}"))).await.unwrap();
                    assert!(
                        matches!(state, KeyState::Sealed { .. }),
                        "byte {at}: {state:?}"
                    );
                }
                store.close().await.unwrap();
            }
        }
    }
    assert!(refused >= 6, "only {refused} damages were seen");
}

#[tokio::test]
async fn a_store_whose_database_was_wiped_is_corrupt_never_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    store.seal(key("k")).await.unwrap();
    store.close().await.unwrap();
    fs::remove_dir_all(folder.path().join("db")).unwrap();
    let refused = open(folder.path());
    assert!(
        matches!(refused, Err(OpenError::Corrupt { .. })),
        "{refused:?}"
    );
}

/// What was acknowledged and is not yet in sled is there, and how far sled had come.
#[tokio::test]
async fn a_store_that_was_used_and_has_no_log_is_corrupt() {
    for name in ["LOG-0", "LOG-1"] {
        for lost in ["removed", "emptied", "cut", "damaged"] {
            let folder = tempfile::tempdir().unwrap();
            let store = open(folder.path()).unwrap();
            store.seal(key("k")).await.unwrap();
            store.close().await.unwrap();
            let log = folder.path().join(name);
            match lost {
                "removed" => fs::remove_file(&log).unwrap(),
                "emptied" => fs::write(&log, "").unwrap(),
                "cut" => fs::write(&log, &fs::read(&log).unwrap()[..63]).unwrap(),
                _ => fs::write(&log, "damaged").unwrap(),
            }
            match open(folder.path()) {
                Err(OpenError::Corrupt { reason, .. }) => {
                    assert!(reason.contains(name), "{reason}");
                }
                other => panic!("{name} {lost}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_was_away_for_longer_than_it_remembers_forgets_nothing_until_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let open = || SledStore::open(folder.path(), SledOptions::new().clock(clock.clone())).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let store = open();
    let sealed = store.seal(key("k")).await.unwrap();
    store.close().await.unwrap();
    clock.advance(day * 30);
    for _ in 0..2 {
        let store = open();
        let swept = store.sweep().await.unwrap();
        let away = matches!(swept.paused, Some(ClockSuspicion::LongAway { .. }));
        assert!(away, "{swept:?}");
        assert_eq!(store.peek(key("k")).await, Ok(sealed.clone()));
        store.close().await.unwrap();
    }
    let store = open();
    store.confirm_clock().await.unwrap();
    assert_eq!(store.sweep().await.unwrap().paused, None);
    assert_eq!(store.peek(key("k")).await, Ok(KeyState::Absent));
    store.close().await.unwrap();
    let store = open();
    assert_eq!(
        store.sweep().await.unwrap().paused,
        None,
        "it was confirmed"
    );
    store.close().await.unwrap();
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_sync_point_makes_any_sled_database_durable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("accounts.sled");
    let sync = SyncPoint::open(&path).unwrap();
    let db = sled::Config::new()
        .path(&path)
        .flush_every_ms(None)
        .open()
        .unwrap();
    db.insert("alice", "100").unwrap();
    sync.commit(&db).unwrap();
    assert!(SyncPoint::open(path.join("db").join("no-directory")).is_err());
}
