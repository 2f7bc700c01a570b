//! Replays out of a store that remembers many calls: time, memory, disk, and opening it again.
//!
//! `cargo run --release -p onlyonce-bench --bin replay -- [RECORDS ...] [--folder FOLDER]`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_bench::calls::Calls;
use onlyonce_bench::machine;
use onlyonce_storage::ClaimOutcome;
use onlyonce_storage::sled::{SledOptions, SledStore};
use tokio::time::Instant;

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
    println!(
        "records,fill_s,replay_p50_us,replay_p99_us,first_call_p50_us,first_call_p99_us,\
         resident_mib,resident_bytes_per_record,disk_mib,disk_bytes_per_record,open_s,\
         replay_after_open_p50_us,replay_after_open_p99_us"
    );
    for count in counts {
        measure(count, &folder);
    }
}

fn measure(count: u64, folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let before = machine::resident_bytes();
    let open = || {
        let options = SledOptions::new().limits(Calls::limits());
        Arc::new(SledStore::open(folder.path(), options).expect("a store"))
    };
    let store = open();
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
    let fill = began.elapsed();
    let calls = Calls::new(store.clone());
    let replays = runtime.block_on(replays(&calls, count));
    let firsts = runtime.block_on(async {
        let mut took = Vec::new();
        for number in 0..SAMPLES {
            let before = Instant::now();
            calls.first(count + number).await;
            took.push(before.elapsed());
        }
        percentiles(took)
    });
    let resident = machine::resident_bytes().saturating_sub(before);
    runtime.block_on(store.close()).expect("the store closes");
    drop((calls, store));
    let disk = machine::folder_bytes(folder.path());
    let began = Instant::now();
    let store = open();
    let opened = began.elapsed();
    let again = runtime.block_on(replays_of(&Calls::new(store.clone()), count));
    runtime.block_on(store.close()).expect("the store closes");
    println!(
        "{count},{:.1},{},{},{},{},{},{},{},{},{:.2},{},{}",
        fill.as_secs_f64(),
        replays.0.as_micros(),
        replays.1.as_micros(),
        firsts.0.as_micros(),
        firsts.1.as_micros(),
        resident >> 20,
        resident / count,
        disk >> 20,
        disk / count,
        opened.as_secs_f64(),
        again.0.as_micros(),
        again.1.as_micros(),
    );
}

async fn replays(calls: &Calls, count: u64) -> (Duration, Duration) {
    // What is measured is how it is after a while, not the first look at a page.
    replays_of(calls, count).await;
    replays_of(calls, count).await
}

async fn replays_of(calls: &Calls, count: u64) -> (Duration, Duration) {
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

const SAMPLES: u64 = 20_000;
