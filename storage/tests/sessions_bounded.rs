//! Very many calls in a session, and what is left of them.
//!
//! 20,000 calls on each store; `ONLYONCE_SESSION_CALLS=1000000` makes a million of them, with
//! `--release` in some minutes.
#![cfg(all(feature = "sled", feature = "memory"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{
    Answer, AnswerFormat, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, MemoryOptions, MemoryStore, Scope, ScopedKey, SessionCall,
    SessionRequest, SessionState, Store,
};
use parking_lot::Mutex;

/// A client's end of a session.
#[derive(Debug)]
struct Client {
    session: u64,
    next: AtomicU64,
    answered: Mutex<Answered>,
    /// Duplicates that were refused as stale.
    stale: AtomicU64,
}

#[derive(Debug)]
struct Answered {
    first_unanswered: u64,
    later: BTreeSet<u64>,
}

/// E7: what is in flight bounds what is kept, and not what was ever called. The store refuses more
/// than that by its own bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory_as_many_records_are_kept_as_are_in_flight() {
    let store = Arc::new(MemoryStore::with_options(
        MemoryOptions::new().records_max(LIVE_MAX),
    ));
    let client = Client::open(&*store).await;
    client.calls(store, calls()).await;
    let stale = client.stale.load(Ordering::SeqCst);
    println!("{} calls, never more than {LIVE_MAX} records", calls());
    assert!(stale > calls() / 100, "{stale} late duplicates were sent");
}

/// E7: the same on a disk, with openings in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_acknowledged_calls_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let options = SledOptions::new().log_bytes(256 * 1024);
        Arc::new(SledStore::open(folder.path(), options).unwrap())
    };
    let mut store = open();
    let client = Client::open(&*store).await;
    let mut made = 0;
    for stretch in 1..=STRETCHES {
        let until = calls() * stretch / STRETCHES;
        client.calls(store.clone(), until - made).await;
        made = until;
        store.close().await.unwrap();
        drop(store);
        println!("{made} calls: {} live records", live(folder.path()));
        store = open();
    }
    store.close().await.unwrap();
    drop(store);
    let live = live(folder.path());
    println!("{made} calls: {live} live records at the end");
    assert!(live <= LIVE_MAX, "{live} records");
    assert_eq!(bytes(&folder.path().join("pages")), 0, "nothing is settled");
    let stale = client.stale.load(Ordering::SeqCst);
    assert!(stale > calls() / 100, "{stale} late duplicates were sent");
}

impl Answered {
    fn take(&mut self, number: u64) {
        self.later.insert(number);
        while self.later.remove(&self.first_unanswered) {
            self.first_unanswered += 1;
        }
    }
}

impl Client {
    async fn open(store: &dyn Store) -> Arc<Self> {
        let opened = store.session(Scope::global(), SessionRequest::Open).await;
        let Ok(SessionState::Live { session, .. }) = opened else {
            panic!("{opened:?}");
        };
        Arc::new(Self {
            session,
            next: AtomicU64::new(1),
            answered: Mutex::new(Answered {
                first_unanswered: 1,
                later: BTreeSet::new(),
            }),
            stale: AtomicU64::new(0),
        })
    }

    /// Makes `count` more calls, 64 at a time.
    async fn calls(self: &Arc<Self>, store: Arc<dyn Store>, count: u64) {
        let until = self.next.load(Ordering::SeqCst) + count;
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let (client, store) = (Arc::clone(self), store.clone());
                tokio::spawn(async move {
                    loop {
                        let number = client.next.fetch_add(1, Ordering::SeqCst);
                        if number >= until {
                            client.next.fetch_sub(1, Ordering::SeqCst);
                            return;
                        }
                        client.call(&*store, number).await;
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
    }

    async fn call(&self, store: &dyn Store, number: u64) {
        let first_unanswered = loop {
            let first_unanswered = self.answered.lock().first_unanswered;
            if number < first_unanswered + WINDOW {
                break first_unanswered;
            }
            tokio::task::yield_now().await;
        };
        // Now and then the message that acknowledges more was overtaken.
        let told = first_unanswered.saturating_sub(number % 7).max(1);
        let outcome = store.claim(self.request(number, told)).await.unwrap();
        let ClaimOutcome::Claimed(claim) = outcome else {
            panic!("call {number} is new: {outcome:?}");
        };
        let answer = Answer::new(AnswerFormat::new(1), vec![0; ANSWER_BYTES]);
        store.complete(claim, answer).await.unwrap();
        self.answered.lock().take(number);
        if number.is_multiple_of(50) && number > 2_000 {
            // A copy that was long under way: the server was told of it since.
            let outcome = store.claim(self.request(number - 2_000, 1)).await.unwrap();
            assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
            self.stale.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn request(&self, number: u64, first_unanswered: u64) -> ClaimRequest {
        let key = IdempotencyKey::parse(&format!("call-{number}")).unwrap();
        let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
        let mut request = ClaimRequest::new(
            ScopedKey::new(Scope::global(), key),
            Fingerprints::new(print),
            Duration::from_secs(30),
        );
        request.session = Some(SessionCall {
            session: self.session,
            sequence: number,
            first_unanswered,
        });
        request
    }
}

/// The rows of calls in a closed store.
fn live(path: &Path) -> usize {
    let config = ::sled::Config::new().path(path.join("db"));
    let db = config.segment_size(SEGMENT_BYTES).open().unwrap();
    db.open_tree("onlyonce/open")
        .unwrap()
        .iter()
        .keys()
        .filter(|key| key.as_ref().unwrap().len() == 32)
        .count()
}

fn bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap();
    entries
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

fn calls() -> u64 {
    let calls = std::env::var("ONLYONCE_SESSION_CALLS").ok();
    calls.map_or(20_000, |calls| calls.parse().unwrap())
}

const ANSWER_BYTES: usize = 100;
/// As the store has it; sled opens its files with no other.
const SEGMENT_BYTES: usize = 2 * 1024 * 1024;
const CALLERS: u64 = 64;
const STRETCHES: u64 = 5;
/// How far a caller may be ahead of the slowest.
const WINDOW: u64 = 512;
const LIVE_MAX: usize = 1_024;
