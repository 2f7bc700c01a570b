use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::sync::GroupSync;
use super::*;
use crate::outbox::{
    FirstSent, NewCall, OutboxChange, OutboxEntry, OutboxError, OutboxLimits, OutboxState,
    OutboxStore, Unknown, Written,
};
use crate::{IdempotencyKey, Scope, StoreId, Timestamp};

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(name).unwrap()
}

fn call(name: &str, request: impl Into<Bytes>) -> NewCall {
    NewCall::new(key(name), "m", request.into())
}

fn sent() -> FirstSent {
    FirstSent {
        at: Timestamp::from_millis(70),
        store: Some(StoreId::from_bytes([3; 16])),
    }
}

async fn open(path: &Path) -> Result<SledOutbox, OutboxOpenError> {
    SledOutbox::open_async(path, Scope::global(), OutboxOptions::new()).await
}

async fn states(outbox: &SledOutbox) -> Vec<(String, OutboxState)> {
    let list = outbox.list().await.unwrap();
    let told = |entry: OutboxEntry| (entry.key.as_str().to_owned(), entry.state);
    list.into_iter().map(told).collect()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

// H7
#[tokio::test]
async fn calls_with_their_bytes_and_states_outlive_the_process() {
    let folder = folder();
    let path = folder.path().join("outbox");
    let outbox = open(&path).await.unwrap();
    // Larger than a part, and empty.
    let large: Bytes = (0..9_000_u32).flat_map(u32::to_le_bytes).collect();
    for (name, request) in [("a", large.clone()), ("b", Bytes::new()), ("c", "c".into())] {
        assert_eq!(outbox.write(call(name, request)).await, Ok(Written::New));
    }
    for (name, change) in [
        ("a", OutboxChange::MarkSent(sent())),
        ("a", OutboxChange::Answer(large.clone())),
        ("b", OutboxChange::MarkSent(sent())),
        ("b", OutboxChange::GiveUp(Unknown::Aged)),
    ] {
        outbox.change(&key(name), change).await.unwrap();
    }
    let before = outbox.list().await.unwrap();
    let id = outbox.id();
    outbox.close().await.unwrap();

    let outbox = open(&path).await.unwrap();
    assert_eq!(outbox.id(), id);
    assert_eq!(outbox.list().await.unwrap(), before);
    let a = outbox.load(&key("a")).await.unwrap();
    assert_eq!((a.request, a.answer), (large.clone(), Some(large)));
    assert_eq!(outbox.load(&key("b")).await.unwrap().answer, None);
    outbox
        .change(&key("a"), OutboxChange::Acknowledge)
        .await
        .unwrap();
    outbox
        .change(&key("c"), OutboxChange::Cancel)
        .await
        .unwrap();
    outbox.write(call("d", "d")).await.unwrap();
    outbox.close().await.unwrap();

    let outbox = open(&path).await.unwrap();
    let unknown = OutboxState::Unknown {
        sent: sent(),
        because: Unknown::Aged,
    };
    let left = [
        ("b".to_owned(), unknown),
        ("d".to_owned(), OutboxState::Unsent),
    ];
    assert_eq!(states(&outbox).await, left);
    assert_eq!(outbox.list().await.unwrap()[1].number, 4);
}

#[tokio::test]
async fn a_second_opening_is_refused_until_the_first_is_closed() {
    let folder = folder();
    let outbox = open(folder.path()).await.unwrap();
    let second = open(folder.path()).await.unwrap_err();
    assert!(matches!(second, OutboxOpenError::Locked { .. }), "{second}");
    outbox.close().await.unwrap();
    assert_eq!(outbox.list().await, Err(OutboxError::Closed));
    open(folder.path()).await.unwrap();
}

// C12
#[tokio::test]
async fn an_outbox_of_another_principal_is_refused_for_its_keys_are_new_there() {
    let folder = folder();
    open(folder.path()).await.unwrap().close().await.unwrap();
    let scope = Scope::principal("shop-8").unwrap();
    let other = SledOutbox::open_async(folder.path(), scope, OutboxOptions::new()).await;
    let other = other.unwrap_err();
    assert!(
        matches!(other, OutboxOpenError::OtherScope { .. }),
        "{other}"
    );
    open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn a_directory_of_something_else_is_left_alone() {
    let folder = folder();
    fs::write(folder.path().join("letters"), "dear").unwrap();
    let foreign = open(folder.path()).await.unwrap_err();
    assert!(
        matches!(foreign, OutboxOpenError::Foreign { .. }),
        "{foreign}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    // A store is no outbox either, nor an outbox a store.
    let store = folder.path().join("store");
    fs::create_dir(&store).unwrap();
    fs::write(store.join("FORMAT"), "onlyonce sled store, format 1\n").unwrap();
    let foreign = open(&store).await.unwrap_err();
    assert!(
        matches!(foreign, OutboxOpenError::Foreign { .. }),
        "{foreign}"
    );
}

// F10
#[tokio::test]
async fn a_newer_format_is_refused_with_both_versions() {
    let folder = folder();
    fs::write(folder.path().join("FORMAT"), "onlyonce outbox, format 2\n").unwrap();
    let newer = open(folder.path()).await.unwrap_err().to_string();
    assert!(
        newer.contains("format 2, this version reads up to 1"),
        "{newer}"
    );
}

/// Opens the database behind an outbox that is closed.
fn behind(path: &Path, change: impl FnOnce(&::sled::Tree)) {
    let db = ::sled::Config::new()
        .path(path.join("db"))
        .segment_size(super::open::SEGMENT_BYTES)
        .flush_every_ms(None)
        .open()
        .unwrap();
    change(&db.open_tree("onlyonce/outbox").unwrap());
    drop(db);
    crate::sled::disk::wait_until_free(&path.join("db").join("db"));
}

// G5
#[tokio::test]
async fn no_damaged_row_and_no_missing_one_is_believed() {
    let request = vec![5; 8_000];
    let rows = {
        let folder = folder();
        written(folder.path(), &request).await;
        let mut keys = Vec::new();
        behind(folder.path(), |tree| {
            keys.extend(tree.iter().keys().map(Result::unwrap));
        });
        keys
    };
    // Identity, scope, group, next number; the call; three parts of its request, one of its answer.
    assert_eq!(rows.len(), 9);
    for row in &rows {
        let name = String::from_utf8_lossy(&row[8.min(row.len())..]).into_owned();
        if name == "group" || name == "next" {
            // What they are is told by the mark, and by the calls.
            continue;
        }
        for remove in [true, false] {
            let folder = folder();
            written(folder.path(), &request).await;
            behind(folder.path(), |tree| {
                let mut value = tree.remove(row).unwrap().unwrap().to_vec();
                if !remove {
                    value[0] ^= 0x40;
                    tree.insert(row, value).unwrap();
                }
            });
            let refused = open(folder.path()).await.unwrap_err();
            let just = matches!(
                refused,
                OutboxOpenError::Corrupt { .. } | OutboxOpenError::OtherScope { .. }
            );
            assert!(just, "{row:?}, removed: {remove}: {refused}");
        }
    }
}

async fn written(path: &Path, request: &[u8]) {
    let outbox = open(path).await.unwrap();
    outbox.write(call("a", request.to_vec())).await.unwrap();
    let change = OutboxChange::MarkSent(sent());
    outbox.change(&key("a"), change).await.unwrap();
    let change = OutboxChange::Answer("answer".into());
    outbox.change(&key("a"), change).await.unwrap();
    outbox.close().await.unwrap();
}

// F10
#[tokio::test]
async fn the_rows_of_an_outbox_never_change() {
    let folder = folder();
    written(folder.path(), &[5; 4_000]).await;
    let format = fs::read_to_string(folder.path().join("FORMAT")).unwrap();
    assert_eq!(format, "onlyonce outbox, format 1\n");
    let mut rows = Vec::new();
    behind(folder.path(), |tree| {
        let row = |row: Result<(::sled::IVec, ::sled::IVec), _>| {
            let (key, value) = row.unwrap();
            (key.to_vec(), value.len())
        };
        rows.extend(tree.iter().map(row));
    });
    let meta = |name: &[u8]| [&[0; 8], name].concat();
    let of_first = |rest: &[u8]| [&[0, 0, 0, 0, 0, 0, 0, 1], rest].concat();
    assert_eq!(
        rows,
        [
            (meta(b"group"), 8),
            (meta(b"id"), 16),
            (meta(b"next"), 8),
            (meta(b"scope"), 32),
            (of_first(&[0]), rows[4].1),
            (of_first(&[1, 0, 0, 0, 0]), 3_500),
            (of_first(&[1, 0, 0, 0, 1]), 500),
            (of_first(&[2, 0, 0, 0, 0]), 6),
        ]
    );
}

// G5
#[tokio::test]
async fn an_outbox_that_ends_before_what_was_acknowledged_is_refused() {
    let (folder, older) = (folder(), folder());
    written(older.path(), b"r").await;
    copy(older.path(), folder.path());
    let outbox = open(folder.path()).await.unwrap();
    outbox.write(call("b", "b")).await.unwrap();
    outbox.close().await.unwrap();
    // As if sled had taken the end of its log for torn.
    fs::remove_dir_all(folder.path().join("db")).unwrap();
    copy(&older.path().join("db"), &folder.path().join("db"));
    let refused = open(folder.path()).await.unwrap_err();
    assert!(
        matches!(refused, OutboxOpenError::Corrupt { .. }),
        "{refused}"
    );

    fs::remove_file(older.path().join("MARK")).unwrap();
    let refused = open(older.path()).await.unwrap_err();
    assert!(
        matches!(refused, OutboxOpenError::Corrupt { .. }),
        "{refused}"
    );
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Fails to sync once it is told to.
struct FailingSyncer {
    inner: Box<dyn GroupSync>,
    fails: Arc<AtomicBool>,
}

impl GroupSync for FailingSyncer {
    fn flush(&mut self) -> Result<(), String> {
        self.inner.flush()
    }

    fn sync(&mut self, group: u64) -> Result<(), String> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err("no space left".to_owned()),
            false => self.inner.sync(group),
        }
    }

    fn close(self: Box<Self>) {
        self.inner.close();
    }
}

// G6
#[tokio::test]
async fn after_the_first_failed_sync_nothing_is_taken_and_nothing_acknowledged_is_lost() {
    let folder = folder();
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    let options = OutboxOptions::new();
    let outbox = SledOutbox::open_with(folder.path(), &Scope::global(), &options, |inner| {
        Box::new(FailingSyncer {
            inner,
            fails: failing,
        })
    });
    let outbox = outbox.unwrap();
    outbox.write(call("a", "a")).await.unwrap();
    fails.store(true, Ordering::SeqCst);
    let poisoned = Err(OutboxError::Poisoned("no space left".to_owned()));
    assert_eq!(outbox.write(call("b", "b")).await.map(drop), poisoned);
    fails.store(false, Ordering::SeqCst);
    let change = OutboxChange::MarkSent(sent());
    assert_eq!(outbox.change(&key("a"), change).await, poisoned);
    assert_eq!(outbox.list().await.map(drop), poisoned);
    assert_eq!(outbox.close().await, poisoned);

    let outbox = open(folder.path()).await.unwrap();
    let states = states(&outbox).await;
    assert_eq!(states[0], ("a".to_owned(), OutboxState::Unsent));
}

// E14
#[tokio::test]
async fn calls_beyond_the_bounds_are_refused_also_after_a_restart() {
    let folder = folder();
    let limits = OutboxLimits {
        calls_max: 1,
        ..OutboxLimits::default()
    };
    for round in 0..2 {
        let options = OutboxOptions::new().limits(limits);
        let outbox = SledOutbox::open_async(folder.path(), Scope::global(), options).await;
        let outbox = outbox.unwrap();
        let written = [Written::New, Written::There][round];
        assert_eq!(outbox.write(call("a", "a")).await, Ok(written));
        let full = outbox.write(call("b", "b")).await.unwrap_err();
        assert_eq!(full, OutboxError::CallsFull { limit: 1 });
        assert!(full.to_string().contains("acknowledge"), "{full}");
        outbox.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_share_groups_and_all_are_kept() {
    let folder = folder();
    let outbox = Arc::new(open(folder.path()).await.unwrap());
    let mut writing = tokio::task::JoinSet::new();
    for number in 0..200_usize {
        let outbox = Arc::clone(&outbox);
        writing.spawn(async move {
            let name = format!("call-{number}");
            // Together more than one group may write.
            let request = vec![7; number * 200];
            outbox.write(call(&name, request)).await.unwrap();
            let change = OutboxChange::MarkSent(sent());
            outbox.change(&key(&name), change).await.unwrap();
        });
    }
    writing.join_all().await;
    outbox.close().await.unwrap();
    let outbox = open(folder.path()).await.unwrap();
    let states = states(&outbox).await;
    assert_eq!(states.len(), 200);
    assert!(
        states
            .iter()
            .all(|(_, state)| *state == OutboxState::Sent(sent()))
    );
}
