//! All calls of an outbox, and what may be done to them. Pure.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::change::Changed;
use super::{
    Body, NewCall, OUTBOX_BODY_BYTES_LIMIT, OutboxChange, OutboxEntry, OutboxError, OutboxLimits,
    OutboxState, Written,
};
use crate::{IdempotencyKey, Timestamp};

/// What an outbox holds.
#[derive(Debug)]
pub(crate) struct Table {
    calls: BTreeMap<u64, OutboxEntry>,
    numbers: HashMap<IdempotencyKey, u64>,
    bytes: u64,
    /// The next number. Above all that were ever used.
    next: u64,
    limits: OutboxLimits,
}

/// What must be written.
#[derive(Debug)]
pub(crate) enum Row {
    /// The entry changed, and perhaps its answer came.
    Changed {
        entry: OutboxEntry,
        answer: Option<Bytes>,
    },
    Gone(OutboxEntry),
    New {
        entry: OutboxEntry,
        request: Bytes,
    },
}

// === impl Table ===

impl Table {
    /// What was found on a disk. `next` is above the numbers of calls that are gone.
    pub(crate) fn new(
        entries: Vec<OutboxEntry>,
        next: u64,
        limits: OutboxLimits,
    ) -> Result<Self, String> {
        let mut table = Self {
            calls: BTreeMap::new(),
            numbers: HashMap::new(),
            bytes: 0,
            next,
            limits,
        };
        for entry in entries {
            table.bytes += entry.bytes();
            table.next = table.next.max(entry.number + 1);
            if table
                .numbers
                .insert(entry.key.clone(), entry.number)
                .is_some()
            {
                return Err(format!("call {} has the key of another", entry.number));
            }
            table.calls.insert(entry.number, entry);
        }
        Ok(table)
    }

    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// All calls, the oldest first.
    pub(crate) fn list(&self) -> Vec<OutboxEntry> {
        self.calls.values().cloned().collect()
    }

    pub(crate) fn find(&self, key: &IdempotencyKey) -> Result<&OutboxEntry, OutboxError> {
        let number = self.numbers.get(key);
        let found = number.and_then(|number| self.calls.get(number));
        found.ok_or(OutboxError::NotThere)
    }

    /// Takes a call in, and says what must be written for it.
    pub(crate) fn write(
        &mut self,
        call: NewCall,
        now: Timestamp,
    ) -> Result<(Written, Option<Row>), OutboxError> {
        if let Ok(entry) = self.find(&call.key) {
            return match entry.is(&call) {
                true => Ok((Written::There, None)),
                false => Err(OutboxError::Mismatch),
            };
        }
        self.admit(&call)?;
        let entry = OutboxEntry {
            number: self.next,
            key: call.key,
            method: call.method,
            maybe_sent_elsewhere: call.maybe_sent_elsewhere,
            written_at: now,
            timeout: call.timeout,
            request: Body::of(&call.request),
            state: OutboxState::Unsent,
        };
        self.next += 1;
        self.bytes += entry.bytes();
        self.numbers.insert(entry.key.clone(), entry.number);
        self.calls.insert(entry.number, entry.clone());
        let request = call.request;
        Ok((Written::New, Some(Row::New { entry, request })))
    }

    /// Changes a call, and says what must be written for it.
    pub(crate) fn change(
        &mut self,
        key: &IdempotencyKey,
        change: OutboxChange,
    ) -> Result<Option<Row>, OutboxError> {
        let entry = self.find(key)?;
        let (size, limit) = match &change {
            OutboxChange::Answer(answer) => (answer.len(), body_max(self.limits.answer_bytes_max)),
            _ => (0, 0),
        };
        if size > limit {
            return Err(OutboxError::AnswerTooLarge { size, limit });
        }
        let (number, held) = (entry.number, entry.bytes());
        let state = match entry.change(&change)? {
            Changed::Not => return Ok(None),
            Changed::Gone => {
                self.numbers.remove(key);
                self.bytes -= held;
                return Ok(self.calls.remove(&number).map(Row::Gone));
            }
            Changed::To(state) => state,
        };
        let Some(entry) = self.calls.get_mut(&number) else {
            return Err(OutboxError::NotThere);
        };
        entry.state = state;
        self.bytes = self.bytes - held + entry.bytes();
        let answer = match change {
            OutboxChange::Answer(answer) => Some(answer),
            _ => None,
        };
        let entry = entry.clone();
        Ok(Some(Row::Changed { entry, answer }))
    }

    fn admit(&self, call: &NewCall) -> Result<(), OutboxError> {
        let (size, limit) = (call.request.len(), body_max(self.limits.request_bytes_max));
        if size > limit {
            return Err(OutboxError::RequestTooLarge { size, limit });
        }
        let limit = self.limits.calls_max;
        if self.calls.len() >= limit {
            return Err(OutboxError::CallsFull { limit });
        }
        let (held, limit) = (self.bytes, self.limits.bytes_max);
        if held + size as u64 > limit {
            return Err(OutboxError::BytesFull { held, limit });
        }
        Ok(())
    }
}

fn body_max(set: usize) -> usize {
    set.min(OUTBOX_BODY_BYTES_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::FirstSent;

    fn call(key: &str, bytes: usize) -> NewCall {
        let key = IdempotencyKey::parse(key).unwrap();
        NewCall::new(key, "m", vec![7; bytes].into())
    }

    fn write(table: &mut Table, key: &str, bytes: usize) -> Result<Written, OutboxError> {
        let now = Timestamp::from_millis(1);
        table
            .write(call(key, bytes), now)
            .map(|(written, _)| written)
    }

    fn table(limits: OutboxLimits) -> Table {
        Table::new(Vec::new(), 1, limits).unwrap()
    }

    #[test]
    fn a_key_that_is_there_is_the_same_call_or_refused() {
        let mut table = table(OutboxLimits::default());
        assert_eq!(write(&mut table, "a", 3), Ok(Written::New));
        assert_eq!(write(&mut table, "a", 3), Ok(Written::There));
        assert_eq!(write(&mut table, "a", 4), Err(OutboxError::Mismatch));
        let mut other = call("a", 3);
        other.method = "n".to_owned();
        let refused = table.write(other, Timestamp::from_millis(1));
        assert_eq!(refused.map(drop), Err(OutboxError::Mismatch));
    }

    // E10, E14
    #[test]
    fn at_every_bound_a_call_is_refused_and_what_is_kept_stays() {
        let limits = OutboxLimits {
            calls_max: 2,
            bytes_max: 10,
            request_bytes_max: 8,
            answer_bytes_max: 4,
        };
        let mut table = table(limits);
        let too_large = write(&mut table, "large", 9);
        assert_eq!(
            too_large,
            Err(OutboxError::RequestTooLarge { size: 9, limit: 8 })
        );
        write(&mut table, "a", 6).unwrap();
        let full = write(&mut table, "b", 5);
        assert_eq!(full, Err(OutboxError::BytesFull { held: 6, limit: 10 }));
        write(&mut table, "b", 4).unwrap();
        let full = write(&mut table, "c", 0);
        assert_eq!(full, Err(OutboxError::CallsFull { limit: 2 }));
        assert_eq!(table.list().len(), 2);

        // An answer that came is kept above the bound on bytes, but not above its own.
        let key = IdempotencyKey::parse("a").unwrap();
        let sent = FirstSent {
            at: Timestamp::from_millis(1),
            store: None,
        };
        table.change(&key, OutboxChange::MarkSent(sent)).unwrap();
        let answer = |bytes: usize| OutboxChange::Answer(vec![1; bytes].into());
        let refused = table.change(&key, answer(5)).map(drop);
        assert_eq!(
            refused,
            Err(OutboxError::AnswerTooLarge { size: 5, limit: 4 })
        );
        table.change(&key, answer(4)).unwrap();
        assert_eq!(table.bytes, 14);
        // What is removed makes room.
        table.change(&key, OutboxChange::Acknowledge).unwrap();
        assert_eq!(table.bytes, 4);
        write(&mut table, "c", 6).unwrap();
    }

    #[test]
    fn a_number_is_never_used_again() {
        let mut table = table(OutboxLimits::default());
        write(&mut table, "a", 1).unwrap();
        let key = IdempotencyKey::parse("a").unwrap();
        table.change(&key, OutboxChange::Cancel).unwrap();
        write(&mut table, "a", 1).unwrap();
        assert_eq!(table.find(&key).unwrap().number, 2);
        assert_eq!(table.next(), 3);
    }
}
