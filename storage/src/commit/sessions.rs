//! The sessions of a store: who has which, what is acknowledged, and which calls they hold.
//!
//! ```text
//! open -> live -> (not used for its time) -> expired
//! ```
//!
//! Ids count up and are never given twice, so an id that was given and is not live has expired: to
//! tell it from one that was never given takes no memory at all. A completed call whose record
//! names a session is *held*: it is not among the settled records of its day. It goes at once when
//! it is acknowledged. When its session has expired, or the acknowledgement came before the answer,
//! the session is taken out of its record: it is then remembered like any other.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::record::{CallRecord, Record, State};
use crate::transition::Refusal;
use crate::{
    KeyDigest, SESSION_WINDOW, Scope, ScopeDigest, SessionCall, SessionState, StoreLimits,
    Timestamp,
};

/// What a group changes of a session: to be made durable with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// It has expired.
    Ended {
        /// Which.
        session: u64,
    },
    /// It was given to a principal.
    Opened {
        /// Which: larger than all before.
        session: u64,
        /// The principal's scope, of no operation.
        scope: ScopeDigest,
    },
    /// Calls below this number are acknowledged.
    Raised {
        /// Which.
        session: u64,
        /// The number.
        first_unanswered: u64,
    },
}

/// A session as a store keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Its principal's scope, of no operation.
    pub scope: ScopeDigest,
    /// Calls below this number are acknowledged.
    pub first_unanswered: u64,
}

/// All sessions, in memory; bounded by the limits.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// The last id that was given.
    last: u64,
    live: BTreeMap<u64, Session>,
    by_scope: HashMap<ScopeDigest, usize>,
    /// How many of a scope have acknowledged anything.
    acknowledging: HashMap<ScopeDigest, usize>,
    by_use: BTreeSet<(Timestamp, u64)>,
    /// Held calls that no session holds any more.
    left: VecDeque<KeyDigest>,
}

#[derive(Debug)]
struct Session {
    row: SessionRow,
    used: Timestamp,
    /// Its calls that have a record, by their numbers, all of them from the first unanswered on.
    calls: BTreeMap<u64, KeyDigest>,
}

// === impl Sessions ===

impl Sessions {
    /// Takes in what an earlier opening left. Nobody can have used a session of a store that was
    /// closed: its time begins anew.
    pub(super) fn adopt(
        &mut self,
        last: u64,
        rows: impl IntoIterator<Item = (u64, SessionRow)>,
        now: Timestamp,
    ) {
        for (id, row) in rows {
            self.insert(id, row, now);
        }
        self.last = self.last.max(last);
    }

    /// Takes in a record of an earlier opening.
    pub(super) fn adopt_record(&mut self, key: KeyDigest, call: &CallRecord) {
        self.enter(key, call);
        if is_held(call) && !self.holds(key, call) {
            self.left.push_back(key);
        }
    }

    /// A new session.
    pub(super) fn open(
        &mut self,
        scope: ScopeDigest,
        limits: &StoreLimits,
        now: Timestamp,
    ) -> SessionState {
        let of_scope = self.by_scope.get(&scope).copied().unwrap_or_default();
        for (count, limit) in [
            (of_scope, limits.sessions_max),
            (self.live.len(), limits.sessions_in_all_max),
        ] {
            if count >= limit {
                return SessionState::TooMany { limit };
            }
        }
        let first_unanswered = 0;
        let row = SessionRow {
            scope,
            first_unanswered,
        };
        let session = self.last + 1;
        self.insert(session, row, now);
        SessionState::Live {
            session,
            first_unanswered,
        }
    }

    /// What is known of a session, which is used now.
    pub(super) fn used(&mut self, id: u64, scope: ScopeDigest, now: Timestamp) -> SessionState {
        let Some(session) = self.live.get_mut(&id) else {
            return match id {
                id if id >= 1 && id <= self.last => SessionState::Expired,
                _ => SessionState::Unknown,
            };
        };
        if session.row.scope != scope {
            return SessionState::Unknown;
        }
        if session.used < now {
            self.by_use.remove(&(session.used, id));
            self.by_use.insert((now, id));
            session.used = now;
        }
        SessionState::Live {
            session: id,
            first_unanswered: session.row.first_unanswered,
        }
    }

    /// Notes that calls below a number are acknowledged: those that have a record. `None` where
    /// that was known.
    pub(super) fn raise(&mut self, id: u64, first_unanswered: u64) -> Option<Vec<KeyDigest>> {
        let session = self.live.get_mut(&id)?;
        if first_unanswered <= session.row.first_unanswered {
            return None;
        }
        if session.row.first_unanswered == 0 {
            *self.acknowledging.entry(session.row.scope).or_default() += 1;
        }
        session.row.first_unanswered = first_unanswered;
        let kept = session.calls.split_off(&first_unanswered);
        let acknowledged = std::mem::replace(&mut session.calls, kept);
        Some(acknowledged.into_values().collect())
    }

    /// Whether a live session of this scope has acknowledged anything.
    pub(super) fn acknowledge_for(&self, scope: ScopeDigest) -> bool {
        self.acknowledging.contains_key(&scope)
    }

    /// Whether a call may be claimed whose key is absent, in a session that is live.
    pub(super) fn admit(&self, key: KeyDigest, call: SessionCall) -> Result<(), Refusal> {
        // OK because the session was found live before.
        let session = self.live.get(&call.session);
        let session = session.ok_or(Refusal::SessionExpired)?;
        let first = session.row.first_unanswered;
        // Who sends a call has not had its answer: whatever else it says is somebody's mistake.
        if call.sequence < first || call.sequence < call.first_unanswered {
            return Err(Refusal::Stale);
        }
        if call.sequence - first >= SESSION_WINDOW {
            return Err(Refusal::WindowFull);
        }
        match session.calls.get(&call.sequence) {
            // A number that two keys share could be acknowledged for one of them only.
            Some(other) if *other != key => Err(Refusal::Stale),
            _ => Ok(()),
        }
    }

    /// Notes that the record of a key was written, removed or changed.
    pub(super) fn changed(
        &mut self,
        key: KeyDigest,
        before: Option<&Record>,
        after: Option<&Record>,
    ) {
        if let Some(call) = before.and_then(Record::call) {
            self.leave(key, call);
        }
        if let Some(call) = after.and_then(Record::call) {
            self.enter(key, call);
        }
    }

    /// The record as it is to be written: without a session where none holds it.
    pub(super) fn settled(&self, key: KeyDigest, mut record: Record) -> Record {
        if let Record::Call(call) = &mut record
            && is_held(call)
            && !self.holds(key, call)
        {
            call.session = None;
        }
        record
    }

    /// Ends a session that was not used for so long, if there is one.
    pub(super) fn expire(&mut self, idle: Duration, now: Timestamp) -> Option<u64> {
        let &(used, id) = self.by_use.first()?;
        if used.plus(idle) > now {
            return None;
        }
        self.by_use.remove(&(used, id));
        let session = self.live.remove(&id)?;
        one_less(&mut self.by_scope, session.row.scope);
        if session.row.first_unanswered > 0 {
            one_less(&mut self.acknowledging, session.row.scope);
        }
        self.left.extend(session.calls.into_values());
        Some(id)
    }

    /// A call that a session held which has expired.
    pub(super) fn next_left(&mut self) -> Option<KeyDigest> {
        self.left.pop_front()
    }

    fn insert(&mut self, id: u64, row: SessionRow, now: Timestamp) {
        *self.by_scope.entry(row.scope).or_default() += 1;
        if row.first_unanswered > 0 {
            *self.acknowledging.entry(row.scope).or_default() += 1;
        }
        self.by_use.insert((now, id));
        let session = Session {
            row,
            used: now,
            calls: BTreeMap::new(),
        };
        self.live.insert(id, session);
        self.last = self.last.max(id);
    }

    fn holds(&self, key: KeyDigest, call: &CallRecord) -> bool {
        call.session.is_some_and(|place| {
            let session = self.live.get(&place.session);
            session.is_some_and(|session| session.calls.get(&place.sequence) == Some(&key))
        })
    }

    fn enter(&mut self, key: KeyDigest, call: &CallRecord) {
        if let Some(place) = call.session
            && let Some(session) = self.live.get_mut(&place.session)
            && place.sequence >= session.row.first_unanswered
        {
            session.calls.insert(place.sequence, key);
        }
    }

    fn leave(&mut self, key: KeyDigest, call: &CallRecord) {
        if self.holds(key, call)
            && let Some(place) = call.session
            && let Some(session) = self.live.get_mut(&place.session)
        {
            session.calls.remove(&place.sequence);
        }
    }
}

fn one_less(counts: &mut HashMap<ScopeDigest, usize>, scope: ScopeDigest) {
    if let Some(count) = counts.get_mut(&scope) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&scope);
        }
    }
}

/// The principal's own scope: a session is for all of its operations.
pub(super) fn scope_of(scope: &Scope) -> ScopeDigest {
    scope.of_principal().digest()
}

const fn is_held(call: &CallRecord) -> bool {
    matches!(call.state, State::Completed { .. }) && call.session.is_some()
}
