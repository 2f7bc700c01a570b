//! The thread that waits for the disk.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::{Shared, Waiting};
use crate::StoreError;
use crate::commit::disk::{Syncer, Written};
use crate::commit::operation::Reply;

/// The writer's end of the syncer: takes one group at a time.
pub(super) struct Syncing {
    groups: SyncSender<Handed>,
    /// Gives the memory of a group back.
    done: Receiver<Vec<u8>>,
    memory: Vec<u8>,
    busy: bool,
    /// The thread's, but when it is idle: then the writer may do its work.
    syncer: Arc<Mutex<Box<dyn Syncer>>>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// A group that was handed to the engine, and who waits for it.
pub(super) struct Handed {
    pub(super) group: Written,
    pub(super) replies: Vec<(Waiting, Reply)>,
}

// === impl Syncing ===

impl Syncing {
    pub(super) fn start(syncer: Box<dyn Syncer>, shared: Arc<Shared>) -> std::io::Result<Self> {
        let (groups, handed) = sync_channel(1);
        let (tell, done) = sync_channel(1);
        let syncer = Arc::new(Mutex::new(syncer));
        let (its_syncer, its_shared) = (Arc::clone(&syncer), Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("onlyonce-syncer".to_owned())
            .spawn(move || run(&its_syncer, &its_shared, &handed, &tell))?;
        Ok(Self {
            groups,
            done,
            memory: Vec::new(),
            busy: false,
            syncer,
            shared,
            thread,
        })
    }

    /// Whether everything that was begun is done.
    pub(super) fn is_idle(&mut self) -> bool {
        if self.busy
            && let Ok(memory) = self.done.try_recv()
        {
            self.memory = memory;
            self.busy = false;
        }
        !self.busy
    }

    /// Memory of an earlier group.
    pub(super) fn memory(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.memory)
    }

    /// Waits until everything that was begun is done.
    pub(super) fn wait(&mut self) {
        if self.busy {
            // A thread that is gone does nothing any more.
            self.memory = self.done.recv().unwrap_or_default();
            self.busy = false;
        }
    }

    /// Begins to make a group durable; then its replies are sent, or it poisons the store.
    ///
    /// Waits for the group before it, if that is not yet done.
    pub(super) fn begin(&mut self, handed: Handed) {
        self.wait();
        self.busy = self.groups.send(handed).is_ok();
    }

    /// The same on this thread, which waits for the disk: for a caller who is alone, that is one
    /// thread less to be woken.
    pub(super) fn do_here(&mut self, handed: Handed) {
        self.wait();
        let Handed { group, replies } = handed;
        let synced = make_durable(&mut **self.syncer.lock(), &self.shared, &group);
        self.memory = group.bytes;
        answer(replies, &synced, &self.shared);
    }

    /// Ends the thread, and gives its half of the engine back.
    pub(super) fn stop(mut self) -> Option<Box<dyn Syncer>> {
        self.wait();
        drop(self.groups);
        self.thread.join().ok()?;
        Arc::into_inner(self.syncer).map(Mutex::into_inner)
    }
}

fn run(
    syncer: &Mutex<Box<dyn Syncer>>,
    shared: &Arc<Shared>,
    groups: &Receiver<Handed>,
    tell: &SyncSender<Vec<u8>>,
) {
    while let Ok(Handed { group, replies }) = groups.recv() {
        let synced = make_durable(&mut **syncer.lock(), shared, &group);
        // The next group need not wait for the replies to this one.
        let _ = tell.send(group.bytes);
        shared.wake();
        crate::kill_point!("syncer: next group let go, this one not answered");
        answer(replies, &synced, shared);
    }
}

fn make_durable(
    syncer: &mut dyn Syncer,
    shared: &Shared,
    group: &Written,
) -> Result<(), StoreError> {
    crate::kill_point!("syncer: group taken, not written");
    let synced = shared.guarded(|| {
        syncer.write(group)?;
        crate::kill_point!("syncer: group written, not synced");
        syncer.sync()
    });
    crate::kill_point!("syncer: group synced, nobody told");
    synced
}

fn answer(
    replies: Vec<(Waiting, Reply)>,
    synced: &Result<(), StoreError>,
    shared: &Arc<Shared>,
) {
    for (waiting, reply) in replies {
        match synced {
            Ok(()) => waiting.reply(reply, shared),
            Err(error) => waiting.fail(error.clone()),
        }
        crate::kill_point!("syncer: one reply given, the next not");
    }
}
