//! What a proxy has done so far.

use std::collections::BTreeMap;

use super::plan::{Direction, Fault, FaultKind};

/// Counters of a proxy since it began to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that were let in; also the ordinal of the latest one.
    pub connections: u64,
    /// Connections that are open now, those in a blackhole included.
    pub live: u64,
    /// Connections that were reset at once because the bound was reached.
    pub refused: u64,
    /// Connections that were reset because the server behind could not be reached.
    pub upstream_failures: u64,
    /// Bytes delivered to clients.
    pub bytes_to_client: u64,
    /// Bytes delivered to the server.
    pub bytes_to_server: u64,
    /// Bytes that were read and thrown away, in both directions, by a fault or behind its cover
    /// because the receiver is gone.
    pub bytes_swallowed: u64,
    /// Faults that started, by kind; a kind that never did is absent.
    pub fired: BTreeMap<FaultKind, u64>,
}

impl Stats {
    /// How often faults of this kind started.
    #[must_use]
    pub fn fired(&self, kind: FaultKind) -> u64 {
        self.fired.get(&kind).copied().unwrap_or(0)
    }

    pub(super) fn count_fault(&mut self, fault: Fault) {
        *self.fired.entry(fault.kind()).or_default() += 1;
    }

    pub(super) fn count_delivered(&mut self, direction: Direction, bytes: usize) {
        match direction {
            Direction::ToClient => self.bytes_to_client += bytes as u64,
            Direction::ToServer => self.bytes_to_server += bytes as u64,
        }
    }
}
