//! A store over months of calls, on a clock that is moved by them: what it needs of the disk and
//! of the memory, and how long first calls, replays and sweeps take, for every simulated day.
//!
//! `cargo run --release -p onlyonce-bench --bin long_life -- [CALLS] [--days DAYS] [--doubts DOUBTS]
//! [--cache MIB] [--folder FOLDER]`
//!
//! The default retention of a day and horizon of seven: the first eight days fill the store, then
//! disk and memory should stay as they are. Every simulated hour one of the callers sweeps, while
//! the others go on. `DOUBTS` calls (none unless said) are in doubt from the beginning, each with an
//! answer, and nobody resolves them: fewer than the 100,000 that a scope may have.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_bench::calls::{Calls, bytes};
use onlyonce_bench::machine;
use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::{
    Answer, AnswerFormat, ClaimOutcome, Clock as _, DoubtReason, Inspect as _, ManualClock,
    Store as _, Timestamp,
};
use tokio::time::Instant;

fn main() {
    let mut count = 10_000_000;
    let mut days = 60;
    let mut doubts = 0;
    let mut cache_mib = 128;
    let mut folder = std::env::temp_dir();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--days" => {
                days = arguments
                    .next()
                    .and_then(|days| days.parse().ok())
                    .expect("days");
            }
            "--cache" => {
                cache_mib = arguments
                    .next()
                    .and_then(|mib| mib.parse().ok())
                    .expect("MiB");
            }
            "--doubts" => {
                doubts = arguments
                    .next()
                    .and_then(|doubts| doubts.parse().ok())
                    .expect("doubts");
            }
            "--folder" => folder = PathBuf::from(arguments.next().expect("a folder")),
            text => count = text.parse().expect("a count"),
        }
    }
    eprintln!("{}", machine::name());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    println!(
        "day,calls,remembered,disk_mib,resident_mib,first_call_p50_us,first_call_p99_us,\
         first_call_max_us,\
         replay_p50_us,replay_p99_us,sweep_max_us,trees_dropped"
    );
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(
        FIRST_DAY * MILLIS_A_DAY,
    )));
    let options = SledOptions::new()
        .clock(clock.clone())
        .cache_capacity(cache_mib << 20)
        .limits(Calls::limits());
    let store = Arc::new(SledStore::open(folder.path(), options).expect("a store"));
    let life = Arc::new(Life {
        calls: Calls::new(store.clone()),
        store,
        clock,
        a_day: (count / days).max(24),
        next: AtomicU64::new(0),
    });
    let doubting: Vec<_> = (0..CALLERS)
        .map(|caller| runtime.spawn(life.clone().doubt(caller, doubts)))
        .collect();
    for doubting in doubting {
        runtime.block_on(doubting).expect("no call panics");
    }
    for day in 1..=days {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| runtime.spawn(life.clone().call_until(day)))
            .collect();
        let mut of_day = Took::default();
        for caller in callers {
            of_day.join(runtime.block_on(caller).expect("no call panics"));
        }
        let calls = life.a_day * day;
        let mut replays = runtime.block_on(life.replays(calls));
        println!(
            "{day},{calls},{},{},{},{},{},{},{},{},{},{}",
            life.remembered(day),
            machine::folder_bytes(folder.path()) >> 20,
            machine::resident_bytes() >> 20,
            percentile(&mut of_day.firsts, 50).as_micros(),
            percentile(&mut of_day.firsts, 99).as_micros(),
            of_day.firsts.iter().max().map_or(0, Duration::as_micros),
            percentile(&mut replays, 50).as_micros(),
            percentile(&mut replays, 99).as_micros(),
            of_day.sweep_max.as_micros(),
            of_day.dropped,
        );
    }
    runtime.block_on(life.store.close()).expect("it closes");
}

/// A store and the calls that its clock is moved by.
struct Life {
    store: Arc<SledStore>,
    calls: Calls,
    clock: Arc<ManualClock>,
    a_day: u64,
    /// The number of the next call.
    next: AtomicU64,
}

/// What one caller saw of a day.
#[derive(Default)]
struct Took {
    firsts: Vec<Duration>,
    sweep_max: Duration,
    dropped: u64,
}

// === impl Life ===

impl Life {
    /// Makes calls, each with its part of a day, until the day is over.
    async fn call_until(self: Arc<Self>, day: u64) -> Took {
        let mut took = Took::default();
        loop {
            // Not `fetch_add`: a number that is drawn is used.
            let drawn = self
                .next
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |number| {
                    (number < self.a_day * day).then_some(number + 1)
                });
            let Ok(number) = drawn else {
                return took;
            };
            let before = Instant::now();
            self.call(number).await;
            took.firsts.push(before.elapsed());
            let passed = |number: u64| number * MILLIS_A_DAY / self.a_day;
            let step = passed(number + 1) - passed(number);
            self.clock.advance(Duration::from_millis(step));
            if number % (self.a_day / 24) == 0 {
                let before = Instant::now();
                let swept = self.store.sweep().await.expect("it sweeps");
                took.sweep_max = took.sweep_max.max(before.elapsed());
                took.dropped += swept.answers + swept.tombstones;
                assert_eq!(swept.paused, None, "time passed, and no clock jumped");
            }
        }
    }

    /// Leaves this caller's part of so many calls in doubt.
    async fn doubt(self: Arc<Self>, caller: usize, doubts: usize) {
        for number in (caller..doubts).step_by(CALLERS) {
            let request = self.calls.request(u64::MAX - number as u64);
            let outcome = self.store.claim(request).await;
            let ClaimOutcome::Claimed(claim) = outcome.expect("the store answers") else {
                panic!("doubt {number} is new");
            };
            let answer = Answer::new(AnswerFormat::new(1), bytes(300));
            let reason = DoubtReason::Ambiguous;
            let doubted = self.store.doubt(claim, reason, Some(answer)).await;
            doubted.expect("the doubt is recorded");
        }
    }

    async fn call(&self, number: u64) {
        let mut request = self.calls.request(number);
        // A minute may pass while the others make a call each.
        request.lease = Duration::from_secs(24 * 60 * 60);
        let outcome = self.calls.store().claim(request).await;
        let claim = match outcome.expect("the store answers") {
            ClaimOutcome::Claimed(claim) => claim,
            other => panic!("call {number} is new, and is answered {other:?}"),
        };
        let answer = Answer::new(AnswerFormat::new(1), bytes(300));
        let recorded = self.calls.store().complete(claim, answer).await;
        recorded.expect("the answer is recorded");
    }

    /// Replays of calls of the last hours, all of which are still promised.
    async fn replays(&self, calls: u64) -> Vec<Duration> {
        let young = calls - self.a_day * 20 / 24;
        let mut took = Vec::new();
        for _ in 0..REPLAYS {
            let request = self.calls.request(fastrand::u64(young..calls));
            let before = Instant::now();
            let outcome = self.calls.store().claim(request).await;
            took.push(before.elapsed());
            let outcome = outcome.expect("the store answers");
            assert!(matches!(outcome, ClaimOutcome::Completed(_)), "{outcome:?}");
        }
        took
    }

    /// How many calls the store must still know at the end of `day`: those of the horizon.
    fn remembered(&self, day: u64) -> u64 {
        let now = self.clock.now().as_millis();
        let begin = FIRST_DAY * MILLIS_A_DAY;
        // What is in the oldest bucket that has something younger than the horizon.
        let oldest = (now - 7 * MILLIS_A_DAY) / MILLIS_A_DAY * MILLIS_A_DAY;
        let forgotten = oldest.saturating_sub(begin) / MILLIS_A_DAY;
        (day - forgotten.min(day)) * self.a_day
    }
}

// === impl Took ===

impl Took {
    fn join(&mut self, other: Self) {
        self.firsts.extend(other.firsts);
        self.sweep_max = self.sweep_max.max(other.sweep_max);
        self.dropped += other.dropped;
    }
}

fn percentile(took: &mut [Duration], share: usize) -> Duration {
    took.sort_unstable();
    took[took.len() * share / 100]
}

const CALLERS: usize = 64;
const REPLAYS: usize = 2_000;
const MILLIS_A_DAY: u64 = 24 * 60 * 60 * 1_000;
/// In November 2023.
const FIRST_DAY: u64 = 19_675;
