//! A hundred clients that all change one row: each reads its version, writes if nobody has written
//! since, and backs off and begins anew otherwise. This is the simulation that AWS published with
//! "Exponential Backoff And Jitter": every message takes about 10 ms; counted are the writes that the
//! server is asked for, and the time until the last client has done its one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use backoff::backoff::Backoff as _;
use onlyonce::middleware::client::{Backoff, BackoffOptions};
use onlyonce_bench::rounds::Spread;
use tokio::time::Instant;
use tower::retry::backoff::{Backoff as _, ExponentialBackoffMaker, MakeBackoff as _};
use tower::util::rng::HasherRng;

/// How long one client waits before its next try.
type Schedule = Box<dyn FnMut(u32) -> Duration>;

/// Makes the schedules of all clients of a run.
type Schedules = fn() -> Box<dyn FnMut() -> Schedule>;

pub fn print() {
    // Tower's delays are timers, which need a clock to be made.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let _clock = runtime.enter();
    println!("schedule,run,writes,seconds");
    for (name, schedules) in SCHEDULES {
        let (mut writes, mut seconds) = (Vec::new(), Vec::new());
        for number in 1..=RUNS {
            let mut schedule = schedules();
            let (asked, time) = run(&mut *schedule, number);
            println!("{name},{number},{asked},{:.3}", time / 1_000.0);
            writes.push(f64::from(asked));
            seconds.push(time / 1_000.0);
        }
        let (writes, seconds) = (Spread::of(writes), Spread::of(seconds));
        eprintln!("{name}: {writes} writes, {seconds} s");
    }
}

/// What happens next to a client, and when, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Event {
    at: f64,
    client: usize,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    /// It asks for the version.
    Begin,
    /// The server is asked.
    Read,
    /// The client hears the version.
    Heard(u32),
    /// The server is asked to write if this is still the version.
    Write(u32),
    /// The client hears whether it has written.
    Told(bool),
}

/// How many writes were asked for, and when the last client was told that it has written.
fn run(schedules: &mut dyn FnMut() -> Schedule, seed: u64) -> (u32, f64) {
    // What onlyonce draws comes from the thread's generator.
    fastrand::seed(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| (schedules(), 0)).collect();
    let mut events: BinaryHeap<_> = (0..CLIENTS)
        .map(|client| Event {
            at: 0.0,
            client,
            step: Step::Begin,
        })
        .collect();
    let (mut version, mut writes, mut ended) = (0, 0, 0.0);
    while let Some(Event { at, client, step }) = events.pop() {
        let (after, step) = match step {
            Step::Begin => (message(&mut random), Step::Read),
            Step::Read => (message(&mut random), Step::Heard(version)),
            Step::Heard(version) => (message(&mut random), Step::Write(version)),
            Step::Write(expected) => {
                writes += 1;
                let is_written = expected == version;
                version += u32::from(is_written);
                (message(&mut random), Step::Told(is_written))
            }
            Step::Told(true) => {
                ended = at;
                continue;
            }
            Step::Told(false) => {
                let (schedule, retries) = &mut clients[client];
                *retries += 1;
                (schedule(*retries).as_secs_f64() * 1_000.0, Step::Begin)
            }
        };
        events.push(Event {
            at: at + after,
            client,
            step,
        });
    }
    (writes, ended)
}

/// About 10 ms, by the sum of twelve draws as good as normal with a deviation of 2.
fn message(random: &mut fastrand::Rng) -> f64 {
    let normal: f64 = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
    (10.0 + 2.0 * normal).abs()
}

// === impl Event ===

impl Eq for Event {}

impl Ord for Event {
    /// The heap gives the greatest first: the soonest.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_time = other.at.total_cmp(&self.at);
        by_time.then(other.client.cmp(&self.client))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// All with a base of 5 ms and a cap of 2 s, as in AWS's, unless the name says otherwise.
const SCHEDULES: [(&str, Schedules); 8] = [
    ("exponential without jitter", || {
        Box::new(|| {
            let backoff = of(BASE, CAP);
            Box::new(move |retry| backoff.window(retry))
        })
    }),
    ("onlyonce", || {
        Box::new(|| {
            let backoff = of(BASE, CAP);
            Box::new(move |retry| backoff.delay(retry))
        })
    }),
    // As AWS's simulation, whose figures say that the base is doubled before the first wait.
    ("onlyonce from 10 ms", || {
        Box::new(|| {
            let backoff = of(BASE * 2, CAP);
            Box::new(move |retry| backoff.delay(retry))
        })
    }),
    ("decorrelated", || {
        Box::new(|| {
            let mut last = BASE;
            Box::new(move |_| {
                let most = (last * 3).as_secs_f64();
                let least = BASE.as_secs_f64();
                let drawn = least + fastrand::f64() * (most - least);
                last = Duration::from_secs_f64(drawn).min(CAP);
                last
            })
        })
    }),
    ("backoff", || {
        Box::new(|| {
            let mut schedule = backoff::ExponentialBackoffBuilder::new()
                .with_initial_interval(BASE)
                .with_max_interval(CAP)
                .with_multiplier(2.0)
                .with_max_elapsed_time(None)
                .build();
            Box::new(move |_| schedule.next_backoff().expect("it never gives up"))
        })
    }),
    ("tower with a maker for each", || {
        Box::new(|| of_tower(&mut tower()))
    }),
    ("tower with one maker", || {
        let mut maker = tower();
        Box::new(move || of_tower(&mut maker))
    }),
    ("onlyonce from 50 ms to 20 s", || {
        Box::new(|| {
            let backoff = Backoff::default();
            Box::new(move |retry| backoff.delay(retry))
        })
    }),
];

fn of(base: Duration, cap: Duration) -> Backoff {
    let options = BackoffOptions {
        base,
        factor: 2,
        cap,
    };
    Backoff::new(options).expect("numbers that make sense")
}

fn tower() -> ExponentialBackoffMaker {
    // The jitter of its own default.
    let maker = ExponentialBackoffMaker::new(BASE, CAP, 0.99, HasherRng::new());
    maker.expect("numbers that make sense")
}

fn of_tower(maker: &mut ExponentialBackoffMaker) -> Schedule {
    let mut schedule = maker.make_backoff();
    Box::new(move |_| schedule.next_backoff().deadline() - Instant::now())
}

const CLIENTS: usize = 100;
const RUNS: u64 = 101;
const BASE: Duration = Duration::from_millis(5);
const CAP: Duration = Duration::from_secs(2);
