//! Claimed and transactional first calls on sled, beside the same effect (a row of 64 bytes) without
//! the layer: calls a second, how long they take, syncs and bytes of each. PostgreSQL has a program of
//! its own, `postgres`.
//!
//! `cargo run --release -p onlyonce-bench --bin modes -- [ROUNDS] [SECONDS] [FOLDER]`
//!
//! | kind | durable when it is answered |
//! | --- | --- |
//! | `bare-log` | the row, in a log by hand |
//! | `bare-sled` | the row, in sled, by one thread in groups |
//! | `transactional` | row and answer, in one write of the store |
//! | `claimed` | the claim, in the store; the row, in a log by hand; the answer, in the store |
//!
//! Each run is a process of its own, whose syncs `perf stat` counts; without `perf` they are not counted.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_bench::calls::{Calls, bytes};
use onlyonce_bench::load::{self, Times};
use onlyonce_bench::log::Log;
use onlyonce_bench::machine;
use onlyonce_bench::rounds::Rounds;
use onlyonce_bench::rows::Rows;
use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{Answer, AnswerFormat, ClaimOutcome};
use tokio::runtime::{Builder, Runtime};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "one") {
        return one(&arguments[1..]);
    }
    let number = |place: usize| arguments.get(place).map(String::as_str);
    let rounds = number(0).map_or(5, |text| text.parse().expect("rounds"));
    let seconds: f64 = number(1).map_or(0.5, |text| text.parse().expect("seconds"));
    let folder = number(2).map_or_else(std::env::temp_dir, PathBuf::from);
    eprintln!("{}", machine::name());
    let figures = [
        "calls_per_s",
        "p50_us",
        "p99_us",
        "p999_us",
        "syncs_per_call",
        "written_bytes_per_call",
        "disk_bytes_per_call",
    ];
    let mut all = Rounds::begin(&["callers", "kind"], &figures);
    // What making the store takes is no call's.
    let begun = KINDS.map(|kind| run(kind, 1, 0.0, &folder).syncs);
    for round in 1..=rounds {
        for callers in [1, 16, 64, 256] {
            for (kind, begun) in KINDS.into_iter().zip(begun) {
                let mut ran = run(kind, callers, seconds, &folder);
                ran.syncs -= begun;
                let figures = [
                    ran.rate,
                    ran.p50,
                    ran.p99,
                    ran.p999,
                    ran.syncs / ran.calls,
                    ran.written / ran.calls,
                    ran.disk / ran.calls,
                ];
                all.note(round, &[&callers.to_string(), kind], &figures);
            }
        }
    }
    all.print_medians();
    for callers in ["1", "16", "64", "256"] {
        for bare in ["bare-log", "bare-sled"] {
            for kind in ["transactional", "claimed"] {
                let ratio = |figure| all.ratio(figure, &[callers, kind], &[callers, bare]);
                let (rate, p50) = (ratio("calls_per_s"), ratio("p50_us"));
                eprintln!("{callers} callers: {kind} / {bare} = {rate} calls/s, {p50} p50");
            }
        }
    }
}

/// What a process measured.
struct Ran {
    rate: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    calls: f64,
    syncs: f64,
    /// Handed to the system to write.
    written: f64,
    /// What the system counts as going to the disk, in whole pages.
    disk: f64,
}

fn run(kind: &str, callers: usize, seconds: f64, folder: &Path) -> Ran {
    let counted = tempfile::NamedTempFile::new_in(folder).expect("a file");
    let program = std::env::current_exe().expect("this program");
    let mut command = match has_perf() {
        true => {
            let mut perf = Command::new("perf");
            perf.args(["stat", "-x", ",", "-e", SYNCS, "-o"])
                .arg(counted.path())
                .arg(program);
            perf
        }
        false => Command::new(program),
    };
    let output = command
        .args(["one", kind, &callers.to_string(), &seconds.to_string()])
        .arg(folder)
        .stderr(Stdio::inherit())
        .output()
        .expect("a process");
    assert!(output.status.success(), "{kind} fails");
    let text = String::from_utf8(output.stdout).expect("figures");
    let figures: Vec<f64> = text
        .trim()
        .split(',')
        .map(|figure| figure.parse().expect("a figure"))
        .collect();
    let [rate, p50, p99, p999, calls, written, disk] = figures[..] else {
        panic!("seven figures, not {text}");
    };
    let counts = std::fs::read_to_string(counted.path()).unwrap_or_default();
    let counts = counts
        .lines()
        .filter_map(|line| line.split(',').next()?.parse::<f64>().ok());
    Ran {
        rate,
        p50,
        p99,
        p999,
        calls: calls.max(1.0),
        syncs: if has_perf() { counts.sum() } else { f64::NAN },
        written,
        disk,
    }
}

fn has_perf() -> bool {
    let asked = Command::new("perf")
        .args(["stat", "-e", SYNCS, "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    asked.is_ok_and(|status| status.success())
}

/// One run, in this process.
fn one(arguments: &[String]) {
    let [kind, callers, seconds, folder] = arguments else {
        panic!("kind, callers, seconds and folder");
    };
    let callers = callers.parse().expect("callers");
    let time = Duration::from_secs_f64(seconds.parse().expect("seconds"));
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let measured = measure(&runtime, kind, callers, time, folder.path());
    let (times, [written, disk]) = measured;
    let micros = |share| times.at(share).as_nanos() as f64 / 1_000.0;
    println!(
        "{},{},{},{},{},{written},{disk}",
        times.rate(),
        micros(0.5),
        micros(0.99),
        micros(0.999),
        times.calls,
    );
}

fn measure(
    runtime: &Runtime,
    kind: &str,
    callers: usize,
    time: Duration,
    folder: &Path,
) -> (Times, [u64; 2]) {
    let log = Log::create(&folder.join("log")).expect("a log");
    let store = || {
        let options = SledOptions::new().limits(Calls::limits());
        let store = SledStore::open(folder.join("store"), options).expect("a store");
        Calls::new(Arc::new(store))
    };
    match kind {
        "bare-log" => counted(|| {
            load::times(runtime, callers, time, move |number| {
                let log = log.clone();
                async move { effect(&log, number).await }
            })
        }),
        "bare-sled" => {
            let rows = Rows::create(&folder.join("rows"));
            counted(|| {
                load::times(runtime, callers, time, move |number| {
                    let rows = rows.clone();
                    async move { rows.put(number, bytes(64)).await }
                })
            })
        }
        "transactional" => {
            let calls = store();
            counted(|| {
                load::times(runtime, callers, time, move |number| {
                    let calls = calls.clone();
                    async move { calls.first_in_transaction(number).await }
                })
            })
        }
        "claimed" => {
            let calls = store();
            counted(|| {
                load::times(runtime, callers, time, move |number| {
                    let (calls, log) = (calls.clone(), log.clone());
                    async move { claimed(&calls, &log, number).await }
                })
            })
        }
        other => panic!("no kind is called {other}"),
    }
}

async fn effect(log: &Log, number: u64) {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_le_bytes());
    assert!(log.insert(key, bytes(64)).await, "a new row");
}

async fn claimed(calls: &Calls, log: &Log, number: u64) {
    let claim = calls.store().claim(calls.request(number)).await;
    let ClaimOutcome::Claimed(claim) = claim.expect("the store answers") else {
        panic!("call {number} is new");
    };
    effect(log, number).await;
    let answer = Answer::new(AnswerFormat::new(1), bytes(300));
    let recorded = calls.store().complete(claim, answer).await;
    recorded.expect("the answer is recorded");
}

/// What `run` measures, and what this process wrote meanwhile: bytes handed to the system, and those
/// that it counts as going to the disk.
fn counted(run: impl FnOnce() -> Times) -> (Times, [u64; 2]) {
    let before = written();
    let times = run();
    let after = written();
    (times, [after[0] - before[0], after[1] - before[1]])
}

fn written() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    ["wchar", "write_bytes"].map(|name| {
        let field = |line: &str| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok();
        text.lines().find_map(field).unwrap_or(0)
    })
}

const KINDS: [&str; 4] = ["bare-log", "bare-sled", "transactional", "claimed"];
/// Those that wait for the disk.
const SYNCS: &str =
    "syscalls:sys_enter_fdatasync,syscalls:sys_enter_fsync,syscalls:sys_enter_syncfs";
