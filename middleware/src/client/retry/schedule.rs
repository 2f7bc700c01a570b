//! What paces the retries of one call.

use std::time::Duration;

use super::Backoff;
use crate::jitter;

/// Makes a schedule for each call.
#[derive(Clone)]
pub(super) struct Schedules {
    backoff: Backoff,
    #[cfg(feature = "backoff")]
    foreign: Option<std::sync::Arc<MakeForeign>>,
}

/// What paces the retries of one call.
pub(super) struct Schedule {
    backoff: Backoff,
    #[cfg(feature = "backoff")]
    foreign: Option<Box<dyn Foreign>>,
}

/// A time to wait, of which some may be left to chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// This long.
    Exactly(Duration),
    /// A time drawn uniformly from zero to this.
    UpTo(Duration),
}

#[cfg(feature = "backoff")]
type MakeForeign = dyn Fn() -> Box<dyn Foreign> + Send + Sync;

#[cfg(feature = "backoff")]
trait Foreign: backoff::backoff::Backoff + Send {}

#[cfg(feature = "backoff")]
impl<B: backoff::backoff::Backoff + Send> Foreign for B {}

// === impl Schedules ===

impl Schedules {
    pub(super) const fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            #[cfg(feature = "backoff")]
            foreign: None,
        }
    }

    pub(super) const fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = backoff;
    }

    #[cfg(feature = "backoff")]
    pub(super) fn set_foreign<F, B>(&mut self, make: F)
    where
        F: Fn() -> B + Send + Sync + 'static,
        B: backoff::backoff::Backoff + Send + 'static,
    {
        self.foreign = Some(std::sync::Arc::new(move || Box::new(make())));
    }

    /// The least time between asking twice for an answer that is being made: the base, but no
    /// less than a timer can tell.
    pub(super) fn ask_pause_min(&self) -> Duration {
        self.backoff.options().base.max(Duration::from_millis(1))
    }

    /// The schedule of one call. Made when its first attempt has failed, so that a schedule that
    /// reads a clock does not count the first attempt's own run time.
    pub(super) fn make(&self) -> Schedule {
        Schedule {
            backoff: self.backoff,
            #[cfg(feature = "backoff")]
            foreign: self.foreign.as_ref().map(|make| make()),
        }
    }
}

// === impl Schedule ===

impl Schedule {
    /// How long retry `retry` (from 1) waits, or `None` when the schedule has ended.
    pub(super) fn retry(&mut self, retry: u32, overloaded: bool) -> Option<Wait> {
        #[cfg(feature = "backoff")]
        if let Some(foreign) = &mut self.foreign {
            let delay = foreign.next_backoff()?;
            return Some(Wait::Exactly(delay.min(self.backoff.options().cap)));
        }
        Some(Wait::UpTo(if overloaded {
            self.backoff.window_when_overloaded(retry)
        } else {
            self.backoff.window(retry)
        }))
    }

    /// How long to wait before asking for the `ask`th time (from 1) for an answer that is being
    /// made. Never a foreign schedule's business: its end must not end a call that costs nothing but
    /// time, and a schedule of zeros would ask without a pause.
    pub(super) fn ask(&self, ask: u32) -> Wait {
        Wait::UpTo(self.backoff.window(ask))
    }
}

// === impl Wait ===

impl Wait {
    /// The same, no longer than `max`. An open window is narrowed and not what is drawn from it,
    /// so that calls with one deadline do not all come back at its end.
    pub(super) fn at_most(self, max: Duration) -> Self {
        match self {
            Self::Exactly(delay) => Self::Exactly(delay.min(max)),
            Self::UpTo(window) => Self::UpTo(window.min(max)),
        }
    }

    pub(super) fn draw(self) -> Duration {
        match self {
            Self::Exactly(delay) => delay,
            Self::UpTo(window) => jitter::up_to(window),
        }
    }
}
