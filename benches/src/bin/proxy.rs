//! The proxy beside nginx, a bare proxy of hyper's, and nothing, in front of the same service: calls a
//! second, how long they take, and memory while many connections are idle. Each proxy is a process of
//! its own with two threads (or workers); load, service and proxy share the machine.
//!
//! `cargo run --release -p onlyonce-bench --bin proxy -- [ROUNDS] [SECONDS] [FOLDER] [KIND ...]`, and
//! `-- idle [CONNECTIONS] [FOLDER]`

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onlyonce_bench::http::Connection;
use onlyonce_bench::load::{self, Times};
use onlyonce_bench::machine;
use onlyonce_bench::proxied::{self, Between, Kind};
use onlyonce_bench::rounds::Rounds;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("between") => proxied::be(&arguments[1..]),
        Some("idle") => idle(&arguments[1..]),
        _ => loaded(&arguments),
    }
}

/// Calls through each, in turn.
fn loaded(arguments: &[String]) {
    let rounds = arguments
        .first()
        .map_or(5, |text| text.parse().expect("rounds"));
    let seconds = arguments
        .get(1)
        .map_or(0.4, |text| text.parse().expect("seconds"));
    let time = Duration::from_secs_f64(seconds);
    let folder = arguments
        .get(2)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let chosen = arguments.get(3..).unwrap_or_default();
    let is_chosen = |kind: Kind| chosen.is_empty() || chosen.iter().any(|name| name == kind.name());
    let of: Vec<_> = Kind::ALL
        .into_iter()
        .filter(|kind| is_chosen(*kind) && kind.is_here())
        .collect();
    eprintln!("{}", machine::name());
    let labels = ["callers", "proxy"];
    let figures = ["calls_per_s", "p50_us", "p99_us", "resident_mib"];
    let mut all = Rounds::begin(&labels, &figures);
    for round in 1..=rounds {
        for &callers in CALLERS {
            for &kind in &of {
                let (times, resident) = measure(kind, callers, time, &folder);
                let micros = |share| times.at(share).as_nanos() as f64 / 1_000.0;
                let mib = resident as f64 / f64::from(1 << 20);
                let figures = [times.rate(), micros(0.5), micros(0.99), mib];
                all.note(round, &[&callers.to_string(), kind.name()], &figures);
            }
        }
    }
    all.print_medians();
    if !chosen.is_empty() {
        return;
    }
    for callers in CALLERS {
        let callers = callers.to_string();
        for kind in [Kind::Pass, Kind::Memory, Kind::Sled] {
            let others = [Kind::Nginx, Kind::Hyper].into_iter();
            for other in others.filter(|other| of.contains(other)) {
                let (of, to) = ([&callers[..], kind.name()], [&callers[..], other.name()]);
                let ratio = all.ratio("calls_per_s", &of, &to);
                let (kind, other) = (kind.name(), other.name());
                eprintln!("{callers} callers: {kind} / {other} = {ratio}");
            }
        }
    }
}

fn measure(kind: Kind, callers: usize, time: Duration, folder: &Path) -> (Times, u64) {
    let runtime = runtime();
    let service = runtime.block_on(proxied::serve());
    let between = Between::start(kind, service, folder);
    let connect = async {
        let mut open = Vec::new();
        for _ in 0..callers {
            open.push(Mutex::new(connection(kind, between.address()).await));
        }
        Arc::new(open)
    };
    let connections = runtime.block_on(connect);
    let times = load::times(&runtime, callers, time, move |number| {
        let connections = Arc::clone(&connections);
        async move {
            let caller = (number >> 40) as usize;
            let status = connections[caller].lock().await.call(number).await;
            assert_eq!(status, 201, "call {number}");
        }
    });
    let resident = between.resident_bytes();
    (times, resident)
}

/// Memory of each proxy before any connection, and with so many that have made one call and are idle.
fn idle(arguments: &[String]) {
    let count = arguments
        .first()
        .map_or(10_000, |text| text.parse().expect("connections"));
    let folder = arguments
        .get(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    allow_connections(count);
    eprintln!("{}", machine::name());
    println!("proxy,connections,resident_before_mib,resident_mib,bytes_per_connection");
    let kinds = [Kind::Hyper, Kind::Nginx, Kind::Pass, Kind::Memory];
    for kind in kinds.into_iter().filter(|kind| kind.is_here()) {
        let runtime = runtime();
        let service = runtime.block_on(proxied::serve());
        let between = Between::start(kind, service, &folder);
        // The first call takes what is made once.
        let mut first = runtime.block_on(connection(kind, between.address()));
        assert_eq!(runtime.block_on(first.call(0)), 201);
        let before = between.resident_bytes();
        let mut open = vec![first];
        runtime.block_on(async {
            for number in 1..=count {
                let mut connection = connection(kind, between.address()).await;
                assert_eq!(connection.call(number).await, 201);
                open.push(connection);
            }
        });
        let after = between.resident_bytes();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let each = (after.saturating_sub(before)) / count;
        let (name, before, after) = (kind.name(), mib(before), mib(after));
        println!("{name},{count},{before:.1},{after:.1},{each}");
    }
}

/// So that this process and those that it starts may open so many files.
fn allow_connections(count: u64) {
    let wanted = count + 1_000;
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let limit = Rlimit {
        current: Some(wanted),
        ..now
    };
    setrlimit(Resource::Nofile, limit).expect("a limit of open files that allows it");
}

async fn connection(kind: Kind, address: SocketAddr) -> Connection {
    let connection = Connection::open(address).await;
    match kind.is_keyed() {
        true => connection,
        false => connection.without_keys(),
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

const CALLERS: &[usize] = &[1, 16, 64];
