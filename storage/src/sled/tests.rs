//! What only the inside of the store can show: faults at the seam, and how many syncs are made.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Barrier;

use super::{OpenError, SledOptions, SledStore};
use crate::commit::disk::{Disk, Due, Engine, Syncer};
use crate::commit::{Change, Rows};
use crate::record::{CallRecord, Record};
use crate::{
    Answer, AnswerFormat, Claim, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, Inspect, KeyDigest, KeyState, RetentionOptions, Scope, ScopedKey,
    SettleError, Store, StoreError, Swept, Timestamp,
};

/// What a disk is told to do, and what it did.
#[derive(Debug, Default)]
struct Script {
    fails_in: parking_lot::Mutex<Option<Step>>,
    syncs: AtomicUsize,
    /// While set, syncs wait: so that a crowd gathers.
    slow: AtomicBool,
    /// While set, nothing is synced: where many groups are made and none is to survive.
    unsynced: AtomicBool,
    sweep: parking_lot::Mutex<Vec<&'static str>>,
    /// Records that were read, and changes that were applied.
    reads: AtomicUsize,
    changes: AtomicUsize,
    groups: AtomicUsize,
    moves: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Apply,
    Flush,
    HandOver,
    /// The sync fails only after a while.
    LateSync,
    Panic,
    Sync,
}

struct Faulty<T: ?Sized> {
    inner: Box<T>,
    script: Arc<Script>,
}

// === impl Faulty ===

impl<T: ?Sized> Faulty<T> {
    /// Fails once: a store that went on would succeed the next time, as an operating system does.
    fn step(&self, step: Step) -> Result<(), String> {
        let mut fails_in = self.script.fails_in.lock();
        if *fails_in == Some(step) {
            *fails_in = None;
            return Err(format!("{step:?} fails, as the test wants"));
        }
        Ok(())
    }
}

impl Rows for Faulty<dyn Disk> {
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        assert!(
            self.step(Step::Panic).is_ok(),
            "the read panics, as the test wants"
        );
        self.script.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.record(key)
    }

    fn answer(&self, key: KeyDigest, call: &CallRecord) -> Result<Option<Answer>, StoreError> {
        self.inner.answer(key, call)
    }
}

impl Disk for Faulty<dyn Disk> {
    fn apply(&mut self, changes: Vec<Change>, now: Timestamp) -> Result<(), String> {
        self.step(Step::Apply)?;
        self.script
            .changes
            .fetch_add(changes.len(), Ordering::SeqCst);
        self.inner.apply(changes, now)
    }

    fn hand_over(&mut self) -> Result<u64, String> {
        self.step(Step::HandOver)?;
        self.script.groups.fetch_add(1, Ordering::SeqCst);
        self.inner.hand_over()
    }

    fn note_used(&mut self, now: Timestamp) -> Result<(), String> {
        self.inner.note_used(now)
    }

    fn due(&self, retention: &RetentionOptions, now: Timestamp) -> Due {
        self.inner.due(retention, now)
    }

    fn move_some(&mut self, due: &Due, now: Timestamp) -> Result<bool, String> {
        self.script.moves.fetch_add(1, Ordering::SeqCst);
        self.inner.move_some(due, now)
    }

    fn note(&mut self, due: &Due, now: Timestamp) -> Result<(), String> {
        self.script.sweep.lock().push("note");
        self.inner.note(due, now)
    }

    fn remove(&mut self, due: &Due) -> Result<Swept, String> {
        self.script.sweep.lock().push("remove");
        self.inner.remove(due)
    }

    fn close(self: Box<Self>, syncer: Box<dyn Syncer>) {
        self.inner.close(syncer);
    }
}

impl Syncer for Faulty<dyn Syncer> {
    fn flush(&mut self) -> Result<(), String> {
        self.step(Step::Flush)?;
        if self.script.unsynced.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.inner.flush()
    }

    fn sync(&mut self, group: u64) -> Result<(), String> {
        self.step(Step::Sync)?;
        self.script.syncs.fetch_add(1, Ordering::SeqCst);
        self.script.sweep.lock().push("sync");
        if self.script.slow.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        self.step(Step::LateSync)?;
        if self.script.unsynced.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.inner.sync(group)
    }

    fn close(self: Box<Self>) {
        self.inner.close();
    }
}

fn open(path: &Path, options: &SledOptions) -> (Arc<SledStore>, Arc<Script>) {
    let script = Arc::new(Script::default());
    let (in_disk, in_syncer) = (Arc::clone(&script), Arc::clone(&script));
    let store = SledStore::open_with(path, options, |engine| Engine {
        disk: Box::new(Faulty {
            inner: engine.disk,
            script: in_disk,
        }),
        syncer: Box::new(Faulty {
            inner: engine.syncer,
            script: in_syncer,
        }),
    });
    (Arc::new(store.unwrap()), script)
}

fn key(text: &str) -> ScopedKey {
    ScopedKey::new(Scope::global(), IdempotencyKey::parse(text).unwrap())
}

fn request(key: &ScopedKey) -> ClaimRequest {
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    ClaimRequest::new(
        key.clone(),
        Fingerprints::new(print),
        Duration::from_secs(30),
    )
}

fn answer(body: &[u8]) -> Answer {
    Answer::new(AnswerFormat::new(1), body.to_vec())
}

async fn claimed(store: &SledStore, key: &ScopedKey) -> Claim {
    match store.claim(request(key)).await.unwrap() {
        ClaimOutcome::Claimed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

fn is_poisoned<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Poisoned(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_claims_share_their_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let (store, script) = open(folder.path(), &SledOptions::new());
    let barrier = Arc::new(Barrier::new(64));
    script.slow.store(true, Ordering::SeqCst);
    let tasks: Vec<_> = (0..64)
        .map(|number| {
            let (store, barrier) = (Arc::clone(&store), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                let key = key(&number.to_string());
                let claim = claimed(&store, &key).await;
                store.complete(claim, answer(b"paid")).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let syncs = script.syncs.load(Ordering::SeqCst);
    assert!(syncs <= 16, "128 operations needed {syncs} syncs");
}

#[tokio::test]
async fn what_only_reads_needs_no_sync() {
    let folder = tempfile::tempdir().unwrap();
    let (store, script) = open(folder.path(), &SledOptions::new());
    let claim = claimed(&store, &key("busy")).await;
    assert_eq!(script.syncs.load(Ordering::SeqCst), 1);
    for _ in 0..10 {
        store.peek(key("busy")).await.unwrap();
        store.claim(request(&key("busy"))).await.unwrap();
    }
    assert_eq!(script.syncs.load(Ordering::SeqCst), 1);
    store.complete(claim, answer(b"paid")).await.unwrap();
    assert_eq!(script.syncs.load(Ordering::SeqCst), 2);
}

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

// G4: there is one writer, so nobody conflicts and nothing is tried again. A thousand who want the
// same key are told in a few groups.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_writers_of_one_key_conflict_with_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (store, script) = open(folder.path(), &SledOptions::new());
    let barrier = Arc::new(Barrier::new(1_000));
    script.slow.store(true, Ordering::SeqCst);
    let tasks: Vec<_> = (0..1_000)
        .map(|_| {
            let (store, barrier) = (Arc::clone(&store), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                let key = key("hot");
                match store.claim(request(&key)).await.unwrap() {
                    ClaimOutcome::Claimed(mut claim) => {
                        for _ in 0..3 {
                            let lease = Duration::from_secs(60);
                            store.renew(&mut claim, lease).await.unwrap();
                        }
                        store.complete(claim, answer(b"paid")).await.unwrap();
                        1
                    }
                    ClaimOutcome::InProgress { .. } | ClaimOutcome::Completed(_) => 0,
                    other => panic!("{other:?}"),
                }
            })
        })
        .collect();
    let mut given = 0;
    for task in tasks {
        given += task.await.unwrap();
    }
    assert_eq!(given, 1);
    // What one writes is written: a claim, three renewals, the answer, and nothing for the others.
    assert_eq!(script.changes.load(Ordering::SeqCst), 5);
    let groups = script.groups.load(Ordering::SeqCst);
    assert!(groups <= 5, "1,004 operations were {groups} groups");
    let state = store.peek(key("hot")).await.unwrap();
    assert!(matches!(state, KeyState::Completed(_)), "{state:?}");
    store.close().await.unwrap();
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

// G5: nobody knows whose records were on a page that cannot be read.
#[tokio::test]
async fn a_missing_or_damaged_page_keeps_the_store_shut() {
    for kind in ["onlyonce/recent/", "onlyonce/settled/"] {
        for damage in ["missing", "damaged", "shortened"] {
            let folder = store_with_large_answers().await;
            harm(folder.path(), kind, damage);
            let refused = SledStore::open(folder.path(), SledOptions::new());
            let corrupt = matches!(refused, Err(OpenError::Corrupt { .. }));
            assert!(corrupt, "{kind} {damage}: {refused:?}");
        }
    }
}

// G5
#[tokio::test]
async fn a_missing_answer_is_corrupt_never_absent() {
    let folder = store_with_large_answers().await;
    harm(folder.path(), "onlyonce/recent/", "tree");
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    let replayed = store.claim(request(&key("kept-1"))).await;
    assert!(
        matches!(replayed, Err(StoreError::Corrupt(_))),
        "{replayed:?}"
    );
    let peeked = store.peek(key("kept-1")).await;
    assert!(matches!(peeked, Err(StoreError::Corrupt(_))), "{peeked:?}");
    store.close().await.unwrap();
}

async fn store_with_large_answers() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path(), SledOptions::new()).unwrap();
    for number in 0..5 {
        let claim = claimed(&store, &key(&format!("kept-{number}"))).await;
        store.complete(claim, answer(&[7; 20_000])).await.unwrap();
    }
    store.close().await.unwrap();
    folder
}

/// Changes a tree of a closed store behind its back.
fn harm(path: &Path, kind: &str, damage: &str) {
    let db = raw(path);
    let name = db
        .tree_names()
        .into_iter()
        .find(|name| name.starts_with(kind.as_bytes()))
        .unwrap();
    let tree = db.open_tree(&name).unwrap();
    let (place, value) = tree.iter().nth(2).unwrap().unwrap();
    let mut value = value.to_vec();
    match damage {
        "missing" => drop(tree.remove(&place).unwrap()),
        "damaged" => {
            value[100] ^= 1;
            tree.insert(&place, value).unwrap();
        }
        "shortened" => {
            value.truncate(50);
            tree.insert(&place, value).unwrap();
        }
        _ => drop(db.drop_tree(&name).unwrap()),
    }
    super::SyncPoint::flush(&db).unwrap();
    drop((tree, db));
    wait_for(path);
}

/// The database of a closed store.
fn raw(path: &Path) -> ::sled::Db {
    ::sled::Config::new()
        .path(path.join("db"))
        .segment_size(super::open::SEGMENT_BYTES)
        .flush_every_ms(None)
        .open()
        .unwrap()
}

/// sled gives its file back a moment after the last handle is dropped.
fn wait_for(path: &Path) {
    let file = std::fs::File::open(path.join("db").join("db")).unwrap();
    file.lock().unwrap();
}

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

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
