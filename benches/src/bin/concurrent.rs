//! What a call costs as more are made at the same time: first calls and calls again through the server's
//! stack on sled, and the memory that this takes.
//!
//! `cargo run --release -p onlyonce-bench --bin concurrent -- [ROUNDS] [CALLS] [FOLDER]`
//!
//! Each run is a process of its own with a store of its own, and makes as many calls as every other, so that
//! what it remembers at the end is the same and memory tells of those that were in flight. `CALLERS=1,64`
//! chooses.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_bench::calls::Calls;
use onlyonce_bench::in_process::Server;
use onlyonce_bench::machine;
use onlyonce_bench::rounds::Rounds;
use onlyonce_storage::sled::{SledOptions, SledStore};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "one") {
        return one(&arguments[1..]);
    }
    let of = |place: usize| arguments.get(place).map(String::as_str);
    let rounds: usize = of(0).map_or(3, |text| text.parse().expect("rounds"));
    let calls: u64 = of(1).map_or(CALLS, |text| text.parse().expect("calls"));
    let folder = of(2).map_or_else(std::env::temp_dir, PathBuf::from);
    eprintln!("{}", machine::name());
    let mut all = Rounds::begin(&["callers"], &FIGURES);
    for round in 1..=rounds {
        for callers in callers() {
            let figures = run(callers, calls, &folder);
            all.note(round, &[&callers.to_string()], &figures);
        }
    }
    all.print_medians();
}

/// A run in a process of its own.
fn run(callers: u64, calls: u64, folder: &Path) -> Vec<f64> {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(["one", &callers.to_string(), &calls.to_string()])
        .arg(folder)
        .stderr(Stdio::inherit())
        .output()
        .expect("a process");
    assert!(output.status.success(), "{callers} callers: it fails");
    let text = String::from_utf8(output.stdout).expect("figures");
    let figures = text.trim().split(',');
    let figures: Vec<f64> = figures
        .map(|text| text.parse().expect("a figure"))
        .collect();
    assert_eq!(figures.len(), FIGURES.len(), "{text}");
    figures
}

/// The run, in this process.
fn one(arguments: &[String]) {
    let [callers, calls, folder] = arguments else {
        panic!("callers, calls and folder");
    };
    let callers: u64 = callers.parse().expect("callers");
    let each = (calls.parse::<u64>().expect("calls") / callers).max(1);
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let options = SledOptions::new().limits(Calls::limits());
    let store = SledStore::open(folder.path(), options).expect("a store");
    let server = Server::over(Arc::new(store));
    let before = machine::resident_bytes();
    let first = make(&runtime, &server, callers, each, 1);
    let most = machine::resident_bytes_max();
    let again = make(&runtime, &server, callers, each, PASSES);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (first, again) = (first.figures(), again.figures());
    let memory = [mib(before), mib(most)];
    let figures: Vec<_> = [&first[..], &again, &memory]
        .concat()
        .iter()
        .map(ToString::to_string)
        .collect();
    println!("{}", figures.join(","));
}

/// How long calls took, each and all together.
struct Took {
    each: Vec<Duration>,
    all: Duration,
}

/// So many callers make `each` calls of their own, one after the other, and all of them so many times.
fn make(runtime: &Runtime, server: &Server, callers: u64, each: u64, passes: u64) -> Took {
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let server = server.clone();
            runtime.spawn(async move {
                let mut took = Vec::new();
                for number in (0..passes).flat_map(|_| 0..each) {
                    let before = Instant::now();
                    server.call((caller << 40) | number).await;
                    took.push(before.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(runtime.block_on(task).expect("no call panics"));
    }
    let all = began.elapsed();
    took.sort_unstable();
    Took { each: took, all }
}

// === impl Took ===

impl Took {
    /// Calls a second, and the p50 and p99 of a call in microseconds.
    fn figures(&self) -> [f64; 3] {
        let at = |percent: usize| {
            let place = (self.each.len() * percent / 100).min(self.each.len() - 1);
            self.each[place].as_nanos() as f64 / 1_000.0
        };
        let rate = self.each.len() as f64 / self.all.as_secs_f64();
        [rate, at(50), at(99)]
    }
}

/// How many callers there are at once.
fn callers() -> Vec<u64> {
    let chosen = std::env::var("CALLERS").unwrap_or_else(|_| "1,4,16,64,256,1024".to_owned());
    let counts = chosen.split(',').map(str::parse);
    counts.map(|count| count.expect("a count")).collect()
}

const FIGURES: [&str; 8] = [
    "first_per_s",
    "first_p50_us",
    "first_p99_us",
    "again_per_s",
    "again_p50_us",
    "again_p99_us",
    "resident_before_mib",
    "resident_most_mib",
];
/// Of each run: a few seconds for one caller, eight calls for each of a thousand.
const CALLS: u64 = 8_192;
/// Calls again take so little that they are made more than once.
const PASSES: u64 = 8;
