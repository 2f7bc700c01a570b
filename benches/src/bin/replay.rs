//! Replays out of stores that remember few and many calls: time, memory, disk, and opening them
//! again, after they were closed and as a crash leaves them.
//!
//! `cargo run --release -p onlyonce-bench --bin replay -- [RECORDS ...] [--folder FOLDER]`

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_bench::calls::Calls;
use onlyonce_bench::machine;
use onlyonce_storage::ClaimOutcome;
use onlyonce_storage::sled::{SledOptions, SledStore};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// A store that remembers `count` calls.
struct Filled {
    count: u64,
    folder: TempDir,
    store: Arc<SledStore>,
    fill: Duration,
    resident: u64,
    replays: Vec<(Duration, Duration)>,
    firsts: Vec<(Duration, Duration)>,
}

fn main() {
    let mut counts: Vec<u64> = Vec::new();
    let mut folder = std::env::temp_dir();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--folder" => folder = PathBuf::from(arguments.next().expect("a folder")),
            count => counts.push(count.parse().expect("a count")),
        }
    }
    if counts.is_empty() {
        counts = vec![10_000, 1_000_000];
    }
    eprintln!("{}", machine::name());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let fill = |count| Filled::new(&runtime, count, &folder);
    let mut stores: Vec<_> = counts.into_iter().map(fill).collect();
    // All are there while each is measured, one after the other, round after round.
    for _ in 0..ROUNDS {
        for store in &mut stores {
            store.measure(&runtime);
        }
    }
    println!(
        "records,fill_s,replay_p50_us,replay_p99_us,first_call_p50_us,first_call_p99_us,\
         resident_mib,resident_bytes_per_record,disk_mib,disk_bytes_per_record,open_s,\
         replay_after_open_p50_us,replay_after_open_p99_us,open_after_crash_s,\
         second_open_after_crash_s"
    );
    for store in stores {
        store.report(&runtime, &folder);
    }
}

// === impl Filled ===

impl Filled {
    fn new(runtime: &Runtime, count: u64, base: &Path) -> Self {
        let folder = tempfile::tempdir_in(base).expect("a folder");
        let before = machine::resident_bytes();
        let store = open(folder.path());
        let began = Instant::now();
        let callers = 1_024.min(count);
        let tasks: Vec<_> = (0..callers)
            .map(|caller| {
                let calls = Calls::new(store.clone());
                runtime.spawn(async move {
                    let mut number = caller;
                    while number < count {
                        calls.first(number).await;
                        number += callers;
                    }
                })
            })
            .collect();
        for task in tasks {
            runtime.block_on(task).expect("no call panics");
        }
        Self {
            count,
            folder,
            store,
            fill: began.elapsed(),
            resident: machine::resident_bytes().saturating_sub(before),
            replays: Vec::new(),
            firsts: Vec::new(),
        }
    }

    fn measure(&mut self, runtime: &Runtime) {
        let calls = Calls::new(self.store.clone());
        let round = self.firsts.len() as u64;
        self.replays
            .push(runtime.block_on(replays(&calls, self.count)));
        let firsts = runtime.block_on(async {
            let mut took = Vec::new();
            for number in 0..FIRSTS {
                let before = Instant::now();
                calls.first(self.count + round * FIRSTS + number).await;
                took.push(before.elapsed());
            }
            percentiles(took)
        });
        self.firsts.push(firsts);
    }

    fn report(self, runtime: &Runtime, base: &Path) {
        let Self {
            count,
            folder,
            store,
            fill,
            resident,
            replays: told,
            firsts,
        } = self;
        // What a killed process leaves: the files as they are while it is open.
        let crashed = tempfile::tempdir_in(base).expect("a folder");
        copy(folder.path(), crashed.path());
        runtime.block_on(store.close()).expect("the store closes");
        drop(store);
        let disk = machine::folder_bytes(folder.path());
        let began = Instant::now();
        let store = open(folder.path());
        let opened = began.elapsed();
        let again = runtime.block_on(replays(&Calls::new(store.clone()), count));
        runtime.block_on(store.close()).expect("the store closes");
        drop((store, folder));
        let [after_crash, second] = [1, 2].map(|_| {
            let began = Instant::now();
            let store = open(crashed.path());
            let opened = began.elapsed();
            runtime.block_on(replays(&Calls::new(store.clone()), count));
            runtime.block_on(store.close()).expect("the store closes");
            opened
        });
        let (replay, first) = (median(told), median(firsts));
        println!(
            "{count},{:.1},{:.1},{:.1},{},{},{},{},{},{},{:.2},{:.1},{:.1},{:.2},{:.2}",
            fill.as_secs_f64(),
            micros(replay.0),
            micros(replay.1),
            first.0.as_micros(),
            first.1.as_micros(),
            resident >> 20,
            resident / count,
            disk >> 20,
            disk / count,
            opened.as_secs_f64(),
            micros(again.0),
            micros(again.1),
            after_crash.as_secs_f64(),
            second.as_secs_f64(),
        );
    }
}

fn open(path: &Path) -> Arc<SledStore> {
    let options = SledOptions::new().limits(Calls::limits());
    Arc::new(SledStore::open(path, options).expect("a store"))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Of each of the two, over the rounds.
fn median(rounds: Vec<(Duration, Duration)>) -> (Duration, Duration) {
    let (mut first, mut second): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
    first.sort_unstable();
    second.sort_unstable();
    (first[first.len() / 2], second[second.len() / 2])
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            fs::create_dir(&target).expect("a folder");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

async fn replays(calls: &Calls, count: u64) -> (Duration, Duration) {
    let mut took = Vec::new();
    for _ in 0..SAMPLES {
        let number = fastrand::u64(..count);
        let request = calls.request(number);
        let before = Instant::now();
        let outcome = calls
            .store()
            .claim(request)
            .await
            .expect("the store answers");
        took.push(before.elapsed());
        assert!(matches!(outcome, ClaimOutcome::Completed(_)), "{outcome:?}");
    }
    percentiles(took)
}

fn percentiles(mut took: Vec<Duration>) -> (Duration, Duration) {
    took.sort_unstable();
    let at = |share: usize| took[took.len() * share / 100];
    (at(50), at(99))
}

const ROUNDS: usize = 5;
const SAMPLES: u64 = 20_000;
const FIRSTS: u64 = 1_000;
