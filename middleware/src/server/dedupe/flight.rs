//! The calls that this process is executing, and the callers who wait for each.
//!
//! A flight is named by key *and* fingerprint: a wrong request with somebody's key must not be
//! told apart here, where the first to arrive may be the wrong one, but by the store, which knows
//! the first that was claimed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use onlyonce_storage::{Answer, Fingerprint, InDoubt, KeyDigest};
use tokio::sync::SetOnce;

use super::scheduled::{AtomicU8, AtomicUsize, Mutex, Notify};
use crate::observe::server::Waiting;
use crate::server::{DedupeOptions, Refusal, Served};

/// The table of flights.
pub(super) struct Flights {
    table: Mutex<HashMap<FlightName, Arc<Flight>>>,
    waiters: AtomicUsize,
    waiters_max: usize,
    waiters_per_key_max: usize,
    flights_max: usize,
    /// Tells who waits for it that no call is being executed.
    idle: Notify,
}

/// What tells flights apart.
pub(super) type FlightName = (KeyDigest, Fingerprint);

/// One call being executed.
pub(super) struct Flight {
    /// Who waits is woken in the order in which they came.
    landed: SetOnce<Landing>,
    waiters: AtomicUsize,
    phase: AtomicU8,
}

/// How a flight ended, for those who waited.
#[derive(Clone, Debug)]
pub(super) enum Landing {
    /// With an answer.
    Answer(Answer, Served),
    /// In doubt, with no answer kept.
    InDoubt(InDoubt),
    /// Without having been executed; the key is free again.
    NotExecuted,
    /// With a refusal that holds for everybody.
    Refused(Refusal),
}

/// What a caller does about a call.
pub(super) enum Boarding {
    /// Somebody executes, and as many wait as may.
    Crowded,
    /// Nobody executes, and there is no room for another execution.
    Full,
    /// It is the first: it executes.
    Lead(Lead),
    /// Somebody executes.
    Wait(Waiter),
}

/// The one who executes. Dropping it ends the flight.
pub(super) struct Lead {
    flights: Arc<Flights>,
    name: FlightName,
    flight: Arc<Flight>,
    landing: Option<Landing>,
}

/// One who waits.
pub(super) struct Waiter {
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    _waiting: Waiting,
}

// === impl Flights ===

impl Flights {
    pub(super) fn new(options: &DedupeOptions) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::new(HashMap::new()),
            waiters: AtomicUsize::new(0),
            waiters_max: options.waiters_max,
            waiters_per_key_max: options.waiters_per_key_max,
            flights_max: options.flights_max,
            idle: Notify::new(),
        })
    }

    /// Joins the flight of this name, or begins it.
    pub(super) fn board(self: &Arc<Self>, name: FlightName) -> Boarding {
        let mut table = self.table.lock();
        let flights = table.len();
        match table.entry(name) {
            Entry::Vacant(_) if flights >= self.flights_max => Boarding::Full,
            Entry::Vacant(place) => {
                let flight = Arc::new(Flight {
                    landed: SetOnce::new(),
                    waiters: AtomicUsize::new(0),
                    phase: AtomicU8::new(CLAIMING),
                });
                place.insert(Arc::clone(&flight));
                Boarding::Lead(Lead {
                    flights: Arc::clone(self),
                    name,
                    flight,
                    landing: None,
                })
            }
            Entry::Occupied(place) => {
                let flight = Arc::clone(place.get());
                drop(table);
                self.wait_for(flight)
                    .map_or(Boarding::Crowded, Boarding::Wait)
            }
        }
    }

    /// How many callers wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiters.load(Ordering::Relaxed)
    }

    /// How many calls are being executed.
    pub(super) fn in_flight(&self) -> usize {
        self.table.lock().len()
    }

    /// Ends when no call is being executed.
    pub(super) async fn idle(&self) {
        loop {
            // Registered before it is looked, so that an end in between is heard of.
            let mut idle = pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn wait_for(self: &Arc<Self>, flight: Arc<Flight>) -> Option<Waiter> {
        if !take_place(&self.waiters, self.waiters_max) {
            return None;
        }
        if !take_place(&flight.waiters, self.waiters_per_key_max) {
            self.waiters.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Waiter {
            flights: Arc::clone(self),
            flight,
            _waiting: Waiting::begin(),
        })
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights")
            .field("in_flight", &self.in_flight())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}

// === impl Flight ===

impl Flight {
    /// claiming => running. False when the caller called it off before.
    pub(super) fn start_running(&self) -> bool {
        self.phase
            .compare_exchange(CLAIMING, RUNNING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// claiming => called off: the handler will not start. False when it has started.
    pub(super) fn call_off(&self) -> bool {
        self.phase
            .compare_exchange(CLAIMING, CALLED_OFF, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

// === impl Lead ===

impl Lead {
    /// The flight.
    pub(super) const fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Ends the flight: tells those who wait, and lets the next caller ask the store.
    ///
    /// What is told must already be durable.
    pub(super) fn land(mut self, landing: Landing) {
        self.landing = Some(landing);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // Gone before anybody is told: whoever hears that nothing was executed boards anew, and
        // must not find this flight again.
        let mut table = self.flights.table.lock();
        table.remove(&self.name);
        if table.is_empty() {
            self.flights.idle.notify_waiters();
        }
        drop(table);
        // A lead that was dropped before it landed (its runtime is shutting down) leaves its
        // waiters without an answer; without this they would wait for a word that
        // nobody says.
        let landing = self.landing.take();
        let lost = Landing::Refused(Refusal::InProgress {
            retry_after: LOST_LEAD,
        });
        // OK because nobody else lands it.
        let _ = self.flight.landed.set(landing.unwrap_or(lost));
    }
}

// === impl Waiter ===

impl Waiter {
    /// How the flight ended, or `None` when it did not within `limit`.
    ///
    /// A tie is won by the landing.
    pub(super) async fn wait(self, limit: Duration) -> Option<Landing> {
        let landed = tokio::time::timeout(limit, self.flight.landed.wait()).await;
        landed.ok().cloned()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.flight.waiters.fetch_sub(1, Ordering::AcqRel);
        self.flights.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One step, so that racing callers never exceed `max`.
fn take_place(places: &AtomicUsize, max: usize) -> bool {
    places
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            (taken < max).then_some(taken + 1)
        })
        .is_ok()
}

const CLAIMING: u8 = 0;
const RUNNING: u8 = 1;
const CALLED_OFF: u8 = 2;

/// The store knows within moments what became of a claim whose owner is gone.
const LOST_LEAD: Duration = Duration::from_millis(100);
