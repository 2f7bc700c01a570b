//! The shell around the core: one thread of the operating system, and the handle that asks it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::core::GroupCore;
use super::disk::Disk;
use super::operation::{Operation, Reply};
use crate::{
    Abandoned, Answer, Claim, ClaimOutcome, ClaimRequest, Clock, FencingToken, KeyDigest,
    SettleError, StoreError, Swept, Timestamp, transition,
};

/// Asks the writer thread. Callers wait for a place in the queue when 1,024 are in it.
///
/// Dropping it lets the thread finish what is queued and free the directory; the drop waits for
/// that unless it happens on a thread of an async runtime, which must not be blocked.
pub(crate) struct Writer {
    // `None` only while it is dropped.
    queue: Option<mpsc::Sender<Message>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the handle, the thread and the claims share.
#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    forgotten_until: AtomicU64,
    poison: Mutex<Option<String>>,
    /// Claims that were dropped unspent since the last group: as many as were given at most.
    abandoned: Mutex<Vec<(KeyDigest, FencingToken)>>,
    /// Not a sender: a claim must not keep its store open.
    wake: mpsc::WeakSender<Message>,
}

enum Message {
    Ask(Operation, Waiting),
    Close(oneshot::Sender<()>),
    Sweep(oneshot::Sender<Result<Swept, StoreError>>),
    /// A claim was abandoned.
    Wake,
}

/// Who waits for a reply.
enum Waiting {
    /// A claim is made into a guard here, on the writer's side: if its caller is gone by now, the
    /// guard is dropped and says so.
    Claim(oneshot::Sender<Result<ClaimOutcome, StoreError>>),
    Nobody,
    Other(oneshot::Sender<Result<Reply, StoreError>>),
}

struct Thread {
    core: GroupCore,
    disk: Box<dyn Disk>,
    shared: Arc<Shared>,
}

/// What a batch of messages asks for besides its operations.
#[derive(Default)]
struct Batch {
    operations: Vec<Operation>,
    waiting: Vec<Waiting>,
    sweeps: Vec<oneshot::Sender<Result<Swept, StoreError>>>,
    closing: Option<oneshot::Sender<()>>,
}

// === impl Writer ===

impl Writer {
    /// Starts the thread. The core has adopted what the disk holds.
    pub(crate) fn start(
        core: GroupCore,
        disk: Box<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::new(Shared {
            clock,
            forgotten_until: AtomicU64::new(core.forgotten_until().as_millis()),
            poison: Mutex::new(None),
            abandoned: Mutex::new(Vec::new()),
            wake: queue.downgrade(),
        });
        let thread = Thread {
            core,
            disk,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("onlyonce-writer".to_owned())
            .spawn(move || thread.run(messages))?;
        Ok(Self {
            queue: Some(queue),
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        let forgotten_until = self.shared.forgotten_until.load(Ordering::SeqCst);
        let clock = self.shared.clock.now();
        transition::now_told(clock, Timestamp::from_millis(forgotten_until))
    }

    pub(crate) async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        let place = self.place().await?;
        let (reply, waiting) = oneshot::channel();
        let operation = Operation::Claim(request);
        place.send(Message::Ask(operation, Waiting::Claim(reply)));
        waiting.await.map_err(|_| self.shared.failure())?
    }

    pub(crate) async fn ask(&self, operation: Operation) -> Result<Reply, StoreError> {
        let place = self.place().await?;
        self.send(place, operation).await
    }

    /// Spends a claim, but only once it has a place in the queue: a caller that gives up while it
    /// waits for one drops an unspent claim.
    pub(crate) async fn spend(
        &self,
        claim: Claim,
        operation: impl FnOnce(KeyDigest, FencingToken) -> Operation,
    ) -> Result<(), SettleError> {
        let place = self.place().await?;
        let (key, token) = claim.spend();
        let reply = self.send(place, operation(key, token)).await?;
        reply.into_settled()
    }

    pub(crate) async fn sweep(&self) -> Result<Swept, StoreError> {
        let place = self.place().await?;
        let (reply, waiting) = oneshot::channel();
        place.send(Message::Sweep(reply));
        waiting.await.map_err(|_| self.shared.failure())?
    }

    /// Finishes what is queued and frees the directory.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        if let Ok(place) = self.place().await {
            let (reply, waiting) = oneshot::channel();
            place.send(Message::Close(reply));
            // OK to ignore because a thread that ended without a word is joined below.
            let _ = waiting.await;
        }
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // Not a wait worth the name: the thread has freed everything and is returning.
            let _ = thread.join();
        }
        match self.shared.failure() {
            StoreError::Closed => Ok(()),
            poisoned => Err(poisoned),
        }
    }

    async fn place(&self) -> Result<mpsc::Permit<'_, Message>, StoreError> {
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.reserve().await.map_err(|_| self.shared.failure())
    }

    async fn send(
        &self,
        place: mpsc::Permit<'_, Message>,
        operation: Operation,
    ) -> Result<Reply, StoreError> {
        let (reply, waiting) = oneshot::channel();
        place.send(Message::Ask(operation, Waiting::Other(reply)));
        waiting.await.map_err(|_| self.shared.failure())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        let thread = self.thread.lock().take();
        let on_runtime = tokio::runtime::Handle::try_current().is_ok();
        if let Some(thread) = thread
            && !on_runtime
        {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// Why nothing is answered any more.
    fn failure(&self) -> StoreError {
        match &*self.poison.lock() {
            None => StoreError::Closed,
            Some(reason) => StoreError::Poisoned(reason.clone()),
        }
    }

    fn poisoned(&self) -> Option<StoreError> {
        self.poison.lock().clone().map(StoreError::Poisoned)
    }
}

impl Abandoned for Shared {
    fn abandoned(&self, key: KeyDigest, token: FencingToken) {
        self.abandoned.lock().push((key, token));
        // OK to ignore because a full queue means that another group is coming, and a store that
        // is gone puts what it left open in doubt when it is opened again.
        if let Some(queue) = self.wake.upgrade() {
            let _ = queue.try_send(Message::Wake);
        }
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

// === impl Thread ===

impl Thread {
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = messages.blocking_recv() else {
                break;
            };
            let mut batch = Batch::default();
            batch.abandon(&self.shared);
            let mut bytes = batch.take(first);
            // No timer: what arrives while a group is synced is the next group.
            while batch.closing.is_none()
                && batch.operations.len() < GROUP_OPERATIONS_MAX
                && bytes < GROUP_BYTES_MAX
                && let Ok(next) = messages.try_recv()
            {
                bytes += batch.take(next);
            }
            crate::kill_point!("writer: group taken, not decided");
            closing = self.serve(batch);
        }
        // Whoever still waits for a place, or got one behind the closing, learns that it is closed.
        messages.close();
        while let Ok(message) = messages.try_recv() {
            message.fail(&self.shared.failure());
        }
        let mut last = Batch::default();
        last.abandon(&self.shared);
        self.serve(last);
        let Self { disk, .. } = self;
        crate::kill_point!("writer: last group served, not closed");
        let _ = catch_unwind(AssertUnwindSafe(|| disk.close()));
        if let Some(closing) = closing {
            let _ = closing.send(());
        }
    }

    /// Serves a batch; answers who wants the store closed, if somebody does.
    fn serve(&mut self, batch: Batch) -> Option<oneshot::Sender<()>> {
        let Batch {
            operations,
            waiting,
            sweeps,
            closing,
        } = batch;
        match self.guarded(|thread| thread.commit(operations)) {
            Ok(replies) => {
                for (waiting, reply) in waiting.into_iter().zip(replies) {
                    waiting.reply(reply, &self.shared);
                    crate::kill_point!("writer: one reply given, the next not");
                }
            }
            Err(error) => {
                for waiting in waiting {
                    waiting.fail(error.clone());
                }
            }
        }
        for caller in sweeps {
            let swept = self.guarded(Self::sweep);
            let _ = caller.send(swept);
        }
        closing
    }

    /// Does `work` unless the store is poisoned, and poisons it when the work fails or panics.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, StoreError> {
        if let Some(poisoned) = self.shared.poisoned() {
            return Err(poisoned);
        }
        // OK because nothing of the thread is used after a panic but its shared words.
        let done = catch_unwind(AssertUnwindSafe(|| work(self)))
            .unwrap_or_else(|panic| Err(format!("the writer panicked: {}", message_of(&*panic))));
        done.map_err(|reason| {
            *self.shared.poison.lock() = Some(reason.clone());
            StoreError::Poisoned(reason)
        })
    }

    fn commit(&mut self, operations: Vec<Operation>) -> Result<Vec<Reply>, String> {
        let now = self.shared.clock.now();
        let group = self.core.decide(operations, &*self.disk, now);
        crate::kill_point!("writer: group decided, not applied");
        // A group that writes nothing tells only what an earlier group has made durable.
        if !group.changes.is_empty() {
            self.disk.apply(&group.changes)?;
            crate::kill_point!("writer: group applied, not flushed");
            self.persist()?;
            crate::kill_point!("writer: group synced, not answered");
        }
        Ok(group.replies)
    }

    fn persist(&mut self) -> Result<(), String> {
        self.disk.flush()?;
        crate::kill_point!("writer: flushed, not synced");
        self.disk.sync()
    }

    fn sweep(&mut self) -> Result<Swept, String> {
        let now = self.shared.clock.now();
        // A group puts some of the lapsed calls in doubt; empty ones do the rest.
        loop {
            let group = self.core.decide(Vec::new(), &*self.disk, now);
            if group.changes.is_empty() {
                break;
            }
            self.disk.apply(&group.changes)?;
            self.persist()?;
        }
        let due = self.disk.due(&self.core.retention(), now);
        if due.is_empty() {
            return Ok(Swept::default());
        }
        self.disk.note(&due)?;
        crate::kill_point!("sweep: noted, not durable");
        self.persist()?;
        crate::kill_point!("sweep: note durable, nothing removed");
        if let Some(until) = due.forgotten_until() {
            self.core.forget_until(until);
            self.shared
                .forgotten_until
                .store(self.core.forgotten_until().as_millis(), Ordering::SeqCst);
        }
        let swept = self.disk.remove(&due)?;
        crate::kill_point!("sweep: removed, not durable");
        self.persist()?;
        crate::kill_point!("sweep: removal durable, not answered");
        Ok(swept)
    }
}

// === impl Message ===

impl Message {
    fn fail(self, error: &StoreError) {
        match self {
            Self::Ask(_, waiting) => waiting.fail(error.clone()),
            Self::Close(caller) => drop(caller.send(())),
            Self::Sweep(caller) => drop(caller.send(Err(error.clone()))),
            Self::Wake => {}
        }
    }
}

// === impl Batch ===

impl Batch {
    /// Takes in one message; answers how many bytes of answers it brought.
    fn take(&mut self, message: Message) -> usize {
        match message {
            Message::Ask(operation, waiting) => {
                let bytes = operation.answer().map_or(0, |answer| answer.body().len());
                self.operations.push(operation);
                self.waiting.push(waiting);
                return bytes;
            }
            Message::Close(caller) => self.closing = Some(caller),
            Message::Sweep(caller) => self.sweeps.push(caller),
            Message::Wake => {}
        }
        0
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

// === impl Operation ===

impl Operation {
    fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Complete { answer, .. } => Some(answer),
            Self::Doubt { answer, .. } => answer.as_ref(),
            _ => None,
        }
    }
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no reason given")
}

/// Four groups: enough that the next one is full when the last is synced, and little to wait for.
const QUEUE_MAX: usize = 1_024;

/// Past this a larger group buys no throughput on sled, it only makes its callers wait.
const GROUP_OPERATIONS_MAX: usize = 256;

/// So that a group of large answers neither takes seconds to write nor fills the memory.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
