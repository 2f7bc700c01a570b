//! Round trips of the native RPC, beside tonic and tarpc: one connection each, both ends in this
//! process, and a handler that answers with the text it is given.
//!
//! `cargo run --release -p onlyonce-bench --bin rpc -- [ROUNDS] [SECONDS] [RPC ...]`
//! `IN_FLIGHT=1,64 BYTES=64 ..` chooses; with `CALLS=1000` so many calls are made and nothing is
//! measured, for a profiler.

use std::time::Duration;

use onlyonce_bench::load::{self, Measured};
use onlyonce_bench::machine;
use onlyonce_bench::rounds::Rounds;
use onlyonce_bench::rpc::{Echo, Rpc};
use tokio::runtime::{Builder, Runtime};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments
        .next()
        .map_or(5, |text| text.parse().expect("rounds"));
    let seconds = arguments
        .next()
        .map_or(0.3, |text| text.parse().expect("seconds"));
    let time = Duration::from_secs_f64(seconds);
    let chosen: Vec<String> = arguments.collect();
    let is_chosen = |rpc: Rpc| chosen.is_empty() || chosen.iter().any(|name| name == rpc.name());
    let of: Vec<_> = Rpc::ALL.into_iter().filter(|rpc| is_chosen(*rpc)).collect();
    if let Ok(calls) = std::env::var("CALLS") {
        let calls = calls.parse().expect("calls");
        return of.into_iter().for_each(|rpc| make(rpc, calls));
    }
    eprintln!("{}", machine::name());
    let labels = ["bytes", "in_flight", "rpc"];
    let mut all = Rounds::begin(&labels, &["calls_per_s", "p50_us", "p99_us"]);
    let (sizes, in_flight) = (numbers("BYTES", SIZES), numbers("IN_FLIGHT", IN_FLIGHT));
    for round in 1..=rounds {
        for &bytes in &sizes {
            for &callers in &in_flight {
                for &rpc in &of {
                    let Measured { rate, p50, p99 } = measure(rpc, bytes, callers, time);
                    let micros = |time: Duration| time.as_nanos() as f64 / 1_000.0;
                    let labels = [&bytes.to_string(), &callers.to_string(), rpc.name()];
                    all.note(round, &labels, &[rate, micros(p50), micros(p99)]);
                }
            }
        }
    }
    all.print_medians();
    if !chosen.is_empty() {
        return;
    }
    for &bytes in &sizes {
        for &callers in &in_flight {
            let (bytes, callers) = (bytes.to_string(), callers.to_string());
            for (one, other) in [
                (Rpc::Native, Rpc::Tonic),
                (Rpc::Native, Rpc::Tarpc),
                (Rpc::NativeMemory, Rpc::Tonic),
                (Rpc::NativeMemory, Rpc::Tarpc),
            ] {
                let of = [&bytes[..], &callers, one.name()];
                let to = [&bytes[..], &callers, other.name()];
                let ratio = all.ratio("calls_per_s", &of, &to);
                let (one, other) = (one.name(), other.name());
                eprintln!("{bytes} B, {callers} in flight: {one} / {other} = {ratio}");
            }
        }
    }
}

fn measure(rpc: Rpc, bytes: usize, callers: usize, time: Duration) -> Measured {
    let runtime = runtime();
    let echo = runtime.block_on(Echo::start(rpc));
    let text = "x".repeat(bytes);
    let measured = load::run(&runtime, callers, time, move |_| {
        let (echo, text) = (echo.clone(), text.clone());
        async move { echo.call(&text).await }
    });
    runtime.shutdown_background();
    measured
}

/// For a profiler: 64 callers who make so many calls together.
fn make(rpc: Rpc, calls: usize) {
    let runtime = runtime();
    runtime.block_on(async {
        let echo = Echo::start(rpc).await;
        let text = "x".repeat(64);
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let (echo, text) = (echo.clone(), text.clone());
                tokio::spawn(async move {
                    for _ in 0..calls / 64 {
                        echo.call(&text).await;
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("no call panics");
        }
    });
}

fn runtime() -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

fn numbers(name: &str, otherwise: &str) -> Vec<usize> {
    let chosen = std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let numbers = chosen.split(',').map(str::parse);
    numbers.map(|number| number.expect("a number")).collect()
}

const SIZES: &str = "64,4096,65536";
const IN_FLIGHT: &str = "1,16,64,256";
