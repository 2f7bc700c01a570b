//! Months of calls on a clock that is moved by them: what a store needs stays as it is.
//!
//! Alone in its file, so that nobody else's memory is measured. The long run is
//! `cargo run --release -p onlyonce-bench --bin long_life`.
#![cfg(all(feature = "sled", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{
    Answer, AnswerFormat, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
    Fingerprints, IdempotencyKey, Inspect as _, ManualClock, Scope, ScopedKey, Store as _,
};

/// What a store takes at the end of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Taken {
    disk: u64,
    resident: u64,
}

/// The two files of the log go up and down by eight megabytes each, sled by some of its segments.
/// What was written by the end is more than six times what is allowed.
const DISK_GROWTH_MAX: u64 = 24 * 1024 * 1024;

/// The heap keeps some of what it once had.
const MEMORY_GROWTH_MAX: f64 = 1.5;

/// The horizon of seven days and the bucket that is filled beside it; another one for good measure.
const FILLED_AFTER_DAYS: u32 = 9;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_and_memory_stay_bounded_over_months_of_calls() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let open = || {
        let options = SledOptions::new()
            .clock(clock.clone())
            .cache_capacity(16 * 1024 * 1024);
        Arc::new(SledStore::open(folder.path(), options).unwrap())
    };
    let mut store = open();
    let mut filled: Option<Taken> = None;
    let mut days = Vec::new();
    for day in 0..DAYS {
        spend_day(&store, &clock, day).await;
        // An opening now and then must not bring back what is gone. In the beginning they are many: the
        // threads of each take memory from a part of the heap of their own, of which there are some.
        if day < FILLED_AFTER_DAYS || day % 20 == 19 {
            store.close().await.unwrap();
            drop(store);
            store = open();
        }
        let taken = Taken {
            disk: bytes_of(folder.path()),
            resident: resident(),
        };
        println!("day {day}: {taken:?}");
        if day >= FILLED_AFTER_DAYS {
            let filled = filled.get_or_insert(taken);
            assert!(
                taken.disk <= filled.disk + DISK_GROWTH_MAX,
                "day {day}: {taken:?} after {filled:?}"
            );
            days.push(taken);
        }
    }
    // Memory goes up and down with sled's cache: one half of the time is compared with the other.
    let (early, late) = days.split_at(days.len() / 2);
    let peak = |days: &[Taken]| days.iter().map(|taken| taken.resident).max().unwrap();
    let (early, late) = (peak(early) as f64, peak(late) as f64);
    assert!(late <= early * MEMORY_GROWTH_MAX, "{early} became {late}");
    let written = u64::from(CALLS_A_DAY) * u64::from(DAYS) * ANSWER_BYTES as u64;
    println!("{written} bytes of answers were written");
    // Nobody reads a bound that would hold if nothing were ever removed.
    let allowed = filled.unwrap().disk + DISK_GROWTH_MAX;
    println!("{allowed} bytes are allowed");
    store.close().await.unwrap();
    drop(store);
    let files = files(folder.path());
    assert!(files <= LIVE_FILES_MAX, "{files} files");
}

/// A day of calls, with a sweep every six hours while they are made.
async fn spend_day(store: &Arc<SledStore>, clock: &Arc<ManualClock>, day: u32) {
    let next = Arc::new(AtomicU32::new(0));
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let (store, clock, next) = (store.clone(), clock.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= CALLS_A_DAY {
                        return;
                    }
                    call(&store, day * CALLS_A_DAY + number).await;
                    clock.advance(DAY / CALLS_A_DAY);
                    if number % (CALLS_A_DAY / 4) == 0 {
                        assert_eq!(store.sweep().await.unwrap().paused, None);
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

async fn call(store: &SledStore, number: u32) {
    let key = IdempotencyKey::parse(&format!("call-{number}")).unwrap();
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let request = ClaimRequest::new(
        ScopedKey::new(Scope::global(), key),
        Fingerprints::new(print),
        DAY,
    );
    let ClaimOutcome::Claimed(claim) = store.claim(request).await.unwrap() else {
        panic!("call {number} is new");
    };
    let body: Vec<u8> = (0..ANSWER_BYTES)
        .map(|at| (number as usize + at) as u8)
        .collect();
    let answer = Answer::new(AnswerFormat::new(1), body);
    store.complete(claim, answer).await.unwrap();
}

/// The files of records in a closed store.
fn files(path: &Path) -> usize {
    let entries = fs::read_dir(path.join("pages")).unwrap();
    let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    println!("{names:?}");
    names.len()
}

fn bytes_of(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_of(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DAYS: u32 = 60;
const CALLS_A_DAY: u32 = 1_600;
const ANSWER_BYTES: usize = 4_000;
/// Ten buckets of settled records, as `Bucket::width` promises, and three of answers: those of
/// today, those of yesterday, and those that wait for the next sweep. 120 were made.
const LIVE_FILES_MAX: usize = 10 + 3;
