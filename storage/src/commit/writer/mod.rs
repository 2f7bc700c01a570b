//! The shell around the core: two threads of the operating system, and the handle that asks them.
//!
//! ```text
//!  callers --> queue --> writer: decides, applies ----- group -----> syncer: flush, sync --> replies
//!                          ^                                            |
//!                          '------------------ idle --------------------'
//! ```
//!
//! While the syncer waits for the disk, the writer decides and applies what arrives. When the syncer
//! is free, everything that was applied meanwhile becomes the next group. No timer is needed.

mod applier;
mod syncing;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use self::applier::Applier;
use super::core::GroupCore;
use super::disk::{Engine, Replays};
use super::operation::{ClaimReply, Commit, CommitRefusal, Operation, Reply, Sight};
use crate::clock::ClockGuard;
use crate::inspect::{BucketStats, OpenStats};
use crate::transaction::{CommitError, ReadRows, Row, RowRange, Work};
use crate::transition::Circumstances;
use crate::{
    Abandoned, Answer, Claim, ClaimOutcome, ClaimRequest, Clock, ClockSuspicion, FencingToken,
    KeyDigest, RetentionOptions, SettleError, StoreError, StoreFuture, Swept, Timestamp,
    transition,
};

/// Asks the writer. Callers wait for a place in the queue when 1,024 are in it.
///
/// Dropping it lets the thread finish what is queued and free the directory; the drop waits for
/// that unless it happens on a thread of an async runtime, which must not be blocked.
pub(crate) struct Writer {
    // `None` only while it is dropped.
    queue: Option<mpsc::Sender<Message>>,
    shared: Arc<Shared>,
    replays: Arc<dyn Replays>,
    retention: RetentionOptions,
    incarnation: u64,
    ended: watch::Receiver<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the handle, the threads and the claims share.
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
    Close,
    /// Answered also by a store that is poisoned.
    Stats(oneshot::Sender<Figures>),
    ConfirmClock(oneshot::Sender<Result<(), StoreError>>),
    Sweep(oneshot::Sender<Result<Swept, StoreError>>),
    /// A claim was abandoned, or the syncer is free.
    Wake,
}

/// What the writer knows of its store.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) incarnation: u64,
    pub(crate) forgotten_until: Timestamp,
    pub(crate) retention: RetentionOptions,
    pub(crate) poisoned: Option<String>,
    pub(crate) clock: Option<ClockSuspicion>,
    pub(crate) open: OpenStats,
    pub(crate) buckets: Vec<BucketStats>,
}

/// Who waits for a reply.
enum Waiting {
    /// A claim is made into a guard here, on the writer's side: if its caller is gone by now, the
    /// guard is dropped and says so.
    Claim(oneshot::Sender<Result<ClaimOutcome, StoreError>>),
    Nobody,
    Other(oneshot::Sender<Result<Reply, StoreError>>),
}

// === impl Writer ===

impl Writer {
    /// Starts the threads. The core has adopted what the disk holds.
    pub(crate) fn start(
        (core, guard): (GroupCore, ClockGuard),
        engine: Engine,
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
        let (replays, retention) = (Arc::clone(&engine.replays), core.retention());
        let incarnation = core.incarnation();
        let applier = Applier::new((core, guard), engine, Arc::clone(&shared))?;
        let (tell_end, ended) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("onlyonce-writer".to_owned())
            .spawn(move || {
                applier.run(messages);
                tell_end.send_replace(true);
            })?;
        Ok(Self {
            queue: Some(queue),
            shared,
            replays,
            retention,
            incarnation,
            ended,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub(crate) fn now(&self) -> Timestamp {
        let forgotten_until = self.shared.forgotten_until.load(Ordering::SeqCst);
        let clock = self.shared.clock.now();
        transition::now_told(clock, Timestamp::from_millis(forgotten_until))
    }

    pub(crate) async fn claim(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        if let Some(reply) = self.replay(&request) {
            let on_drop = Arc::clone(&self.shared) as Arc<dyn Abandoned>;
            return Ok(reply.into_outcome(on_drop));
        }
        self.claim_by(Operation::Claim(request)).await
    }

    async fn claim_by(&self, operation: Operation) -> Result<ClaimOutcome, StoreError> {
        let place = self.place().await?;
        let (reply, waiting) = oneshot::channel();
        place.send(Message::Ask(operation, Waiting::Claim(reply)));
        waiting.await.map_err(|_| self.shared.failure())?
    }

    /// Asks for a claim that is held in memory.
    pub(crate) async fn begin(&self, request: ClaimRequest) -> Result<ClaimOutcome, StoreError> {
        self.claim_by(Operation::Begin(request)).await
    }

    /// Where transactions read. It does not keep the store open.
    pub(crate) fn rows(&self) -> Arc<dyn ReadRows> {
        Arc::clone(&self.shared) as Arc<dyn ReadRows>
    }

    /// Commits under a claim that is held in memory.
    pub(crate) async fn commit(
        &self,
        claim: Claim,
        work: Work,
        answer: Answer,
    ) -> Result<(), CommitError> {
        let place = self.place().await.map_err(CommitError::Refused)?;
        let commit = Box::new(Commit {
            key: claim.digest(),
            token: claim.token(),
            work,
            answer,
        });
        // A caller that gives up from here on drops an unspent claim: what the writer meets first,
        // its drop or the commit, counts.
        let reply = self.send(place, Operation::Commit(commit)).await;
        let committed = reply.map_err(CommitError::Unknown)?.into_committed();
        match committed {
            Ok(()) => {
                claim.spend();
                Ok(())
            }
            Err(CommitRefusal::Conflict) => Err(CommitError::Conflict(claim)),
            Err(CommitRefusal::Fenced) => Err(CommitError::Fenced),
            Err(CommitRefusal::Refused(error)) => Err(CommitError::Refused(error)),
        }
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

    pub(crate) async fn confirm_clock(&self) -> Result<(), StoreError> {
        let place = self.place().await?;
        let (reply, waiting) = oneshot::channel();
        place.send(Message::ConfirmClock(reply));
        waiting.await.map_err(|_| self.shared.failure())?
    }

    /// The figures, without what lies beside the writer.
    pub(crate) async fn figures(&self) -> Result<Figures, StoreError> {
        let place = self.place().await?;
        let (reply, waiting) = oneshot::channel();
        place.send(Message::Stats(reply));
        waiting.await.map_err(|_| self.shared.failure())
    }

    /// Finishes what is queued and frees the directory.
    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        if let Ok(place) = self.place().await {
            place.send(Message::Close);
        }
        // Ends when the writer has freed everything, whoever asked for it.
        let mut ended = self.ended.clone();
        // OK to ignore because a writer that is gone has ended.
        let _ = ended.wait_for(|ended| *ended).await;
        match self.shared.failure() {
            StoreError::Closed => Ok(()),
            poisoned => Err(poisoned),
        }
    }

    /// Most duplicates come when everything is over: they wait for no thread and no disk.
    fn replay(&self, request: &ClaimRequest) -> Option<ClaimReply> {
        let is_closed = self.queue.as_ref().is_none_or(mpsc::Sender::is_closed);
        if is_closed || self.shared.poisoned().is_some() {
            return None;
        }
        let forgotten_until = self.shared.forgotten_until.load(Ordering::SeqCst);
        let at = Circumstances {
            now: self.shared.clock.now(),
            retention: self.retention,
            forgotten_until: Timestamp::from_millis(forgotten_until),
            sole_incarnation: Some(self.incarnation),
        };
        self.replays.replay(request, &at)
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

    /// Does `work` unless the store is poisoned, and poisons it when the work fails or panics.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, String>) -> Result<T, StoreError> {
        if let Some(poisoned) = self.poisoned() {
            return Err(poisoned);
        }
        // OK because nothing of the engine is used after a panic but to close it.
        let done = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(format!("the writer panicked: {}", message_of(&*panic))));
        done.map_err(|reason| {
            // The first failure is the one that explains the others.
            let mut poison = self.poison.lock();
            StoreError::Poisoned(poison.get_or_insert(reason).clone())
        })
    }

    /// Lets the writer look at what changed beside its queue.
    fn wake(&self) {
        // OK to ignore because a writer whose queue is full is not asleep.
        if let Some(queue) = self.wake.upgrade() {
            let _ = queue.try_send(Message::Wake);
        }
    }
}

impl Abandoned for Shared {
    fn abandoned(&self, key: KeyDigest, token: FencingToken) {
        self.abandoned.lock().push((key, token));
        // A store that is gone puts what it left open in doubt when it is opened again.
        self.wake();
    }
}

impl ReadRows for Shared {
    fn read(&self, range: RowRange) -> StoreFuture<'_, Vec<Row>> {
        Box::pin(async move {
            let queue = self.wake.upgrade().ok_or_else(|| self.failure())?;
            let (reply, waiting) = oneshot::channel();
            let sight = Sight::Applied;
            let message = Message::Ask(Operation::Read { range, sight }, Waiting::Other(reply));
            let sent = queue.send(message).await;
            sent.map_err(|_| self.failure())?;
            // A store whose last handle is dropped meanwhile does not wait for this one.
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

// === impl Message ===

impl Message {
    fn fail(self, error: &StoreError) {
        match self {
            Self::Ask(_, waiting) => waiting.fail(error.clone()),
            // Dropped: its caller learns why from the failure that all share.
            Self::Close | Self::Stats(_) | Self::Wake => {}
            Self::ConfirmClock(caller) => drop(caller.send(Err(error.clone()))),
            Self::Sweep(caller) => drop(caller.send(Err(error.clone()))),
        }
    }
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no reason given")
}

/// As many as a group takes: little to wait for.
const QUEUE_MAX: usize = 1_024;
