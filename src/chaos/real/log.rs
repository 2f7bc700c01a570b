//! What happened so far, in the order in which it was heard of.

use std::collections::BTreeSet;
use std::time::Duration;

use onlyonce_chaos::history::{Event, Happened};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::commits;

/// The events of a run. One clock stamps them all, that of the machine.
pub(super) struct Log {
    /// When it began, by the clock that the processes of the run have as well.
    pub(super) began_us: u64,
    events: Mutex<Vec<Event>>,
    ended: watch::Sender<u64>,
}

// === impl Log ===

impl Log {
    pub(super) fn new() -> Self {
        Self {
            began_us: commits::now_us(),
            events: Mutex::default(),
            ended: watch::Sender::new(0),
        }
    }

    pub(super) fn say(&self, call: u64, attempt: u32, what: Happened) {
        let mut events = self.heard(&what);
        // Under the lock, so that the order is that of the times.
        let at_us = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX);
        events.push(Event {
            at_us,
            call,
            attempt,
            what,
        });
    }

    /// What another process has seen, by the clock that both have: it is heard of later, and perhaps
    /// behind what came after it.
    pub(super) fn retell(&self, event: Event) {
        let mut events = self.heard(&event.what);
        events.push(event);
    }

    fn heard(&self, what: &Happened) -> MutexGuard<'_, Vec<Event>> {
        // A call that is resumed ends again.
        if matches!(what, Happened::Ended { .. }) {
            self.ended.send_modify(|ended| *ended += 1);
        }
        self.events.lock()
    }

    pub(super) fn lifecycle(&self, who: &str, event: &str) {
        let (who, event) = (who.to_owned(), event.to_owned());
        self.say(0, 0, Happened::Lifecycle { who, event });
    }

    pub(super) fn elapsed(&self) -> Duration {
        Duration::from_micros(commits::now_us().saturating_sub(self.began_us))
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
