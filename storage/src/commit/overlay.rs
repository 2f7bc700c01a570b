//! What a group reads: the rows, and over them what its earlier operations have changed.

use std::collections::HashMap;

use super::operation::{Change, ClaimReply};
use super::transact::{Scan, Written, no_tables};
use crate::record::{AnswerKept, CallRecord, KeyState, Record, State};
use crate::transaction::{KeyBounds, Table, Writes};
use crate::transition::{self, Circumstances, Refusal};
use crate::{Answer, Completion, InDoubt, KeyDigest, StoreError, Timestamp};

/// What a core reads: the rows as the last group left them.
pub trait Rows {
    /// The record of a key. Its answer may be [`AnswerKept::Beside`].
    ///
    /// # Errors
    ///
    /// When the row cannot be read or believed; such a key is never treated as absent.
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError>;

    /// The answer that is kept beside this record; `None` when it was removed for its age.
    ///
    /// # Errors
    ///
    /// When it should be there and is missing or damaged.
    fn answer(&self, key: KeyDigest, call: &CallRecord) -> Result<Option<Answer>, StoreError>;

    /// Whether there is room for the record of one more key.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`], naming the bound, when there is none.
    fn room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The rows of a handlers' table between two bounds, in the order of their keys.
    fn scan<'a>(&'a self, table: &Table, bounds: KeyBounds<'a>) -> Scan<'a> {
        let _ = bounds;
        Box::new(std::iter::once(Err(no_tables(table))))
    }

    /// Whether there is room for what a transaction writes.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`], naming the bound, when there is none.
    fn room_for(&self, writes: &Writes) -> Result<(), StoreError> {
        writes
            .keys()
            .next()
            .map_or(Ok(()), |table| Err(no_tables(table)))
    }
}

/// The rows as the operations so far have left them.
pub(super) struct Overlay<'a> {
    pub(super) rows: &'a dyn Rows,
    changes: Vec<Change>,
    /// Where the change of a key stands, once there are so many that looking is slower.
    places: Option<HashMap<KeyDigest, usize>>,
    pub(super) written: Written,
}

// === impl Overlay ===

impl<'a> Overlay<'a> {
    /// Over these rows, for so many operations.
    pub(super) fn new(rows: &'a dyn Rows, operations: usize) -> Self {
        Self {
            rows,
            // One operation mostly changes one key. A group grows with what it changes.
            changes: Vec::with_capacity(operations.min(1)),
            places: None,
            written: Written::default(),
        }
    }

    fn place(&self, key: KeyDigest) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(&key).copied(),
            None => self.changes.iter().position(|change| change.key == key),
        }
    }

    pub(super) fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        match self.place(key) {
            Some(place) => Ok(self.changes[place].after.clone()),
            None => self.rows.record(key),
        }
    }

    pub(super) fn write(&mut self, key: KeyDigest, before: Option<Record>, after: Option<Record>) {
        if let Some(place) = self.place(key) {
            self.changes[place].after = after;
            return;
        }
        let place = self.changes.len();
        self.changes.push(Change { key, before, after });
        match &mut self.places {
            Some(places) => {
                places.insert(key, place);
            }
            None if self.changes.len() > LOOKED_THROUGH_MAX => {
                let keys = self.changes.iter().map(|change| change.key);
                self.places = Some(keys.zip(0..).collect());
            }
            None => {}
        }
    }

    /// What a reader may be told of a key, its answer read where it lies beside.
    pub(super) fn state(
        &self,
        key: KeyDigest,
        first_sent: Option<Timestamp>,
        at: &Circumstances,
    ) -> Result<KeyState, StoreError> {
        let record = match self.record(key)? {
            Some(Record::Call(call)) if !transition::is_past_retention(&call, at) => {
                Some(Record::Call(self.with_answer(key, call)?))
            }
            other => other,
        };
        Ok(transition::state(record.as_ref(), first_sent, at))
    }

    pub(super) fn replay(
        &self,
        key: KeyDigest,
        call: CallRecord,
    ) -> Result<ClaimReply, StoreError> {
        let call = self.with_answer(key, call)?;
        Ok(match call.state {
            State::Completed {
                at,
                answer: AnswerKept::Here(answer),
                ..
            } => ClaimReply::Completed(Completion {
                answer,
                completed_at: at,
                token: call.token,
            }),
            State::InDoubt {
                since,
                reason,
                answer,
            } => ClaimReply::InDoubt(InDoubt {
                token: call.token,
                since,
                reason,
                answer: match answer {
                    Some(AnswerKept::Here(answer)) => Some(answer),
                    _ => None,
                },
            }),
            // OK because only settled and doubted calls are replayed: this one's answer is gone.
            State::Completed { .. } | State::InProgress { .. } => {
                ClaimReply::Refused(Refusal::Stale)
            }
        })
    }

    /// The answer that is kept of a key, wherever it is.
    pub(super) fn answer(&self, key: KeyDigest) -> Result<Option<Answer>, StoreError> {
        let Some(Record::Call(call)) = self.record(key)? else {
            return Ok(None);
        };
        Ok(match self.with_answer(key, call)?.state {
            State::Completed {
                answer: AnswerKept::Here(answer),
                ..
            }
            | State::InDoubt {
                answer: Some(AnswerKept::Here(answer)),
                ..
            } => Some(answer),
            _ => None,
        })
    }

    fn with_answer(&self, key: KeyDigest, mut call: CallRecord) -> Result<CallRecord, StoreError> {
        let beside = match &call.state {
            State::Completed { answer, .. } => Some(answer),
            State::InDoubt { answer, .. } => answer.as_ref(),
            State::InProgress { .. } => None,
        };
        if !matches!(beside, Some(AnswerKept::Beside { .. })) {
            return Ok(call);
        }
        let read = self
            .rows
            .answer(key, &call)?
            .map_or(AnswerKept::Gone, AnswerKept::Here);
        match &mut call.state {
            State::Completed { answer, .. } => *answer = read,
            State::InDoubt { answer, .. } => *answer = Some(read),
            State::InProgress { .. } => {}
        }
        Ok(call)
    }

    /// The records that end up different from how they began, and the rows that were written.
    pub(super) fn into_changes(mut self) -> (Vec<Change>, Writes) {
        self.changes.retain(|change| change.before != change.after);
        (self.changes, self.written.into_writes())
    }
}

/// Comparing so many digests costs about as much as digesting one for a map.
const LOOKED_THROUGH_MAX: usize = 8;
