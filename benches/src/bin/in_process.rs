//! What each layer adds to a call within one process: time and allocations, beside the bare service.
//!
//! `cargo run --release -p onlyonce-bench --bin in_process -- [ROUNDS] [CALLS]`; what is made is said in
//! [`Kind`]. The allocator counts, which costs a little.

use std::alloc::System;

use onlyonce_bench::in_process::Kind;
use onlyonce_bench::machine;
use onlyonce_bench::rounds::Rounds;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| {
        arguments
            .next()
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let (rounds, calls): (u64, u64) = (number(7), number(50_000));
    eprintln!("{}", machine::name());
    let labels = ["threads", "around", "calls"];
    let figures = ["ns", "added_ns", "allocations", "bytes"];
    let mut all = Rounds::begin(&labels, &figures);
    for round in 1..=rounds as usize {
        for threads in [1, 2] {
            let mut bare = 0.0;
            for kind in Kind::ALL {
                for (which, cost) in ["first", "again"]
                    .into_iter()
                    .zip(run(threads, kind, calls))
                {
                    if which == "again" && !kind.dedupes() {
                        continue; // To it that is a call like any other.
                    }
                    if kind == Kind::Bare {
                        bare = cost.ns;
                    }
                    let figures = [cost.ns, cost.ns - bare, cost.count, cost.bytes];
                    all.note(round, &[&threads.to_string(), kind.name(), which], &figures);
                }
            }
        }
    }
    all.print_medians();
}

/// Of one call.
#[derive(Clone, Copy)]
struct Cost {
    ns: f64,
    count: f64,
    bytes: f64,
}

/// First calls, and the same again, one after the other in a task.
fn run(threads: usize, kind: Kind, calls: u64) -> [Cost; 2] {
    let runtime = runtime(threads);
    let (send, receive) = std::sync::mpsc::channel();
    let task = runtime.spawn(async move {
        let region = Region::new(ALLOCATOR);
        let mark = move || send.send((Instant::now(), region.change()));
        kind.make(calls, calls, move || mark().expect("somebody listens"))
            .await;
    });
    runtime.block_on(task).expect("no call panics");
    let marks: Vec<(Instant, Stats)> = receive.iter().collect();
    let cost = |from: &(Instant, Stats), to: &(Instant, Stats)| {
        let seen = to.1 - from.1;
        Cost {
            ns: (to.0 - from.0).as_nanos() as f64 / calls as f64,
            count: (seen.allocations + seen.reallocations) as f64 / calls as f64,
            bytes: seen.bytes_allocated as f64 / calls as f64,
        }
    };
    [cost(&marks[0], &marks[1]), cost(&marks[1], &marks[2])]
}

fn runtime(threads: usize) -> Runtime {
    let runtime = match threads {
        1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build(),
    };
    runtime.expect("a runtime")
}
