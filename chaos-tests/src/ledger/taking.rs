//! Takes what happened into the rows, on a thread of its own once that is worth one.
//!
//! Whoever tells events sums them up ([`Noted`]); that, and keeping the sums, each take about as long.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::call::{Call, Effect};
use super::rows::Rows;
use super::sum::sum;
use crate::history::Ending;

/// What an event comes to, without its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted {
    pub(super) at_us: u64,
    pub(super) call: u64,
    pub(super) what: What,
}

/// See [`Happened`](crate::history::Happened); bytes are digests.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Acknowledged,
    Effect {
        index: u64,
        payload: u64,
        answer: u64,
        at_commit: bool,
    },
    Ended(Told),
    FaultsEnded,
    Invoked {
        payload: u64,
    },
    OtherStore,
    Received(u32),
    Sent(u32),
    Swept,
    Unrecorded,
}

/// An ending, with its answer as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Answered(u64),
    Declined(u64),
    Refused,
    InDoubt,
    Unknown,
}

/// What is known of a run so far.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) rows: Rows,
    pub(super) faults_ended_us: Option<u64>,
    pub(super) doubts: Doubts,
}

/// Why a run cannot be called valid although nothing is wrong in it.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    texts: Vec<String>,
    more: u64,
}

/// Takes events.
#[derive(Debug)]
pub(super) enum Taking {
    /// At once, as long as there are few.
    Here { taken: Box<Taken>, events: u64 },
    /// In batches, on another thread.
    Beside(Beside),
}

/// Another thread that takes events, and those that it was not given yet.
#[derive(Debug)]
pub(super) struct Beside {
    batch: Batch,
    full: SyncSender<Batch>,
    empty: Receiver<Batch>,
    worker: JoinHandle<Taken>,
}

/// Some events in their order, and the keys of those that have one, one after the other.
#[derive(Debug, Default)]
struct Batch {
    events: Vec<(Noted, u32)>,
    keys: Vec<u8>,
}

// === impl Taking ===

impl Taking {
    /// Takes the next event.
    pub(super) fn take(&mut self, noted: Noted, key: &[u8]) {
        match self {
            Self::Here { taken, events } => {
                taken.take(noted, key);
                *events += 1;
                if *events == ALONE_EVENTS_MAX && processors() > 1 {
                    *self = Self::Beside(Beside::of(std::mem::take(taken)));
                }
            }
            Self::Beside(beside) => beside.take(noted, key),
        }
    }

    /// All of it.
    pub(super) fn end(self) -> Taken {
        match self {
            Self::Here { taken, .. } => *taken,
            Self::Beside(beside) => beside.end(),
        }
    }
}

impl Default for Taking {
    fn default() -> Self {
        Self::Here {
            taken: Box::default(),
            events: 0,
        }
    }
}

// === impl Beside ===

impl Beside {
    fn of(mut taken: Box<Taken>) -> Self {
        let (full, batches) = sync_channel::<Batch>(BATCHES_MAX);
        let (emptied, empty) = sync_channel::<Batch>(BATCHES_MAX + 2);
        let worker = thread::spawn(move || {
            for mut batch in batches {
                let mut keys = &*batch.keys;
                for &(noted, length) in &batch.events {
                    let (key, rest) = keys.split_at(length as usize);
                    keys = rest;
                    taken.take(noted, key);
                }
                batch.events.clear();
                batch.keys.clear();
                // OK because it has room for all of them, or nobody fills them any more.
                let _ = emptied.try_send(batch);
            }
            *taken
        });
        Self {
            batch: Batch::default(),
            full,
            empty,
            worker,
        }
    }

    fn take(&mut self, noted: Noted, key: &[u8]) {
        // OK because a line of a history is shorter.
        let length = u32::try_from(key.len()).expect("a key is shorter than 2^32 bytes");
        self.batch.keys.extend_from_slice(key);
        self.batch.events.push((noted, length));
        if self.batch.events.len() >= BATCH_EVENTS || self.batch.keys.len() >= BATCH_KEYS_BYTES {
            let next = self.empty.try_recv().unwrap_or_default();
            // A worker that is gone has panicked: that is told in the end.
            let _ = self.full.send(std::mem::replace(&mut self.batch, next));
        }
    }

    fn end(self) -> Taken {
        let Self {
            batch,
            full,
            worker,
            ..
        } = self;
        let _ = full.send(batch);
        drop(full);
        match worker.join() {
            Ok(taken) => taken,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

// === impl Taken ===

impl Taken {
    fn take(&mut self, noted: Noted, key: &[u8]) {
        let Noted { at_us, call, what } = noted;
        match what {
            What::Acknowledged => {
                if !self.rows.forget(call, at_us) {
                    self.too_early(call, "acknowledged");
                }
            }
            What::Effect {
                index,
                payload,
                answer,
                at_commit,
            } => {
                let at_us = at_commit.then_some(at_us);
                let effect = Effect::new(payload, answer, index, at_us);
                self.rows.effect(call, key, effect);
            }
            What::Ended(told) => {
                let faults_ended = self.faults_ended_us.is_some();
                if !self.rows.end(call, at_us, told, faults_ended) {
                    self.too_early(call, "ended");
                }
            }
            What::FaultsEnded => {
                self.faults_ended_us.get_or_insert(at_us);
            }
            What::Invoked { payload } => self.invoked(noted, key, payload),
            What::OtherStore if call == 0 => self.rows.replaced(at_us),
            What::OtherStore => self.call(call, "told of another store", Call::told_of_other_store),
            What::Received(attempt) => self.call(call, "received", |call| {
                call.attempts = call.attempts.max(attempt);
            }),
            What::Sent(attempt) => self.call(call, "sent", |call| call.sent(attempt)),
            What::Swept => self.rows.swept(key, at_us),
            What::Unrecorded => {
                self.call(call, "unrecorded", |call| call.flags |= Call::UNRECORDED);
            }
        }
    }

    fn invoked(&mut self, noted: Noted, key: &[u8], payload: u64) {
        let Noted { at_us, call, .. } = noted;
        let Some(row) = self.rows.call_mut(call) else {
            return self.rows.invoke(call, key, payload, at_us);
        };
        // A client that comes back goes on with what it had.
        row.came_back(at_us);
        let same = row.payload == payload;
        if !same || self.rows.key_of(call) != Some(key) {
            let what = "was invoked again with another key or payload";
            self.doubts.push(format!("call {call} {what}"));
        }
    }

    fn call(&mut self, call: u64, what: &str, change: impl FnOnce(&mut Call)) {
        match self.rows.call_mut(call) {
            Some(call) => change(call),
            None => self.too_early(call, what),
        }
    }

    fn too_early(&mut self, call: u64, what: &str) {
        self.doubts
            .push(format!("call {call} was {what} before it was invoked"));
    }
}

// === impl Told ===

impl Told {
    pub(super) fn of(ending: &Ending) -> Self {
        match ending {
            Ending::Answered(answer) => Self::Answered(sum(answer)),
            Ending::Declined(answer) => Self::Declined(sum(answer)),
            Ending::Refused => Self::Refused,
            Ending::InDoubt => Self::InDoubt,
            Ending::Unknown => Self::Unknown,
        }
    }
}

// === impl Doubts ===

impl Doubts {
    pub(super) fn push(&mut self, text: String) {
        if self.texts.len() < DOUBTS_MAX {
            self.texts.push(text);
        } else {
            self.more += 1;
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    pub(super) fn told(mut self) -> Vec<String> {
        if self.more > 0 {
            self.texts.push(format!("and {} more", self.more));
        }
        self.texts
    }
}

/// How many threads can run at once here.
pub(super) fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// How many events are taken before another thread does: they take some milliseconds.
const ALONE_EVENTS_MAX: u64 = 200_000;

/// How many events, and bytes of keys, go to another thread at once: they stay in a processor's own
/// memory.
const BATCH_EVENTS: usize = 2_048;
const BATCH_KEYS_BYTES: usize = 1 << 18;

/// How many batches wait at most: whoever tells events waits for whoever takes them.
const BATCHES_MAX: usize = 8;

/// How many reasons are told one by one.
const DOUBTS_MAX: usize = 8;
