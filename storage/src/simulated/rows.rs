//! What the store remembers, in maps whose order is their keys'.

use std::collections::BTreeMap;

use crate::commit::{Change, Rows, Scan, SessionChange, SessionRow, over};
use crate::planted;
use crate::record::{AnswerKept, CallRecord, Record, State};
use crate::transaction::{KeyBounds, Table, Writes};
use crate::transition::{self, Circumstances};
use crate::{Answer, KeyDigest, StoreError, Timestamp};

/// Everything that is applied.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) records: BTreeMap<KeyDigest, Record>,
    pub(super) tables: Writes,
    pub(super) sessions: BTreeMap<u64, SessionRow>,
    pub(super) last_session: u64,
    pub(super) forgotten_until: Timestamp,
    pub(super) incarnation: u64,
}

/// What a sweep takes away.
#[derive(Debug, Default)]
pub(super) struct Overdue {
    pub(super) gone: Vec<KeyDigest>,
    pub(super) answers: Vec<KeyDigest>,
    pub(super) forgotten_until: Timestamp,
}

// === impl Kept ===

impl Kept {
    pub(super) fn change(&mut self, change: Change) {
        match change.after {
            None => self.records.remove(&change.key),
            Some(record) => self.records.insert(change.key, record),
        };
    }

    pub(super) fn session(&mut self, change: &SessionChange) {
        match *change {
            SessionChange::Opened { session, scope } => {
                self.last_session = self.last_session.max(session);
                let first_unanswered = 0;
                let row = SessionRow {
                    scope,
                    first_unanswered,
                };
                self.sessions.insert(session, row);
            }
            SessionChange::Raised {
                session,
                first_unanswered,
            } => {
                if let Some(row) = self.sessions.get_mut(&session) {
                    row.first_unanswered = first_unanswered;
                }
            }
            SessionChange::Ended { session } => {
                self.sessions.remove(&session);
            }
        }
    }

    pub(super) fn write(&mut self, writes: Writes) {
        for (table, rows) in writes {
            let kept = self.tables.entry(table).or_default();
            for (key, value) in rows {
                match value {
                    None => kept.remove(&key),
                    Some(value) => kept.insert(key, Some(value)),
                };
            }
        }
    }

    /// What is past its retention or horizon.
    pub(super) fn overdue(&self, at: &Circumstances) -> Overdue {
        let mut overdue = Overdue::default();
        for (&key, record) in &self.records {
            if record.is_held() {
                continue;
            }
            let past = transition::is_past_horizon(record, at);
            if past && let Some(until) = transition::forgotten_with(record) {
                overdue.forgotten_until = overdue.forgotten_until.max(until);
                overdue.gone.push(key);
            } else if let Record::Call(call) = record
                && transition::is_past_retention(call, at)
                && !matches!(
                    &call.state,
                    State::Completed {
                        answer: AnswerKept::Gone,
                        ..
                    }
                )
            {
                overdue.answers.push(key);
            }
        }
        overdue
    }
}

impl Rows for Kept {
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        let record = self.records.get(&key).cloned();
        if planted!(AnswerOfAnotherKey)
            && let Some(Record::Call(call)) = &record
            && let State::Completed { .. } = call.state
            && let Some(Record::Call(other)) =
                self.records.values().find(|other| other.is_settled())
        {
            let state = other.state.clone();
            return Ok(Some(Record::Call(CallRecord {
                state,
                ..call.clone()
            })));
        }
        Ok(record)
    }

    fn answer(&self, _: KeyDigest, _: &CallRecord) -> Result<Option<Answer>, StoreError> {
        // OK because this store keeps every answer in its record.
        Ok(None)
    }

    fn scan<'a>(&'a self, table: &Table, bounds: KeyBounds<'a>) -> Scan<'a> {
        over(self.tables.get(table), bounds, Box::new(std::iter::empty()))
    }

    fn room_for(&self, _: &Writes) -> Result<(), StoreError> {
        Ok(())
    }
}
