//! Calls over HTTP to an axum route: bare, behind onlyonce, and behind what else there is. First calls,
//! each with a key of its own, and then the same calls again.
//!
//! `RUSTFLAGS="--cfg idempotent_2" cargo run --release --ignore-rust-version -p onlyonce-bench
//! --features rivals --bin http -- [ROUNDS] [SECONDS] [FOLDER] [ROUTE ...]`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_bench::http::{Connection, Route, Service};
use onlyonce_bench::load::{self, Measured};
use onlyonce_bench::machine;
use tokio::sync::Mutex;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments
        .next()
        .map_or(5, |text| text.parse().expect("rounds"));
    let seconds: f64 = arguments
        .next()
        .map_or(0.2, |text| text.parse().expect("seconds"));
    let folder: PathBuf = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let chosen: Vec<String> = arguments.collect();
    let time = Duration::from_secs_f64(seconds);
    eprintln!("{}", machine::name());
    println!("round,callers,calls,route,calls_per_s,p50_us,p99_us");
    let mut medians = BTreeMap::new();
    for round in 1..=rounds {
        for callers in callers() {
            for &route in Route::ALL {
                let name = route.name();
                if !chosen.is_empty() && !chosen.iter().any(|chosen| chosen == name) {
                    continue;
                }
                for (calls, Measured { rate, p50, p99 }) in measure(route, callers, time, &folder) {
                    let (p50, p99) = (p50.as_micros(), p99.as_micros());
                    println!("{round},{callers},{calls},{name},{rate:.0},{p50},{p99}");
                    let all: &mut [Vec<f64>; 3] =
                        medians.entry((calls, callers, name)).or_default();
                    all[0].push(rate);
                    all[1].push(p50 as f64);
                    all[2].push(p99 as f64);
                }
            }
        }
    }
    for ((calls, callers, name), mut all) in medians {
        let [rate, p50, p99] = all.each_mut().map(|values| median(values));
        eprintln!("| {calls} | {callers} | {name} | {rate:.0} | {p50:.0} / {p99:.0} us |");
    }
}

/// How many callers there are at once; `CALLERS=16,64` chooses.
fn callers() -> Vec<usize> {
    let chosen = std::env::var("CALLERS").unwrap_or_else(|_| "1,16,64".to_owned());
    let counts = chosen
        .split(',')
        .map(|count| count.parse().expect("a count"));
    counts.collect()
}

/// First calls, and the same again.
fn measure(
    route: Route,
    callers: usize,
    time: Duration,
    folder: &Path,
) -> Vec<(&'static str, Measured)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let service = runtime.block_on(Service::start(route, folder, Duration::ZERO));
    let connect = async || {
        let mut open = Vec::new();
        for _ in 0..callers {
            let connection = Connection::open(service.address()).await;
            open.push((Mutex::new(connection), AtomicU64::new(0)));
        }
        Arc::new(open)
    };
    let connections = runtime.block_on(connect());
    let first = {
        let connections = Arc::clone(&connections);
        load::run(&runtime, callers, time, move |number| {
            let connections = Arc::clone(&connections);
            async move {
                let (connection, made) = &connections[caller(number)];
                let status = connection.lock().await.call(number).await;
                assert_eq!(status, 201, "call {number}");
                made.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let mut measured = vec![("first", first)];
    if route == Route::Bare {
        return measured; // To it a call that comes again is new.
    }
    let made = connections
        .iter()
        .map(|(_, made)| made.load(Ordering::Relaxed));
    let made: u64 = made.sum();
    assert_eq!(service.executed(), made, "each is executed");
    let again = load::run(&runtime, callers, time, move |number| {
        let connections = Arc::clone(&connections);
        async move {
            let (connection, made) = &connections[caller(number)];
            let place = number & ((1 << 40) - 1);
            let before = number - place + place % made.load(Ordering::Relaxed);
            let status = connection.lock().await.call(before).await;
            assert_eq!(status, 201, "call {before}, again");
        }
    });
    measured.push(("again", again));
    let twice = service.executed() - made;
    if twice > 0 {
        eprintln!(
            "{}: {twice} of {made} calls were executed twice",
            route.name()
        );
    }
    measured
}

fn caller(number: u64) -> usize {
    (number >> 40) as usize
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
