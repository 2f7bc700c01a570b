//! What happened so far, in the order in which it was heard of.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_chaos::history::{Event, Happened};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// The events of a run. One clock stamps them all.
pub(super) struct Log {
    began: Instant,
    events: Mutex<Vec<Event>>,
    under_way: AtomicU64,
    ended: watch::Sender<u64>,
}

// === impl Log ===

impl Log {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            events: Mutex::default(),
            under_way: AtomicU64::new(0),
            ended: watch::Sender::new(0),
        }
    }

    pub(super) fn say(&self, call: u64, attempt: u32, what: Happened) {
        match what {
            Happened::Invoked { .. } => self.under_way.fetch_add(1, Ordering::Relaxed),
            // A call that is resumed ends again.
            Happened::Ended { .. } => {
                self.ended.send_modify(|ended| *ended += 1);
                let less = |calls: u64| calls.checked_sub(1);
                let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
                self.under_way.fetch_update(set, get, less).unwrap_or(0)
            }
            _ => 0,
        };
        let mut events = self.events.lock();
        // Under the lock, so that the order is that of the times.
        let at_us = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX);
        events.push(Event {
            at_us,
            call,
            attempt,
            what,
        });
    }

    pub(super) fn lifecycle(&self, who: &str, event: &str) {
        let (who, event) = (who.to_owned(), event.to_owned());
        self.say(0, 0, Happened::Lifecycle { who, event });
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many calls have begun and not ended.
    pub(super) fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Waits until calls have ended so often.
    pub(super) async fn until_ended(&self, times: u64) {
        let mut ended = self.ended.subscribe();
        // OK because the sender is in here, and so lives as long as this borrows it.
        let _ = ended.wait_for(|ended| *ended >= times).await;
    }

    /// How many calls were sent more than once.
    pub(super) fn tried_again(&self) -> u64 {
        let events = self.events.lock();
        let again = events.iter().filter(|event| event.attempt > 1);
        let calls: BTreeSet<_> = again.map(|event| event.call).collect();
        calls.len() as u64
    }

    pub(super) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock())
    }
}
