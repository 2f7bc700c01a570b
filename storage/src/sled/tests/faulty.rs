//! An engine that fails where it is told to, and counts what it is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::commit::disk::{Disk, Due, Syncer, Written};
use crate::commit::{Change, Rows, Scan, SessionChange};
use crate::record::{CallRecord, Record};
use crate::transaction::{KeyBounds, Table, Writes};
use crate::{Answer, KeyDigest, RetentionOptions, StoreError, Swept, Timestamp};

/// What a disk is told to do, and what it did.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) fails_in: parking_lot::Mutex<Option<Step>>,
    pub(super) syncs: AtomicUsize,
    pub(super) writes: AtomicUsize,
    /// While set, syncs wait: so that a crowd gathers.
    pub(super) slow: AtomicBool,
    /// While set, nothing is synced: where many groups are made and none is to survive.
    pub(super) unsynced: AtomicBool,
    pub(super) sweep: parking_lot::Mutex<Vec<&'static str>>,
    /// Records that were read, and changes that were applied.
    pub(super) reads: AtomicUsize,
    pub(super) changes: AtomicUsize,
    pub(super) groups: AtomicUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Apply,
    HandOver,
    /// The sync fails only after a while.
    LateSync,
    Panic,
    Sync,
    Write,
}

pub(super) struct Faulty<T: ?Sized> {
    pub(super) inner: Box<T>,
    pub(super) script: Arc<Script>,
}

// === impl Faulty ===

impl<T: ?Sized> Faulty<T> {
    /// Fails once: a store that went on would succeed the next time, as an operating system does.
    fn step(&self, step: Step) -> Result<(), String> {
        let mut fails_in = self.script.fails_in.lock();
        if *fails_in == Some(step) {
            *fails_in = None;
            return Err(format!("{step:?} fails, as the test wants"));
        }
        Ok(())
    }
}

impl Rows for Faulty<dyn Disk> {
    fn record(&self, key: KeyDigest) -> Result<Option<Record>, StoreError> {
        assert!(
            self.step(Step::Panic).is_ok(),
            "the read panics, as the test wants"
        );
        self.script.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.record(key)
    }

    fn answer(&self, key: KeyDigest, call: &CallRecord) -> Result<Option<Answer>, StoreError> {
        self.inner.answer(key, call)
    }

    fn room(&self) -> Result<(), StoreError> {
        self.inner.room()
    }

    fn scan<'a>(&'a self, table: &Table, bounds: KeyBounds<'a>) -> Scan<'a> {
        self.inner.scan(table, bounds)
    }

    fn room_for(&self, writes: &Writes) -> Result<(), StoreError> {
        self.inner.room_for(writes)
    }
}

impl Disk for Faulty<dyn Disk> {
    fn apply(&mut self, changes: Vec<Change>, now: Timestamp) -> Result<(), String> {
        self.step(Step::Apply)?;
        self.script
            .changes
            .fetch_add(changes.len(), Ordering::SeqCst);
        self.inner.apply(changes, now)
    }

    fn apply_sessions(&mut self, changes: Vec<SessionChange>) -> Result<(), String> {
        self.step(Step::Apply)?;
        self.inner.apply_sessions(changes)
    }

    fn apply_rows(&mut self, writes: Writes) -> Result<(), String> {
        self.step(Step::Apply)?;
        self.inner.apply_rows(writes)
    }

    fn hand_over(&mut self, memory: Vec<u8>) -> Result<Option<Written>, String> {
        self.step(Step::HandOver)?;
        let written = self.inner.hand_over(memory)?;
        let made = usize::from(written.is_some());
        self.script.groups.fetch_add(made, Ordering::SeqCst);
        Ok(written)
    }

    fn note_used(&mut self, now: Timestamp) -> Result<(), String> {
        self.inner.note_used(now)
    }

    fn due(&self, retention: &RetentionOptions, now: Timestamp) -> Due {
        self.inner.due(retention, now)
    }

    fn note(&mut self, due: &Due) -> Result<(), String> {
        self.script.sweep.lock().push("note");
        self.inner.note(due)
    }

    fn remove(&mut self, due: &Due) -> Result<Swept, String> {
        self.script.sweep.lock().push("remove");
        self.inner.remove(due)
    }

    fn close(self: Box<Self>, syncer: Box<dyn Syncer>, failed: bool) {
        self.inner.close(syncer, failed);
    }
}

impl Syncer for Faulty<dyn Syncer> {
    fn write(&mut self, group: &Written) -> Result<(), String> {
        self.step(Step::Write)?;
        self.script.writes.fetch_add(1, Ordering::SeqCst);
        self.inner.write(group)
    }

    fn sync(&mut self) -> Result<(), String> {
        self.step(Step::Sync)?;
        self.script.syncs.fetch_add(1, Ordering::SeqCst);
        self.script.sweep.lock().push("sync");
        if self.script.slow.load(Ordering::SeqCst) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        self.step(Step::LateSync)?;
        if self.script.unsynced.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.inner.sync()
    }
}
