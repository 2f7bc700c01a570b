//! What the dedupe layer adds to a call within one process, with its store in memory: no network, no
//! protocol, a handler that is ready at once. Key and fingerprint of a request of 64 bytes are
//! digested for each call, and an answer of 300 bytes is recorded.
//!
//! `cargo run --release -p onlyonce-bench --bin in_process -- [ROUNDS] [CALLS]`

use std::alloc::System;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use onlyonce_bench::calls::bytes;
use onlyonce_bench::machine;
use onlyonce_middleware::server::{
    Adapter, Admission, DedupeLayer, Intent, Outcome, Recording, Refusal, Served,
};
use onlyonce_storage::{
    Answer, AnswerFormat, Fingerprint, FingerprintAlgorithm, Fingerprints, IdempotencyKey,
    KeyState, MemoryStore, Scope, ScopedKey,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tower_layer::Layer as _;
use tower_service::Service;

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
    println!("threads,calls,ns,added_ns,allocations,bytes");
    for threads in [1, 2] {
        let mut all = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            let runtime = runtime(threads);
            let handler = Handler(Bytes::from(bytes(300)));
            let layer = DedupeLayer::new(Arc::new(MemoryStore::new()), Plain);
            let deduped = layer.layer(handler.clone());
            all[0].push(run(&runtime, handler, calls));
            all[1].push(run(&runtime, deduped.clone(), calls));
            all[2].push(run(&runtime, deduped, calls));
        }
        let bare = median(&mut all[0]).ns;
        for (what, all) in ["bare", "first", "again"].into_iter().zip(&mut all) {
            let Cost { ns, count, bytes } = median(all);
            let added = ns - bare;
            println!("{threads},{what},{ns:.0},{added:.0},{count:.1},{bytes:.0}");
        }
    }
}

/// Of one call.
#[derive(Clone, Copy)]
struct Cost {
    ns: f64,
    count: f64,
    bytes: f64,
}

/// Makes calls, one after the other, in a task.
fn run<S>(runtime: &Runtime, service: S, calls: u64) -> Cost
where
    S: Service<u64, Response = Told, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let task = runtime.spawn(async move {
        let (region, began) = (Region::new(ALLOCATOR), Instant::now());
        for number in 0..calls {
            // As servers do it: a service for each call.
            let Ok(told) = service.clone().call(number).await;
            assert_eq!(told.bytes.len(), 300);
        }
        (began.elapsed(), region.change())
    });
    let (took, seen) = runtime.block_on(task).expect("no call panics");
    Cost {
        ns: took.as_nanos() as f64 / calls as f64,
        count: (seen.allocations + seen.reallocations) as f64 / calls as f64,
        bytes: seen.bytes_allocated as f64 / calls as f64,
    }
}

/// By time.
fn median(costs: &mut [Cost]) -> Cost {
    costs.sort_by(|one, other| one.ns.total_cmp(&other.ns));
    costs[costs.len() / 2]
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

/// Answers the same to everybody.
#[derive(Clone)]
struct Handler(Bytes);

struct Told {
    bytes: Bytes,
    _served: Served,
}

impl Service<u64> for Handler {
    type Response = Told;
    type Error = Infallible;
    type Future = Ready<Result<Told, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: u64) -> Self::Future {
        ready(Ok(Told {
            bytes: self.0.clone(),
            _served: Served::Unprotected,
        }))
    }
}

/// A protocol whose requests are numbers, and stand for a key and a body made of it.
#[derive(Clone)]
struct Plain;

impl Adapter for Plain {
    type Request = u64;
    type Response = Told;
    type Error = Infallible;

    async fn admit(&self, number: u64) -> Admission<u64> {
        let mut text = *b"0199f1c2-7a3e-7b21-0000000000000000";
        for (place, byte) in text[19..].iter_mut().enumerate() {
            *byte = b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 15];
        }
        let text = std::str::from_utf8(&text).expect("digits");
        let key = IdempotencyKey::parse(text).expect("a key");
        let mut body = [7; 64];
        body[..8].copy_from_slice(&number.to_be_bytes());
        let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).field("body", &body);
        let key = ScopedKey::new(Scope::global(), key);
        let intent = Intent::new(key, Fingerprints::new(print.finish()));
        Admission::Protected(intent, number)
    }

    async fn record(&self, result: Result<Told, Infallible>) -> Recording<Told> {
        let Ok(told) = result;
        let answer = Answer::new(AnswerFormat::new(1), told.bytes.clone());
        Recording {
            outcome: Outcome::Record(answer),
            response: Some(told),
        }
    }

    fn replay(&self, answer: &Answer, served: Served) -> Result<Told, Refusal> {
        Ok(Told {
            bytes: answer.body().clone(),
            _served: served,
        })
    }

    fn mark(&self, told: Told, served: Served) -> Told {
        Told {
            _served: served,
            ..told
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Told {
        panic!("{refusal}");
    }

    fn tell(&self, state: &KeyState) -> Told {
        panic!("nobody asks for {state:?}");
    }
}
