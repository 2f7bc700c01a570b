//! What one run decides and writes down.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::fault::{Fault, Phase, Place, Subject, What};
use crate::history::{Event, Fired, Happened};
use crate::seed::{Draw, Seed};

/// One run: its seed, its faults, its time, and the history of what happened. Clones are the same.
#[derive(Clone)]
pub struct Run(Arc<Inner>);

struct Inner {
    seed: Seed,
    faults: Vec<Fault>,
    now_us: AtomicU64,
    clock_off_ms: AtomicI64,
    over: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    struck: BTreeMap<String, (u64, BTreeSet<u64>)>,
    strikes: Vec<(Fault, Draw)>,
    orders: Vec<Order>,
    doubled: BTreeSet<u64>,
}

/// What a fault did to one moment.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    /// What happens.
    pub what: What,
    /// To which part.
    pub place: Place,
    /// What its numbers are drawn from.
    pub draw: Draw,
    /// The share of what it can strike that it does strike, where it is bound to one.
    pub share: Option<f64>,
    /// When a window of time that it is bound to ends, in milliseconds of the run.
    pub until_ms: Option<u64>,
}

/// What happens to a host, as soon as the step under way is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Its process ends at once, and comes back after so long.
    Crash {
        /// Which.
        host: String,
        /// How long it is away.
        back_after: Duration,
    },
    /// The power of the server is cut; it comes back by itself.
    CutPower {
        /// What the sectors that survive are drawn from.
        draw: u64,
    },
}

// === impl Run ===

impl Run {
    /// A run from this seed with these faults, at the beginning of its time.
    #[must_use]
    pub fn new(seed: Seed, faults: Vec<Fault>) -> Self {
        Self(Arc::new(Inner {
            seed,
            faults,
            now_us: AtomicU64::new(0),
            clock_off_ms: AtomicI64::new(0),
            over: AtomicBool::new(false),
            state: Mutex::default(),
        }))
    }

    /// Its seed.
    #[must_use]
    pub fn seed(&self) -> Seed {
        self.0.seed
    }

    /// How long it has lasted, in microseconds, to the step.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.0.now_us.load(Ordering::Relaxed)
    }

    pub(super) fn set_now_us(&self, now_us: u64) {
        self.0.now_us.store(now_us, Ordering::Relaxed);
    }

    /// By how much the server's wall clock is off, in milliseconds.
    #[must_use]
    pub fn clock_off_ms(&self) -> i64 {
        self.0.clock_off_ms.load(Ordering::Relaxed)
    }

    /// Sets the server's wall clock off by so much more.
    pub fn jump_clock(&self, by_ms: i64) {
        self.0.clock_off_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// From now on no fault strikes.
    pub fn end_faults(&self) {
        if !self.0.over.swap(true, Ordering::Relaxed) {
            self.note(0, 0, Happened::FaultsEnded);
        }
    }

    /// Whether faults have ended.
    #[must_use]
    pub fn faults_ended(&self) -> bool {
        self.0.over.load(Ordering::Relaxed)
    }

    /// Writes an event down, now.
    pub fn note(&self, call: u64, attempt: u32, what: Happened) {
        let at_us = self.now_us();
        self.0.state.lock().events.push(Event {
            at_us,
            call,
            attempt,
            what,
        });
    }

    /// Writes down what became of a host.
    pub fn lifecycle(&self, who: &str, event: &str) {
        let (who, event) = (who.to_owned(), event.to_owned());
        self.note(0, 0, Happened::Lifecycle { who, event });
    }

    /// The faults that strike this moment, in the order of the plan. What a fault cannot do at this
    /// phase it does not do: `possible` says.
    pub fn strikes(
        &self,
        phase: Phase,
        (call, attempt): (u64, u32),
        possible: impl Fn(Place, What) -> bool,
    ) -> Vec<Strike> {
        if self.faults_ended() {
            return Vec::new();
        }
        let at = Duration::from_micros(self.now_us());
        let subject = Subject {
            call,
            attempt,
            phase,
            at,
        };
        let mut strikes = Vec::new();
        for fault in &self.0.faults {
            if !possible(fault.place, fault.what) {
                continue;
            }
            let Some(draw) = fault.strikes(self.0.seed, subject) else {
                continue;
            };
            self.struck(fault, draw, subject);
            strikes.push(Strike {
                what: fault.what,
                place: fault.place,
                draw,
                share: fault.when.share,
                until_ms: fault.when.until_ms,
            });
        }
        strikes
    }

    fn struck(&self, fault: &Fault, draw: Draw, subject: Subject) {
        let mut state = self.0.state.lock();
        let (count, calls) = state.struck.entry(fault.name.clone()).or_default();
        *count += 1;
        if subject.call > 0 {
            calls.insert(subject.call);
        }
        // An answer that comes twice makes no second request.
        if let (What::Duplicate { .. }, Phase::RequestSent) = (fault.what, subject.phase) {
            state.doubled.insert(subject.call);
        }
        let mut explicit = fault.clone();
        explicit.when.share = None;
        explicit.when.first_attempts = None;
        explicit.when.phase = Some(subject.phase);
        explicit.when.call = Some(subject.call);
        explicit.when.attempt = Some(subject.attempt);
        let late = match fault.what {
            What::PacketLoss => lost_for(draw, fault.when.share),
            what => what.delay(draw),
        };
        if let (What::PacketLoss, None) = (fault.what, late) {
            explicit.when.share = Some(1.0);
        }
        if let Some(delay) = late {
            let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            let (min_ms, max_ms) = (ms, ms);
            explicit.what = What::Delay { min_ms, max_ms };
        }
        state.strikes.push((explicit, draw));
        let at_us = self.now_us();
        state.events.push(Event {
            at_us,
            call: subject.call,
            attempt: subject.attempt,
            what: Happened::Fault {
                name: fault.name.clone(),
                what: fault.what.name().to_owned(),
                phase: subject.phase,
            },
        });
    }

    /// What every fault of the run did, each as a fault of its own that does this and nothing else.
    #[must_use]
    pub fn explicit(&self) -> Vec<Fault> {
        let state = self.0.state.lock();
        let numbered = state.strikes.iter().enumerate();
        let named = numbered.map(|(number, (fault, _))| Fault {
            name: format!("{} {}", fault.what.name(), number + 1),
            ..fault.clone()
        });
        named.collect()
    }

    /// Whether a request of this call came twice, or will.
    #[must_use]
    pub fn is_doubled(&self, call: u64) -> bool {
        self.0.state.lock().doubled.contains(&call)
    }

    /// Lets something happen to a host when the step is over.
    pub fn order(&self, order: Order) {
        self.0.state.lock().orders.push(order);
    }

    pub(super) fn orders(&self) -> Vec<Order> {
        std::mem::take(&mut self.0.state.lock().orders)
    }

    /// Everything that happened so far; it is taken away.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.state.lock().events)
    }

    /// How often each fault struck.
    #[must_use]
    pub fn fired(&self) -> BTreeMap<String, Fired> {
        let state = self.0.state.lock();
        let struck = state.struck.iter();
        let fired = struck.map(|(name, (struck, calls))| {
            let affected = calls.len() as u64;
            let struck = *struck;
            (name.clone(), Fired { struck, affected })
        });
        fired.collect()
    }
}

/// How late a message is of which a packet was lost, each of whose retransmissions is lost with the
/// same share; `None` where TCP gives up, and the connection with it.
///
/// The first retransmission comes after 200 milliseconds, and each further one after twice the time
/// of the one before, as Linux does it.
pub(super) fn lost_for(draw: Draw, share: Option<f64>) -> Option<Duration> {
    let mut late = RETRANSMITTED_AFTER;
    for retransmission in 1..RETRANSMISSIONS_MAX {
        let lost = Seed::new(draw.bits()).draw(&[u64::from(retransmission)]);
        if !lost.happens(share.unwrap_or(1.0)) {
            return Some(late);
        }
        late += RETRANSMITTED_AFTER * 2_u32.pow(retransmission);
    }
    None
}

const RETRANSMITTED_AFTER: Duration = Duration::from_millis(200);

/// After so many TCP gives up here. Linux does after 15, a quarter of an hour.
const RETRANSMISSIONS_MAX: u32 = 5;

/// How long these take.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_millis(200 * 31);

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("seed", &self.0.seed)
            .finish_non_exhaustive()
    }
}
