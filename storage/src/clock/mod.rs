//! The clock seam: the only place that reads the wall clock.

#[cfg(any(feature = "memory", feature = "postgres", feature = "sled"))]
mod guard;

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[cfg(any(feature = "memory", feature = "postgres", feature = "sled"))]
pub(crate) use self::guard::ClockGuard;

/// Milliseconds since the Unix epoch, on the clock of a store.
///
/// Leases, retention and first-sent times are all judged on one store's clock, never on a
/// client's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// Where a store gets the time from.
///
/// A clock may jump in either direction; users of this trait must stay safe when it does. It must
/// not block.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// How much time has passed since some moment that does not change: a clock that nobody sets.
    fn elapsed(&self) -> Duration;
}

/// Why a clock is not trusted to forget by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClockSuspicion {
    /// It was set, or the machine slept: since the store was opened it has moved by this much more
    /// or less than the time that has passed.
    #[error(
        "the clock differs by {} s from the time that has passed; check it, then confirm it",
        by.as_secs()
    )]
    Jumped {
        /// By how much.
        by: Duration,
    },
    /// The store was last in use at a time that is more than a horizon ago, or in the future.
    #[error(
        "the store was last in use at {} ms and the clock shows {} ms; check it, then confirm it",
        last_used.as_millis(),
        opened.as_millis()
    )]
    LongAway {
        /// When it was last in use, on its clock then.
        last_used: Timestamp,
        /// When it was opened, on its clock now.
        opened: Timestamp,
    },
}

/// The wall clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// A clock that stands still until it is moved: for tests and simulations.
#[derive(Debug)]
pub struct ManualClock {
    now: AtomicU64,
    elapsed: AtomicU64,
}

// === impl Timestamp ===

impl Timestamp {
    /// The time `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This time and `duration` more; the end of time when there is no later one.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// `duration` before this time; the epoch when there is no earlier one.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

// === impl SystemClock ===

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
        let now = SystemTime::now();
        // OK because a clock set before 1970 reads as the epoch: leases then hold, nothing expires.
        Timestamp(now.duration_since(UNIX_EPOCH).map_or(0, millis))
    }

    fn elapsed(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
        let start = START.get_or_init(Instant::now);
        start.elapsed()
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self {
            now: AtomicU64::new(now.0),
            elapsed: AtomicU64::new(0),
        }
    }

    /// Lets time pass.
    pub fn advance(&self, duration: Duration) {
        self.elapsed.fetch_add(millis(duration), Ordering::SeqCst);
        self.now.fetch_add(millis(duration), Ordering::SeqCst);
    }

    /// Sets the clock, forward or back. No time passes.
    pub fn set(&self, now: Timestamp) {
        self.now.store(now.0, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new(Timestamp(1_700_000_000_000))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.elapsed.load(Ordering::SeqCst))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
