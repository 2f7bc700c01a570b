//! The shell around the core: a task that decides and applies while another group is synced.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::disk::{SimDisk, SyncFate};
use super::log::Log;
use super::rows::Kept;
use super::store::Durable;
use crate::commit::{ClaimReply, GroupCore, Operation, Reply, Sight};
use crate::planted;
use crate::record::{AnswerKept, Record, State};
use crate::sled::log::{GroupBytes, Note};
use crate::transaction::{ReadRows, Row, RowRange, Writes};
use crate::transition::Circumstances;
use crate::{
    Abandoned, ClaimOutcome, Clock, FencingToken, KeyDigest, StoreError, StoreFuture, Timestamp,
};

/// What the handle, the task and the claims share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) forgotten_until: AtomicU64,
    poison: Mutex<Option<String>>,
    abandoned: Mutex<Vec<(KeyDigest, FencingToken)>>,
    /// Not a sender: a claim must not keep its store open.
    wake: mpsc::WeakSender<Message>,
}

pub(super) enum Message {
    Ask(Operation, Waiting),
    Sweep(oneshot::Sender<Result<Vec<KeyDigest>, StoreError>>),
    /// A claim was abandoned.
    Wake,
}

/// Who waits for a reply.
pub(super) enum Waiting {
    Claim(oneshot::Sender<Result<ClaimOutcome, StoreError>>),
    Nobody,
    Other(oneshot::Sender<Result<Reply, StoreError>>),
}

/// The task.
pub(super) struct Shell {
    pub(super) core: GroupCore,
    pub(super) kept: Kept,
    pub(super) log: Log,
    pub(super) disk: SimDisk,
    pub(super) generation: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) durable: Option<Durable>,
    /// Whether the process is about to be killed: nothing more is written, and nobody is told.
    dying: bool,
    pending: Pending,
    syncing: Option<Syncing>,
}

/// What was decided and applied since the last group.
#[derive(Default)]
struct Pending {
    entries: GroupBytes,
    replies: Vec<(Waiting, Reply)>,
    rows: Vec<Writes>,
}

/// A group on its way to the disk.
struct Syncing {
    sync: Pin<Box<dyn Future<Output = Result<(), String>> + Send>>,
    replies: Vec<(Waiting, Reply)>,
    rows: Vec<Writes>,
}

// === impl Shell ===

impl Shell {
    pub(super) fn new(
        (core, kept): (GroupCore, Kept),
        log: Log,
        (disk, generation): (SimDisk, u64),
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            core,
            kept,
            log,
            disk,
            generation,
            shared,
            durable: None,
            dying: false,
            pending: Pending::default(),
            syncing: None,
        }
    }

    /// Serves until the last handle is gone.
    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        loop {
            if self.syncing.is_none() {
                self.hand_over();
            }
            let message = tokio::select! {
                biased;
                synced = synced(&mut self.syncing) => {
                    self.end_sync(synced);
                    continue;
                }
                message = messages.recv() => message,
            };
            let Some(first) = message else { break };
            let mut operations = Vec::new();
            let mut waiting = Vec::new();
            for (key, token) in std::mem::take(&mut *self.shared.abandoned.lock()) {
                operations.push(Operation::Abandon { key, token });
                waiting.push(Waiting::Nobody);
            }
            let mut sweeps = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Ask(operation, caller) => {
                        operations.push(operation);
                        waiting.push(caller);
                    }
                    Message::Sweep(caller) => sweeps.push(caller),
                    Message::Wake => {}
                }
                next = messages.try_recv().ok();
            }
            self.decide(operations, waiting);
            for caller in sweeps {
                let swept = self.sweep().await;
                let _ = caller.send(swept);
            }
        }
        while self.syncing.is_some() {
            let ended = synced(&mut self.syncing).await;
            self.end_sync(ended);
            self.hand_over();
        }
    }

    fn decide(&mut self, operations: Vec<Operation>, waiting: Vec<Waiting>) {
        if let Some(poisoned) = self.shared.poisoned() {
            for caller in waiting {
                caller.fail(poisoned.clone());
            }
            return;
        }
        let early: Vec<bool> = operations.iter().map(may_be_told_early).collect();
        let now = self.shared.clock.now();
        let mut group = self.core.decide(operations, &self.kept, now);
        if planted!(EffectApartFromRecord) && !group.rows.is_empty() {
            let rows = std::mem::take(&mut group.rows);
            self.kept.write(rows.clone());
            let apart = crate::commit::Group {
                changes: Vec::new(),
                sessions: Vec::new(),
                rows,
                replies: Vec::new(),
            };
            let mut entries = GroupBytes::default();
            let added = Log::add(&mut entries, &apart);
            let bytes = added.and_then(|()| self.log.finish(entries));
            // The record waits for the next group, and this one is durable at once.
            if let Ok(end) = bytes.and_then(|bytes| self.disk.write(&bytes, self.generation)) {
                let _ = self.disk.synced(SyncFate::default(), end, self.generation);
                self.tell(&[apart.rows]);
            }
        }
        if let Err(error) = Log::add(&mut self.pending.entries, &group) {
            self.shared.poison(error);
        }
        for change in group.changes {
            self.kept.change(change);
        }
        for change in &group.sessions {
            self.kept.session(change);
        }
        if self.durable.is_some() && !group.rows.is_empty() {
            self.pending.rows.push(group.rows.clone());
        }
        self.kept.write(group.rows);
        for ((caller, reply), early) in waiting.into_iter().zip(group.replies).zip(early) {
            let early = early && says_nothing_durable(&reply)
                || planted!(AcknowledgedBeforeSync)
                    && matches!(reply, Reply::Settle(_) | Reply::Commit(_))
                || planted!(ClaimNotDurable) && matches!(reply, Reply::Claim(_));
            if early {
                caller.reply(reply, &self.shared);
            } else {
                self.pending.replies.push((caller, reply));
            }
        }
    }

    /// Makes what was applied since the last group the next one.
    fn hand_over(&mut self) {
        if self.dying {
            return;
        }
        let Pending {
            entries,
            replies,
            rows,
        } = std::mem::take(&mut self.pending);
        if let Some(poisoned) = self.shared.poisoned() {
            for (caller, _) in replies {
                caller.fail(poisoned.clone());
            }
            return;
        }
        if entries.is_empty() {
            // What only reads tells what earlier groups have made durable.
            for (caller, reply) in replies {
                caller.reply(reply, &self.shared);
            }
            return;
        }
        let written = self.log.finish(entries);
        let written = written.and_then(|bytes| self.disk.write(&bytes, self.generation));
        match written {
            Ok(end) => {
                let sync = Box::pin(sync(self.disk.clone(), end, self.generation));
                self.syncing = Some(Syncing {
                    sync,
                    replies,
                    rows,
                });
            }
            Err(error) => {
                let poisoned = self.shared.poison(error);
                for (caller, _) in replies {
                    caller.fail(poisoned.clone());
                }
            }
        }
    }

    fn end_sync(&mut self, mut synced: Result<(), String>) {
        if planted!(SyncErrorIgnored) {
            synced = Ok(());
        }
        let Some(Syncing { replies, rows, .. }) = self.syncing.take() else {
            return;
        };
        if synced.is_ok() && !self.tell(&rows) {
            // Whoever waits hears nothing, also not that nobody answers.
            self.pending.replies.extend(replies);
            return;
        }
        let poisoned = synced.err().map(|error| match planted!(PoisonForgotten) {
            true => StoreError::Poisoned(error),
            false => self.shared.poison(error),
        });
        for (caller, reply) in replies {
            match &poisoned {
                None => caller.reply(reply, &self.shared),
                Some(error) => caller.fail(error.clone()),
            }
        }
    }

    /// Says what is durable now, and answers whether the process goes on.
    fn tell(&mut self, groups: &[Writes]) -> bool {
        let Some(durable) = &self.durable else {
            return true;
        };
        for (table, rows) in groups.iter().flatten() {
            for (key, value) in rows {
                self.dying |= !durable.tell(table, key, value.as_deref());
            }
        }
        !self.dying
    }

    async fn persist(&mut self) -> Result<(), StoreError> {
        loop {
            if self.syncing.is_some() {
                let ended = synced(&mut self.syncing).await;
                self.end_sync(ended);
            }
            if self.dying {
                std::future::pending::<()>().await;
            }
            self.hand_over();
            if self.syncing.is_none() {
                return self.shared.poisoned().map_or(Ok(()), Err);
            }
        }
    }

    async fn sweep(&mut self) -> Result<Vec<KeyDigest>, StoreError> {
        let now = self.shared.clock.now();
        // Empty groups put in doubt what has lapsed.
        self.decide(Vec::new(), Vec::new());
        let at = Circumstances {
            now,
            retention: self.core.retention(),
            forgotten_until: self.core.forgotten_until(),
            sole_incarnation: Some(self.core.incarnation()),
        };
        let mut overdue = self.kept.overdue(&at);
        if planted!(SweepOfLive) {
            overdue.gone = self.kept.records.keys().copied().collect();
        }
        if overdue.gone.is_empty() && overdue.answers.is_empty() {
            self.persist().await?;
            return Ok(Vec::new());
        }
        if !planted!(TombstoneOff) && !overdue.gone.is_empty() {
            let until = overdue.forgotten_until.as_millis();
            self.pending.entries.note(Note::Forgotten, until);
            // The note is durable before anything is removed.
            self.persist().await?;
            self.core.forget_until(overdue.forgotten_until);
            self.kept.forgotten_until = self.core.forgotten_until();
            let until = self.core.forgotten_until().as_millis();
            self.shared.forgotten_until.store(until, Ordering::SeqCst);
        }
        for key in &overdue.gone {
            self.kept.records.remove(key);
            self.pending.entries.removed(*key);
        }
        for key in overdue.answers {
            let Some(Record::Call(call)) = self.kept.records.get_mut(&key) else {
                continue;
            };
            if let State::Completed { answer, .. } = &mut call.state {
                *answer = AnswerKept::Gone;
            }
            let record = Record::Call(call.clone());
            let added = self.pending.entries.record(key, &record, None);
            added.map_err(|error| self.shared.poison(error))?;
        }
        self.persist().await?;
        Ok(overdue.gone)
    }
}

async fn synced(syncing: &mut Option<Syncing>) -> Result<(), String> {
    match syncing {
        Some(syncing) => syncing.sync.as_mut().await,
        None => std::future::pending().await,
    }
}

/// One sync, for as long as the disk takes.
pub(super) async fn sync(disk: SimDisk, end: usize, generation: u64) -> Result<(), String> {
    let fate: SyncFate = disk.begin_sync();
    if !fate.takes.is_zero() {
        tokio::time::sleep(fate.takes).await;
    }
    disk.synced(fate, end, generation)
}

fn may_be_told_early(operation: &Operation) -> bool {
    match operation {
        Operation::Begin(_) | Operation::Commit(_) => true,
        Operation::Read { sight, .. } => *sight == Sight::Applied,
        _ => false,
    }
}

fn says_nothing_durable(reply: &Reply) -> bool {
    matches!(
        reply,
        Reply::Claim(Ok(ClaimReply::Claimed { .. })) | Reply::Commit(Err(_)) | Reply::Rows(_)
    )
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        forgotten_until: Timestamp,
        queue: &mpsc::Sender<Message>,
    ) -> Self {
        Self {
            clock,
            forgotten_until: AtomicU64::new(forgotten_until.as_millis()),
            poison: Mutex::new(None),
            abandoned: Mutex::new(Vec::new()),
            wake: queue.downgrade(),
        }
    }

    /// Why nothing is answered any more.
    pub(super) fn failure(&self) -> StoreError {
        self.poisoned().unwrap_or(StoreError::Closed)
    }

    pub(super) fn poisoned(&self) -> Option<StoreError> {
        self.poison.lock().clone().map(StoreError::Poisoned)
    }

    fn poison(&self, reason: String) -> StoreError {
        // The first failure is the one that explains the others.
        StoreError::Poisoned(self.poison.lock().get_or_insert(reason).clone())
    }
}

impl Abandoned for Shared {
    fn abandoned(&self, key: KeyDigest, token: FencingToken) {
        self.abandoned.lock().push((key, token));
        // A store that is gone puts what it left open in doubt when it is opened again.
        if let Some(queue) = self.wake.upgrade() {
            let _ = queue.try_send(Message::Wake);
        }
    }
}

impl ReadRows for Shared {
    fn read(&self, range: RowRange) -> StoreFuture<'_, Vec<Row>> {
        Box::pin(async move {
            let queue = self.wake.upgrade().ok_or_else(|| self.failure())?;
            let (reply, waiting) = oneshot::channel();
            let sight = Sight::Applied;
            let message = Message::Ask(Operation::Read { range, sight }, Waiting::Other(reply));
            queue.send(message).await.map_err(|_| self.failure())?;
            drop(queue);
            waiting.await.map_err(|_| self.failure())??.into_rows()
        })
    }
}

// === impl Waiting ===

impl Waiting {
    fn fail(self, error: StoreError) {
        // OK to ignore because a caller that is gone needs no reply.
        match self {
            Self::Claim(caller) => drop(caller.send(Err(error))),
            Self::Nobody => {}
            Self::Other(caller) => drop(caller.send(Err(error))),
        }
    }

    fn reply(self, reply: Reply, shared: &Arc<Shared>) {
        match self {
            Self::Claim(caller) => {
                let on_drop = Arc::clone(shared) as Arc<dyn Abandoned>;
                drop(caller.send(reply.into_claim(on_drop)));
            }
            Self::Nobody => {}
            Self::Other(caller) => drop(caller.send(Ok(reply))),
        }
    }
}
