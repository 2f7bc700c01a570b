//! What is in progress and in doubt: counted by scope, and in the order in which leases lapse and
//! doubts began.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use crate::inspect::{OpenStats, SCOPES_SEEN_MAX, SCOPES_SHOWN_MAX, ScopeStats};
use crate::record::{Record, State};
use crate::{Cursor, KeyDigest, ListRequest, OpenState, Scope, StoreLimits, Timestamp};

/// The open calls of a store, kept in memory and rebuilt when it is opened. Its size is bounded by
/// the limits of each scope.
#[derive(Debug, Default)]
pub(super) struct OpenCalls {
    by_scope: HashMap<Scope, Counts>,
    leases: BTreeSet<(Timestamp, KeyDigest)>,
    doubts: BTreeSet<(Timestamp, KeyDigest)>,
    /// Of those that keep one, how large it is; and of all together.
    journals: HashMap<KeyDigest, usize>,
    journals_bytes: usize,
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
        if before.is_some_and(|before| before.journal().is_some())
            && let Some(bytes) = self.journals.remove(&key)
        {
            self.journals_bytes -= bytes;
        }
        if let Some(journal) = after.and_then(Record::journal) {
            let bytes = journal.bytes();
            self.journals.insert(key, bytes);
            self.journals_bytes += bytes;
        }
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

    /// The places that a list looks at, in its order, behind the one that it has reached: of what is
    /// in progress, where only doubts are wanted, those whose lapse nobody has written down yet.
    pub(super) fn listed(
        &self,
        request: &ListRequest,
        now: Timestamp,
    ) -> impl Iterator<Item = Cursor> {
        let after = request.after;
        let begin = move |state| match after {
            Some(after) if after.state > state => None,
            Some(after) if after.state == state => Some(Bound::Excluded((after.time, after.key))),
            _ => Some(Bound::Unbounded),
        };
        let in_progress = request.wants(OpenState::InProgress);
        let leases = begin(OpenState::InProgress)
            .map(|begin| self.leases.range((begin, Bound::Unbounded)))
            .into_iter()
            .flatten()
            .take_while(move |(expires_at, _)| in_progress || *expires_at <= now)
            .map(|&(time, key)| Cursor {
                state: OpenState::InProgress,
                time,
                key,
            });
        let doubts = begin(OpenState::InDoubt)
            .filter(|_| request.wants(OpenState::InDoubt))
            .map(|begin| self.doubts.range((begin, Bound::Unbounded)))
            .into_iter()
            .flatten()
            .map(|&(time, key)| Cursor {
                state: OpenState::InDoubt,
                time,
                key,
            });
        leases.chain(doubts)
    }

    /// How large the journal of a call is; 0 for one that keeps none.
    pub(super) fn journal_bytes(&self, key: KeyDigest) -> usize {
        self.journals.get(&key).copied().unwrap_or(0)
    }

    /// How large the journals of all calls are together.
    pub(super) const fn journals_bytes(&self) -> usize {
        self.journals_bytes
    }

    pub(super) fn stats(&self) -> OpenStats {
        let seen = self.by_scope.iter().take(SCOPES_SEEN_MAX);
        let mut most: Vec<_> = seen
            .map(|(scope, counts)| ((counts.in_doubt, counts.in_progress), scope))
            .collect();
        if most.len() > SCOPES_SHOWN_MAX {
            most.select_nth_unstable_by_key(SCOPES_SHOWN_MAX, |(counts, _)| Reverse(*counts));
            most.truncate(SCOPES_SHOWN_MAX);
        }
        most.sort_by_key(|(counts, _)| Reverse(*counts));
        let most = most.into_iter();
        OpenStats {
            in_progress: self.leases.len() as u64,
            in_doubt: self.doubts.len() as u64,
            oldest_doubt: self.doubts.first().map(|(since, _)| *since),
            scopes: self.by_scope.len() as u64,
            most: most
                .map(|((in_doubt, in_progress), scope)| ScopeStats {
                    scope: scope.clone(),
                    in_progress: in_progress as u64,
                    in_doubt: in_doubt as u64,
                })
                .collect(),
        }
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
            State::InDoubt { since, .. } => {
                self.counts(call.key.scope()).in_doubt += 1;
                self.doubts.insert((since, key));
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
        match call.state {
            State::Completed { .. } => {}
            State::InDoubt { since, .. } => {
                counts.in_doubt = counts.in_doubt.saturating_sub(1);
                self.doubts.remove(&(since, key));
            }
            State::InProgress { lease } => {
                counts.in_progress = counts.in_progress.saturating_sub(1);
                self.leases.remove(&(lease.expires_at(), key));
            }
        }
        // Scopes come and go; only those with something open cost memory.
        if counts.in_progress == 0 && counts.in_doubt == 0 {
            self.by_scope.remove(scope);
        }
    }
}
