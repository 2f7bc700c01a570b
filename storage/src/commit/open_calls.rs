//! What is in progress and in doubt: counted by scope, and in the order in which leases lapse.

use std::collections::{BTreeSet, HashMap};

use crate::record::{Record, State};
use crate::{KeyDigest, Scope, StoreLimits, Timestamp};

/// The open calls of a store, kept in memory and rebuilt when it is opened. Its size is bounded by
/// the limits of each scope.
#[derive(Debug, Default)]
pub(super) struct OpenCalls {
    by_scope: HashMap<Scope, Counts>,
    leases: BTreeSet<(Timestamp, KeyDigest)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    in_progress: usize,
    in_doubt: usize,
}

// === impl OpenCalls ===

impl OpenCalls {
    /// Notes that the record of a key was written, removed or changed.
    pub(super) fn changed(
        &mut self,
        key: KeyDigest,
        before: Option<&Record>,
        after: Option<&Record>,
    ) {
        self.remove(key, before);
        self.add(key, after);
    }

    /// Whether the scope may have one more call in progress.
    pub(super) fn has_room(&self, scope: &Scope, limits: &StoreLimits) -> bool {
        let counts = self.by_scope.get(scope).copied().unwrap_or_default();
        counts.in_progress < limits.in_progress_max && counts.in_doubt < limits.in_doubt_max
    }

    /// The keys whose leases have lapsed at `now`, at most `count_max` of them, oldest first.
    pub(super) fn lapsed(&self, now: Timestamp, count_max: usize) -> Vec<KeyDigest> {
        self.leases
            .iter()
            .take_while(|(expires_at, _)| *expires_at <= now)
            .take(count_max)
            .map(|(_, key)| *key)
            .collect()
    }

    fn counts(&mut self, scope: &Scope) -> &mut Counts {
        self.by_scope.entry(scope.clone()).or_default()
    }

    fn add(&mut self, key: KeyDigest, record: Option<&Record>) {
        let Some(call) = record.and_then(Record::call) else {
            return;
        };
        match call.state {
            State::Completed { .. } => {}
            State::InDoubt { .. } => {
                self.counts(call.key.scope()).in_doubt += 1;
            }
            State::InProgress { lease } => {
                self.counts(call.key.scope()).in_progress += 1;
                self.leases.insert((lease.expires_at(), key));
            }
        }
    }

    fn remove(&mut self, key: KeyDigest, record: Option<&Record>) {
        let Some(call) = record.and_then(Record::call) else {
            return;
        };
        if matches!(call.state, State::Completed { .. }) {
            return;
        }
        let scope = call.key.scope();
        let Some(counts) = self.by_scope.get_mut(scope) else {
            return;
        };
        if let State::InProgress { lease } = call.state {
            counts.in_progress = counts.in_progress.saturating_sub(1);
            self.leases.remove(&(lease.expires_at(), key));
        } else {
            counts.in_doubt = counts.in_doubt.saturating_sub(1);
        }
        // Scopes come and go; only those with something open cost memory.
        if counts.in_progress == 0 && counts.in_doubt == 0 {
            self.by_scope.remove(scope);
        }
    }
}
