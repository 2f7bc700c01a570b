//! How the calls of a column ended so far.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_chaos::ledger::Ending;
use onlyonce_middleware::client::Ticket;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::Progress;
use super::clients::Ended;

/// How the calls of a column ended so far.
pub(super) struct Log {
    operations: Mutex<BTreeMap<u64, Vec<Ended>>>,
    latencies: Mutex<Vec<Duration>>,
    ended: AtomicU64,
    progressed: Notify,
}

// === impl Log ===

impl Default for Log {
    fn default() -> Self {
        Self {
            operations: Mutex::default(),
            latencies: Mutex::default(),
            ended: AtomicU64::new(0),
            progressed: Notify::new(),
        }
    }
}

impl Log {
    pub(super) fn operations(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Ended>>> {
        self.operations.lock()
    }

    pub(super) fn ended(&self, operation: u64, endings: Vec<Ended>, took: Duration) {
        self.operations
            .lock()
            .entry(operation)
            .or_default()
            .extend(endings);
        self.latencies.lock().push(took);
        self.ended.fetch_add(1, Ordering::AcqRel);
        self.progressed.notify_one();
    }

    /// Waits until this many calls have ended.
    pub(super) async fn until_ended(&self, calls: u64, progress: &dyn Progress) {
        loop {
            let ended = self.ended.load(Ordering::Acquire);
            progress.at(ended);
            if ended >= calls {
                return;
            }
            self.progressed.notified().await;
        }
    }

    /// What to resume an operation with, while nobody has been told what came of it.
    pub(super) fn open(&self, operation: u64) -> Option<Ticket> {
        let operations = self.operations.lock();
        let endings = operations.get(&operation)?;
        if endings.iter().any(|ended| ended.ending != Ending::Unknown) {
            return None;
        }
        endings.last()?.ticket.clone()
    }

    /// What to ask with about an operation that was named in doubt, and never answered.
    pub(super) fn in_doubt(&self, operation: u64) -> Option<Ticket> {
        let operations = self.operations.lock();
        let endings = operations.get(&operation)?;
        let is_answer = |ended: &Ended| !matches!(ended.ending, Ending::InDoubt | Ending::Unknown);
        let is_doubt = |ended: &Ended| ended.ending == Ending::InDoubt;
        if endings.iter().any(is_answer) || !endings.iter().any(is_doubt) {
            return None;
        }
        endings.last()?.ticket.clone()
    }

    /// How many operations were named in doubt to anybody, also where one was answered later.
    pub(super) fn ever_in_doubt(&self) -> u64 {
        let operations = self.operations.lock();
        let is_doubt = |ended: &Ended| ended.ending == Ending::InDoubt;
        let doubted = operations
            .values()
            .filter(|endings| endings.iter().any(is_doubt));
        doubted.count() as u64
    }

    /// Notes how a resumed call ended; true the first time for this operation.
    pub(super) fn resumed(&self, operation: u64, ended: Ended) -> bool {
        let mut operations = self.operations.lock();
        let endings = operations.entry(operation).or_default();
        let first = endings.iter().all(|ended| ended.attempts > 0);
        // A resumed call is one more attempt of the same operation; counted at the wire.
        endings.push(Ended {
            attempts: 0,
            ..ended
        });
        first
    }

    /// The operations of which nobody was told anything.
    pub(super) fn unknown(&self) -> Vec<u64> {
        let operations = self.operations.lock();
        let unknown = operations
            .iter()
            .filter(|(_, endings)| endings.iter().all(|ended| ended.ending == Ending::Unknown));
        unknown.map(|(operation, _)| *operation).collect()
    }

    pub(super) fn attempts(&self) -> u64 {
        let operations = self.operations.lock();
        operations
            .values()
            .flatten()
            .map(|ended| u64::from(ended.attempts))
            .sum()
    }

    pub(super) fn percentile_ms(&self, share: f64) -> f64 {
        let mut latencies = self.latencies.lock();
        latencies.sort_unstable();
        let last = latencies.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        latencies
            .get(index)
            .map_or(0.0, |took| took.as_secs_f64() * 1_000.0)
    }
}
