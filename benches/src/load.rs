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

/// How long each call of a run took.
#[derive(Clone, Debug)]
pub struct Times {
    took: Vec<Duration>,
    time: Duration,
    /// How many calls were made, with those that were not measured.
    pub calls: u64,
}

/// Lets `callers` tasks call `call` (with a number that no other call has) until `time` is over.
///
/// A tenth of the time before that is not measured.
pub fn run<F, Fut>(runtime: &Runtime, callers: usize, time: Duration, call: F) -> Measured
where
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let times = times(runtime, callers, time, call);
    Measured {
        rate: times.rate(),
        p50: times.at(0.5),
        p99: times.at(0.99),
    }
}

/// As [`run`], and says how long each call took.
///
/// # Panics
///
/// When a call does.
pub fn times<F, Fut>(runtime: &Runtime, callers: usize, time: Duration, call: F) -> Times
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
                let first = caller << 40;
                let mut number = first;
                loop {
                    let before = Instant::now();
                    if before >= ends {
                        return (took, number - first);
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
    let (mut took, mut calls) = (Vec::new(), 0);
    for task in tasks {
        let (of_caller, made) = runtime.block_on(task).expect("no call panics");
        took.extend(of_caller);
        calls += made;
    }
    took.sort_unstable();
    Times { took, time, calls }
}

// === impl Times ===

impl Times {
    /// Calls a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.took.len() as f64 / self.time.as_secs_f64()
    }

    /// This share of the calls took at most as long.
    #[must_use]
    pub fn at(&self, share: f64) -> Duration {
        let last = self.took.len().saturating_sub(1);
        let place = (self.took.len() as f64 * share) as usize;
        self.took.get(place.min(last)).copied().unwrap_or_default()
    }
}
