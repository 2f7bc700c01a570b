//! Callers that each do one call after the other, and how long the calls take.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::Instant;

/// What a run measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Calls a second.
    pub rate: f64,
    /// Half of the calls took at most this long.
    pub p50: Duration,
    /// All but one of a hundred.
    pub p99: Duration,
}

/// Lets `callers` tasks call `call` (with a number that no other call has) until `time` is over.
///
/// A tenth of the time before that is not measured.
pub fn run<F, Fut>(runtime: &Runtime, callers: usize, time: Duration, call: F) -> Measured
where
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let began = Instant::now() + time / 10;
    let ends = began + time;
    let tasks: Vec<_> = (0..callers as u64)
        .map(|caller| {
            let call = call.clone();
            runtime.spawn(async move {
                let mut took = Vec::new();
                let mut number = caller << 40;
                loop {
                    let before = Instant::now();
                    if before >= ends {
                        return took;
                    }
                    call(number).await;
                    number += 1;
                    if before >= began {
                        took.push(before.elapsed());
                    }
                }
            })
        })
        .collect();
    let mut took: Vec<Duration> = Vec::new();
    for task in tasks {
        took.extend(runtime.block_on(task).expect("no call panics"));
    }
    took.sort_unstable();
    let at = |share: f64| {
        let last = took.len().saturating_sub(1);
        let place = (took.len() as f64 * share) as usize;
        took.get(place.min(last)).copied().unwrap_or_default()
    };
    Measured {
        rate: took.len() as f64 / time.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
    }
}
