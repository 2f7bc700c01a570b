//! First calls: claim and complete, each durable before it is answered, beside a log by hand; and
//! beside transactional calls (`sled-transaction`), whose effect, a row, and answer are one durable
//! write.
//!
//! `cargo run --release -p onlyonce-bench --bin stores -- [ROUNDS] [SECONDS] [FOLDER] [STORE ...]`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_bench::calls::{Calls, bytes};
use onlyonce_bench::load::{self, Measured};
use onlyonce_bench::log::Log;
use onlyonce_bench::machine;
use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{MemoryOptions, MemoryStore, Store};
use tokio::runtime::Runtime;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments
        .next()
        .map_or(3, |text| text.parse().expect("rounds"));
    let seconds: f64 = arguments
        .next()
        .map_or(1.5, |text| text.parse().expect("seconds"));
    let folder: PathBuf = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let chosen: Vec<String> = arguments.collect();
    let time = Duration::from_secs_f64(seconds);
    eprintln!("{}", machine::name());
    println!("round,callers,store,calls_per_s,p50_us,p99_us");
    for round in 1..=rounds {
        for callers in callers() {
            for store in ["log", "sled", "sled-transaction", "memory"] {
                if !chosen.is_empty() && !chosen.iter().any(|name| name == store) {
                    continue;
                }
                let Measured { rate, p50, p99 } = measure(store, callers, time, &folder);
                println!(
                    "{round},{callers},{store},{rate:.0},{},{}",
                    p50.as_micros(),
                    p99.as_micros()
                );
            }
        }
    }
}

/// How many callers there are at once; `CALLERS=64,256` chooses.
fn callers() -> Vec<usize> {
    let chosen = std::env::var("CALLERS").unwrap_or_else(|_| "1,16,64,256,1024".to_owned());
    let counts = chosen
        .split(',')
        .map(|count| count.parse().expect("a count"));
    counts.collect()
}

fn measure(store: &str, callers: usize, time: Duration, folder: &Path) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    match store {
        "log" => {
            let log = Log::create(&folder.path().join("log")).expect("a log");
            load::run(&runtime, callers, time, move |number| {
                let log = log.clone();
                async move {
                    let mut key = [0; 16];
                    key[..8].copy_from_slice(&number.to_le_bytes());
                    assert!(log.insert(key, bytes(64)).await);
                    log.overwrite(key, bytes(300)).await;
                }
            })
        }
        "sled" => {
            let options = SledOptions::new().limits(Calls::limits());
            let store = SledStore::open(folder.path(), options).expect("a store");
            calls(&runtime, callers, time, Arc::new(store))
        }
        "sled-transaction" => {
            let options = SledOptions::new().limits(Calls::limits());
            let store = SledStore::open(folder.path(), options).expect("a store");
            let calls = Calls::new(Arc::new(store));
            load::run(&runtime, callers, time, move |number| {
                let calls = calls.clone();
                async move { calls.first_in_transaction(number).await }
            })
        }
        _ => {
            let options = MemoryOptions::new()
                .limits(Calls::limits())
                .records_max(100_000_000);
            calls(
                &runtime,
                callers,
                time,
                Arc::new(MemoryStore::with_options(options)),
            )
        }
    }
}

fn calls(runtime: &Runtime, callers: usize, time: Duration, store: Arc<dyn Store>) -> Measured {
    let calls = Calls::new(store);
    load::run(runtime, callers, time, move |number| {
        let calls = calls.clone();
        async move { calls.first(number).await }
    })
}
