//! The thread that decides and applies.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};

use super::syncing::{Handed, Syncing};
use super::{Figures, Message, QUEUE_MAX, Shared, Waiting};
use crate::clock::ClockGuard;
use crate::commit::core::GroupCore;
use crate::commit::disk::{Disk, Engine};
use crate::commit::operation::{ClaimReply, Operation, Reply, Sight};
use crate::journal::StepResolution;
use crate::{KeyDigest, Resolution, StoreError, Swept};

pub(super) struct Applier {
    core: GroupCore,
    guard: ClockGuard,
    disk: Box<dyn Disk>,
    shared: Arc<Shared>,
    syncing: Syncing,
    pending: Pending,
}

/// What was decided and applied since the last group.
#[derive(Default)]
struct Pending {
    replies: Vec<(Waiting, Reply)>,
    changed: bool,
    bytes: usize,
}

/// What was in the queue.
#[derive(Default)]
struct Batch {
    operations: Vec<Operation>,
    waiting: Vec<Waiting>,
    sweeps: Vec<oneshot::Sender<Result<Swept, StoreError>>>,
    confirmations: Vec<oneshot::Sender<Result<(), StoreError>>>,
    figures: Vec<oneshot::Sender<Figures>>,
    closing: bool,
    bytes: usize,
}

// === impl Applier ===

impl Applier {
    pub(super) fn new(
        (core, guard): (GroupCore, ClockGuard),
        engine: Engine,
        shared: Arc<Shared>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            core,
            guard,
            disk: engine.disk,
            syncing: Syncing::start(engine.syncer, Arc::clone(&shared))?,
            shared,
            pending: Pending::default(),
        })
    }

    pub(super) fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut closing = false;
        while !closing {
            if self.syncing.is_idle() {
                self.hand_over(messages.is_empty());
            }
            if self.pending.is_full() {
                self.syncing.wait();
                continue;
            }
            let Some(first) = messages.blocking_recv() else {
                break;
            };
            let mut batch = Batch::default();
            batch.abandon(&self.shared);
            batch.take(first, &self.core);
            while !batch.closing
                && !self.pending.would_be_full(&batch)
                && let Ok(next) = messages.try_recv()
            {
                batch.take(next, &self.core);
            }
            crate::kill_point!("writer: operations taken, not decided");
            closing = self.serve(batch);
        }
        // Whoever still waits for a place, or got one behind the closing, learns that it is closed.
        messages.close();
        while let Ok(message) = messages.try_recv() {
            message.fail(&self.shared.failure());
        }
        self.close();
    }

    /// Serves a batch; answers whether somebody wants the store closed.
    fn serve(&mut self, batch: Batch) -> bool {
        let Batch {
            operations,
            waiting,
            sweeps,
            confirmations,
            figures,
            closing,
            bytes,
        } = batch;
        if !operations.is_empty() {
            self.pending.bytes += bytes;
            self.decide(operations, waiting);
        }
        for caller in figures {
            let _ = caller.send(self.figures());
        }
        for caller in confirmations {
            let _ = caller.send(self.confirm_clock());
        }
        for caller in sweeps {
            let _ = caller.send(self.sweep());
        }
        closing
    }

    fn decide(&mut self, operations: Vec<Operation>, waiting: Vec<Waiting>) {
        let Self {
            core, disk, shared, ..
        } = self;
        let now = shared.clock.now();
        let early: Vec<_> = operations
            .iter()
            .map(Operation::may_be_told_early)
            .collect();
        let decided = shared.guarded(|| {
            let group = core.decide(operations, &**disk, now);
            crate::kill_point!("writer: operations decided, not applied");
            let changed = group.changes_anything();
            if changed {
                disk.apply(group.changes, now)?;
                disk.apply_sessions(group.sessions)?;
                if !group.rows.is_empty() {
                    crate::kill_point!("writer: records applied, rows not");
                    disk.apply_rows(group.rows)?;
                }
                crate::kill_point!("writer: changes applied, not handed over");
            }
            Ok((group.replies, changed))
        });
        match decided {
            Ok((replies, changed)) => {
                self.pending.changed |= changed;
                for ((waiting, reply), early) in waiting.into_iter().zip(replies).zip(early) {
                    if early && reply.says_nothing_durable() {
                        waiting.reply(reply, &self.shared);
                    } else {
                        self.pending.replies.push((waiting, reply));
                    }
                }
            }
            Err(error) => {
                let pending = std::mem::take(&mut self.pending);
                pending.fail(&error);
                for waiting in waiting {
                    waiting.fail(error.clone());
                }
            }
        }
    }

    /// Makes what was applied since the last group the next one. The syncer is idle: everything
    /// before it is durable, or the store is poisoned and nobody is told anything any more.
    ///
    /// `alone`: nobody else waits to be served.
    fn hand_over(&mut self, alone: bool) {
        if self.pending.is_empty() {
            // Whoever brought them was told early.
            self.pending.bytes = 0;
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        if let Some(poisoned) = self.shared.poisoned() {
            pending.fail(&poisoned);
            return;
        }
        if !pending.changed {
            crate::kill_point!("writer: questions decided, not answered");
            // What only reads tells what earlier groups have made durable.
            pending.reply(&self.shared);
            return;
        }
        let memory = self.syncing.memory();
        match self.shared.guarded(|| self.disk.hand_over(memory)) {
            Ok(Some(group)) => {
                crate::kill_point!("writer: group handed over, syncer not told");
                let alone = alone && pending.replies.len() == 1;
                let handed = Handed {
                    group,
                    replies: pending.replies,
                };
                if alone {
                    self.syncing.do_here(handed);
                } else {
                    self.syncing.begin(handed);
                }
            }
            // What ended as it began.
            Ok(None) => pending.reply(&self.shared),
            Err(error) => pending.fail(&error),
        }
    }

    /// Makes everything that was applied and noted durable, and waits for it.
    fn persist(&mut self) -> Result<(), StoreError> {
        self.pending.changed = true;
        self.syncing.wait();
        self.hand_over(false);
        self.syncing.wait();
        self.shared.poisoned().map_or(Ok(()), Err)
    }

    fn figures(&self) -> Figures {
        Figures {
            incarnation: self.core.incarnation(),
            forgotten_until: self.core.forgotten_until(),
            retention: self.core.retention(),
            poisoned: self.shared.poison.lock().clone(),
            clock: self.guard.suspicion(&*self.shared.clock),
            open: self.core.open_stats(),
            buckets: self.disk.buckets(),
        }
    }

    fn confirm_clock(&mut self) -> Result<(), StoreError> {
        self.guard.confirm(&*self.shared.clock);
        let now = self.shared.clock.now();
        self.shared.guarded(|| self.disk.note_used(now))?;
        self.persist()
    }

    fn sweep(&mut self) -> Result<Swept, StoreError> {
        let now = self.shared.clock.now();
        if let Some(suspicion) = self.guard.suspicion(&*self.shared.clock) {
            return Ok(Swept::paused(suspicion));
        }
        self.shared.guarded(|| self.disk.note_used(now))?;
        // A group puts some of the lapsed calls in doubt; empty ones do the rest.
        loop {
            let Self {
                core, disk, shared, ..
            } = self;
            let changed = shared.guarded(|| {
                let group = core.decide(Vec::new(), &**disk, now);
                let changed = group.changes_anything();
                disk.apply(group.changes, now)?;
                disk.apply_sessions(group.sessions)?;
                Ok(changed)
            })?;
            self.persist()?;
            if !changed {
                break;
            }
        }
        let due = self.disk.due(&self.core.retention(), now);
        if due.is_empty() {
            return Ok(Swept::default());
        }
        self.shared.guarded(|| self.disk.note(&due))?;
        crate::kill_point!("sweep: noted, not durable");
        self.persist()?;
        crate::kill_point!("sweep: note durable, nothing removed");
        if let Some(until) = due.forgotten_until() {
            self.core.forget_until(until);
            let until = self.core.forgotten_until().as_millis();
            self.shared.forgotten_until.store(until, Ordering::SeqCst);
        }
        let swept = self.shared.guarded(|| self.disk.remove(&due))?;
        crate::kill_point!("sweep: let go, not answered");
        Ok(swept)
    }

    fn close(mut self) {
        let mut last = Batch::default();
        last.abandon(&self.shared);
        self.serve(last);
        self.syncing.wait();
        self.hand_over(false);
        self.syncing.wait();
        let failed = self.shared.poisoned().is_some();
        let Self { disk, syncing, .. } = self;
        crate::kill_point!("writer: last group handed over, syncer not ended");
        if let Some(syncer) = syncing.stop() {
            crate::kill_point!("writer: syncer ended, disk not closed");
            let _ = catch_unwind(AssertUnwindSafe(|| disk.close(syncer, failed)));
        }
    }
}

// === impl Pending ===

impl Pending {
    fn is_empty(&self) -> bool {
        self.replies.is_empty() && !self.changed
    }

    fn is_full(&self) -> bool {
        self.replies.len() >= GROUP_OPERATIONS_MAX || self.bytes >= GROUP_BYTES_MAX
    }

    fn would_be_full(&self, batch: &Batch) -> bool {
        self.replies.len() + batch.operations.len() >= GROUP_OPERATIONS_MAX
            || self.bytes + batch.bytes >= GROUP_BYTES_MAX
    }

    fn reply(self, shared: &Arc<Shared>) {
        for (waiting, reply) in self.replies {
            waiting.reply(reply, shared);
        }
    }

    fn fail(self, error: &StoreError) {
        for (waiting, _) in self.replies {
            waiting.fail(error.clone());
        }
    }
}

// === impl Batch ===

impl Batch {
    /// Takes in one message.
    fn take(&mut self, message: Message, core: &GroupCore) {
        match message {
            Message::Ask(operation, waiting) => {
                self.bytes += operation.bytes();
                // It is written anew with every change of its call.
                let journal = operation.changed_call().map(|key| core.journal_bytes(key));
                self.bytes += journal.unwrap_or(0);
                self.operations.push(operation);
                self.waiting.push(waiting);
            }
            Message::Close => self.closing = true,
            Message::ConfirmClock(caller) => self.confirmations.push(caller),
            Message::Stats(caller) => self.figures.push(caller),
            Message::Sweep(caller) => self.sweeps.push(caller),
            Message::Wake => {}
        }
    }

    /// Takes in the claims that were dropped. They come first, so that a caller which dropped a
    /// claim and asks again is told of its doubt.
    fn abandon(&mut self, shared: &Shared) {
        let abandoned = std::mem::take(&mut *shared.abandoned.lock());
        for (key, token) in abandoned {
            self.operations.push(Operation::Abandon { key, token });
            self.waiting.push(Waiting::Nobody);
        }
    }
}

// === impl Reply ===

impl Reply {
    /// Whether nobody may conclude from it that something is durable: a claim that is held in memory,
    /// rows that are applied, a commit that did nothing. It need not wait for a group.
    const fn says_nothing_durable(&self) -> bool {
        matches!(
            self,
            Self::Claim(Ok(ClaimReply::Claimed { .. })) | Self::Commit(Err(_)) | Self::Rows(_)
        )
    }
}

// === impl Operation ===

impl Operation {
    /// How many bytes it brings, about.
    fn bytes(&self) -> usize {
        match self {
            Self::Commit(commit) => commit.work.bytes() + commit.answer.body().len(),
            Self::Claim(request) => request.journal.as_ref().map_or(0, bytes::Bytes::len),
            Self::Complete { answer, .. } => answer.body().len(),
            Self::Note { note, .. } => note.bytes(),
            Self::Doubt { answer, .. } => answer.as_ref().map_or(0, |answer| answer.body().len()),
            Self::Resolve {
                resolution: Resolution::Applied(answer),
                ..
            } => answer.body().len(),
            Self::ResolveStep {
                resolution: StepResolution::Done(result),
                ..
            } => result.len(),
            _ => 0,
        }
    }

    /// The open call that stays open and whose record it writes, if it does.
    fn changed_call(&self) -> Option<KeyDigest> {
        match self {
            Self::Claim(request) => request.rerun_of.map(|_| request.key.digest()),
            Self::Doubt { key, .. }
            | Self::Note { key, .. }
            | Self::Renew { key, .. }
            | Self::ResolveStep { key, .. } => Some(*key),
            _ => None,
        }
    }

    /// Whether it is of a transaction: what that is told on the way need not be durable.
    fn may_be_told_early(&self) -> bool {
        match self {
            Self::Begin(_) | Self::Commit(_) => true,
            Self::Read { sight, .. } => *sight == Sight::Applied,
            _ => false,
        }
    }
}

/// What fits into the queue: a crowd that came while a group was synced is the next group.
const GROUP_OPERATIONS_MAX: usize = QUEUE_MAX;

/// So that a group of large answers neither takes seconds to write nor fills the memory, nor more
/// of the engine's log than it may between two syncs.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
