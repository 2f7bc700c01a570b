//! Calls on PostgreSQL, beside the same effect without the layer and beside what people write by hand;
//! what a sweep costs those who call meanwhile; and how much room a record takes.
//!
//! ```text
//! cargo run --release -p onlyonce-bench --features postgres --bin postgres -- calls [ROUNDS] [SECONDS] [KIND,..]
//! cargo run --release -p onlyonce-bench --features postgres --bin postgres -- syncs [SECONDS]
//! cargo run --release -p onlyonce-bench --features postgres --bin postgres -- sweep [RECORDS] [CALLERS]
//! cargo run --release -p onlyonce-bench --features postgres --bin postgres -- room [RECORDS]
//! ```
//!
//! It starts a PostgreSQL of its own, durable as it comes, and removes it.

use std::time::Duration;

use onlyonce::demo::TemporaryPostgres;
use onlyonce_bench::load::{self, Measured, Times};
use onlyonce_bench::machine;
use onlyonce_bench::postgres::{Bench, KINDS, Kind};
use tokio::runtime::Runtime;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize, default: f64| {
        let text = arguments.get(place);
        text.map_or(default, |text| text.parse().expect("a number"))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let server = runtime.block_on(TemporaryPostgres::start());
    let server = server.expect("a PostgreSQL of our own");
    let bench = runtime.block_on(Bench::open(&server.url()));
    eprintln!("{}", machine::name());
    match arguments.first().map(String::as_str) {
        Some("calls") => calls(
            &runtime,
            &bench,
            number(1, 5.0) as usize,
            number(2, 0.5),
            arguments.get(3).map(String::as_str),
        ),
        Some("syncs") => syncs(&runtime, &bench, number(1, 1.0)),
        Some("sweep") => sweep(
            &runtime,
            &bench,
            number(1, 1e6) as u64,
            number(2, 16.0) as usize,
        ),
        Some("room") => room(&runtime, &bench, number(1, 1e6) as u64),
        _ => eprintln!("calls, syncs, sweep or room?"),
    }
}

/// Every kind of call, or those that are named, with every number of callers, in turn.
fn calls(runtime: &Runtime, bench: &Bench, rounds: usize, seconds: f64, named: Option<&str>) {
    let is_wanted =
        |kind: &Kind| named.is_none_or(|named| named.split(',').any(|name| name == kind.name()));
    let time = Duration::from_secs_f64(seconds);
    runtime.block_on(bench.record_some());
    println!("round,callers,kind,calls_per_s,p50_us,p99_us,p999_us,logged_bytes_per_call");
    for round in 1..=rounds {
        for callers in CALLERS {
            for kind in KINDS.into_iter().filter(is_wanted) {
                // Else one kind pays for what another has left to be vacuumed.
                runtime.block_on(bench.vacuum());
                let logged = runtime.block_on(bench.logged());
                let times = times(runtime, bench, kind, callers, time);
                let logged = runtime.block_on(bench.logged()) - logged;
                let us = |share| times.at(share).as_micros();
                println!(
                    "{round},{callers},{},{:.0},{},{},{},{:.0}",
                    kind.name(),
                    times.rate(),
                    us(0.5),
                    us(0.99),
                    us(0.999),
                    logged as f64 / times.calls as f64
                );
            }
        }
    }
}

/// How often the database makes its log durable for a call of each kind that writes.
fn syncs(runtime: &Runtime, bench: &Bench, seconds: f64) {
    let time = Duration::from_secs_f64(seconds);
    println!("callers,kind,calls,syncs_per_call");
    let mut before = runtime.block_on(bench.synced());
    for callers in CALLERS {
        for kind in KINDS.into_iter().filter(|kind| kind.writes()) {
            let times = times(runtime, bench, kind, callers, time);
            let after = runtime.block_on(bench.synced());
            let synced = after - std::mem::replace(&mut before, after);
            let (calls, name) = (times.calls, kind.name());
            println!(
                "{callers},{name},{calls},{:.3}",
                synced as f64 / calls as f64
            );
        }
    }
}

/// First calls before, during and after a sweep.
fn sweep(runtime: &Runtime, bench: &Bench, records: u64, callers: usize) {
    runtime.block_on(bench.fill(records, Duration::from_secs(9 * 86_400)));
    println!("phase,callers,calls_per_s,p50_us,p99_us");
    let second = |phase: &str| {
        let time = Duration::from_secs(2);
        let Measured { rate, p50, p99 } = measure(runtime, bench, Kind::Claimed, callers, time);
        let (p50, p99) = (p50.as_micros(), p99.as_micros());
        println!("{phase},{callers},{rate:.0},{p50},{p99}");
    };
    for _ in 0..4 {
        second("before");
    }
    let sweeping = bench.clone();
    let sweeping = runtime.spawn(async move { sweeping.sweep().await });
    while !sweeping.is_finished() {
        second("during");
    }
    let (swept, took) = runtime
        .block_on(sweeping)
        .expect("the sweep does not panic");
    for _ in 0..4 {
        second("after");
    }
    eprintln!("{} records removed in {took:.1?}", swept.tombstones);
}

/// Bytes of the table and of its indexes.
fn room(runtime: &Runtime, bench: &Bench, records: u64) {
    println!("what,records,table_bytes,toast_bytes,index_bytes,bytes_per_record");
    let row = |what: &str, records: u64| {
        let room = runtime.block_on(bench.room());
        let all = room.table + room.toast + room.indexes;
        println!(
            "{what},{records},{},{},{},{:.0}",
            room.table,
            room.toast,
            room.indexes,
            all as f64 / records as f64
        );
    };
    // As calls leave them, and then as a copy of them without anything dead lies there.
    let some = (records / 10).clamp(1_000, 100_000);
    runtime.block_on(bench.call(some));
    row("called", some);
    runtime.block_on(bench.vacuum());
    row("called and vacuumed", some);
    runtime.block_on(bench.fill(records - some, Duration::ZERO));
    row("filled up", records);
    runtime.block_on(bench.forget_answers());
    row("answers forgotten", records);
    runtime.block_on(bench.rewrite());
    row("tombstones, rewritten", records);
}

fn measure(
    runtime: &Runtime,
    bench: &Bench,
    kind: Kind,
    callers: usize,
    time: Duration,
) -> Measured {
    let times = times(runtime, bench, kind, callers, time);
    Measured {
        rate: times.rate(),
        p50: times.at(0.5),
        p99: times.at(0.99),
    }
}

fn times(runtime: &Runtime, bench: &Bench, kind: Kind, callers: usize, time: Duration) -> Times {
    let bench = bench.in_numbers_of_its_own();
    load::times(runtime, callers, time, move |number| {
        let bench = bench.clone();
        async move { bench.make(kind, number).await }
    })
}

const CALLERS: [usize; 4] = [1, 16, 64, 256];
