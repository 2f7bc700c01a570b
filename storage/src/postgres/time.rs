//! What this process knows of the database's clock.

use std::time::Duration;

#[cfg(feature = "conformance")]
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::options::PostgresOptions;
use crate::{Clock, Timestamp, transition};

/// The database's clock, as it was last seen, and the time that has passed here since then.
///
/// Only what a client is told comes from here, and whether the clock has jumped. Leases, retention and
/// horizons are judged by the database, in the statement that reads or changes the record.
#[derive(Debug)]
pub(super) struct SeenClock {
    opened: Instant,
    seen: Mutex<Seen>,
    #[cfg(feature = "conformance")]
    told: Option<Arc<dyn Clock>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    now: Timestamp,
    at: Instant,
    forgotten_until: Timestamp,
}

/// The two clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    now: Timestamp,
    elapsed: Duration,
}

// === impl SeenClock ===

impl SeenClock {
    pub(super) fn start(
        options: &PostgresOptions,
        now: Timestamp,
        forgotten_until: Timestamp,
    ) -> Self {
        let at = Instant::now();
        let _ = options;
        Self {
            opened: at,
            seen: Mutex::new(Seen {
                now,
                at,
                forgotten_until,
            }),
            #[cfg(feature = "conformance")]
            told: options.clock.clone(),
        }
    }

    /// Takes in what an answer says.
    pub(super) fn note(&self, now: Timestamp, forgotten_until: Timestamp) {
        let mut seen = self.seen.lock();
        *seen = Seen {
            now,
            at: Instant::now(),
            forgotten_until: forgotten_until.max(seen.forgotten_until),
        };
    }

    /// The time that clients are told.
    pub(super) fn now(&self) -> Timestamp {
        let seen = *self.seen.lock();
        #[cfg(feature = "conformance")]
        if let Some(told) = &self.told {
            return transition::now_told(told.now(), seen.forgotten_until);
        }
        transition::now_told(seen.now.plus(seen.at.elapsed()), seen.forgotten_until)
    }

    /// Both clocks, the database's having just been read.
    pub(super) fn reading(&self, now: Timestamp) -> Reading {
        #[cfg(feature = "conformance")]
        if let Some(told) = &self.told {
            // Both at the moment: the suite moves its clock while the database is asked.
            let (now, elapsed) = (told.now(), told.elapsed());
            return Reading { now, elapsed };
        }
        Reading {
            now,
            elapsed: self.opened.elapsed(),
        }
    }
}

impl Clock for Reading {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn elapsed(&self) -> Duration {
        self.elapsed
    }
}
