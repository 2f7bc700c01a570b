//! The store: a handle on its task.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::disk::SimDisk;
use super::log::{self, Log};
use super::rows::Kept;
use super::shell::{Message, Shared, Shell, Waiting, sync};
use crate::commit::{Commit, CommitRefusal, GroupCore, Operation, Reply, Sight};
use crate::journal::{AbandonedPage, Journal, StepResolution};
use crate::planted;
use crate::record::{Record, State};
use crate::transaction::{
    CommitError, CommitFuture, RANGE_ROWS_MAX, ReadRows, Row, RowRange, Table, Transaction,
    TransactionalStore, Work,
};
use crate::{
    Answer, Claim, ClaimOutcome, ClaimRequest, Clock, Cursor, DoubtReason, FencingToken, KeyDigest,
    KeyState, NoteError, Question, RetentionOptions, Scope, ScopedKey, SessionRequest,
    SessionState, SettleError, StepName, StepNote, Store, StoreError, StoreFuture, StoreId,
    StoreLimits, Timestamp, transition,
};

/// A [`Store`] over a [`SimDisk`]. Its task runs on the runtime of whoever opened it, and ends with
/// that or with its last handle.
#[derive(Debug)]
pub struct SimStore {
    id: StoreId,
    queue: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

/// The settings of a [`SimStore`].
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// The identity of the store: nothing random is drawn.
    pub id: StoreId,
    /// Where it gets the time from.
    pub clock: Arc<dyn Clock>,
    /// How long settled calls are remembered.
    pub retention: RetentionOptions,
    /// What it holds at most.
    pub limits: StoreLimits,
    /// Who hears of rows that have become durable.
    pub durable: Option<Durable>,
}

/// Hears of each row that a sync has made durable, before anybody else is told: its table, its key,
/// and its value where it was not removed. It says whether the process goes on: if not, the store
/// does nothing more, as one whose process is about to be killed.
#[derive(Clone)]
pub struct Durable(Arc<Hear>);

type Hear = dyn Fn(&Table, &[u8], Option<&[u8]>) -> bool + Send + Sync;

// === impl Durable ===

impl Durable {
    /// Calls this.
    pub fn new(
        hear: impl Fn(&Table, &[u8], Option<&[u8]>) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(hear))
    }

    pub(super) fn tell(&self, table: &Table, row: &[u8], value: Option<&[u8]>) -> bool {
        (self.0)(table, row, value)
    }
}

impl fmt::Debug for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Durable").finish_non_exhaustive()
    }
}

/// Why a [`SimStore`] could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// What is on the disk cannot be believed. No disk that only loses what was not synced, or what
    /// a failed sync has left behind, brings a right store there.
    Damaged(String),
    /// The disk could not be written to, or its process has ended meanwhile.
    Disk(String),
}

// === impl NotOpened ===

impl fmt::Display for NotOpened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(why) => write!(f, "what is on the disk is damaged: {why}"),
            Self::Disk(why) => write!(f, "the disk failed: {why}"),
        }
    }
}

// === impl SimStore ===

impl SimStore {
    /// Opens the store on this disk, or makes one there. What it finds is made durable anew, as one
    /// file, before it returns.
    ///
    /// # Errors
    ///
    /// What cannot be believed of the disk, or that it cannot be written to.
    pub async fn open(disk: SimDisk, options: SimOptions) -> Result<Self, NotOpened> {
        let generation = disk.generation();
        let now = options.clock.now();
        let found = log::read(&disk.bytes()).map_err(NotOpened::Damaged)?;
        let mut kept = found.unwrap_or_else(|| Kept {
            // A call first sent before this store existed may have been executed by an earlier one.
            forgotten_until: now,
            ..Kept::default()
        });
        kept.incarnation += 1;
        if planted!(ForgottenUntilLost) {
            kept.forgotten_until = Timestamp::default();
        }
        if planted!(RowsForgottenOnOpen) {
            kept.tables.clear();
        }
        if planted!(SettledDoubtedOnOpen) {
            kept.records.values_mut().for_each(doubt_settled);
        }
        if planted!(SettledForgottenOnOpen) {
            kept.records.retain(|_, record| !record.is_settled());
        }
        if planted!(OpenClaimsForgotten) {
            kept.records.retain(|_, record| record.is_settled());
        }
        let mut core = GroupCore::new(
            kept.incarnation,
            kept.forgotten_until,
            options.retention,
            options.limits,
        );
        core.adopt_sessions(kept.last_session, kept.sessions.clone(), now);
        let found: Vec<(KeyDigest, Record)> = kept.records.clone().into_iter().collect();
        for (key, record) in found {
            if let Some(doubted) = core.adopt(&record, now) {
                kept.records.insert(key, doubted);
            }
        }
        let (log, bytes) = Log::begin(&kept).map_err(NotOpened::Damaged)?;
        let replaced = disk.replace(bytes, generation);
        replaced.map_err(NotOpened::Disk)?;
        let synced = sync(disk.clone(), 0, generation).await;
        synced.map_err(NotOpened::Disk)?;
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::new(Shared::new(options.clock, core.forgotten_until(), &queue));
        let mut shell = Shell::new((core, kept), log, (disk, generation), Arc::clone(&shared));
        shell.durable = options.durable;
        tokio::spawn(shell.run(messages));
        Ok(Self {
            id: options.id,
            queue,
            shared,
        })
    }

    /// Removes what is past its retention and horizon; answers what is gone. Unlike an embedded store it trusts its clock.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub async fn sweep(&self) -> Result<Vec<KeyDigest>, StoreError> {
        let place = self.place().await?;
        let (reply, waiting) = oneshot::channel();
        place.send(Message::Sweep(reply));
        waiting.await.map_err(|_| self.shared.failure())?
    }

    /// What an owner says late that was thought to be dead: that nothing was executed under its
    /// token, or that this was its answer. It is refused where the token is not the record's.
    pub async fn settle_late(&self, key: ScopedKey, token: FencingToken, answer: Option<Answer>) {
        let key = key.digest();
        let operation = match answer {
            None => Operation::Release { key, token },
            Some(answer) => Operation::Complete { key, token, answer },
        };
        // OK because who is fenced has nothing more to say.
        let _ = self.ask_shell(operation).await;
    }

    /// Whether it answers nothing any more.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.shared.poisoned().is_some()
    }

    async fn claim_by(&self, operation: Operation) -> Result<ClaimOutcome, StoreError> {
        let place = self.place().await?;
        let (reply, waiting) = oneshot::channel();
        place.send(Message::Ask(operation, Waiting::Claim(reply)));
        waiting.await.map_err(|_| self.shared.failure())?
    }

    /// Spends a claim, but only once it has a place in the queue.
    async fn spend(
        &self,
        claim: Claim,
        operation: impl FnOnce(KeyDigest, FencingToken) -> Operation,
    ) -> Result<(), SettleError> {
        let place = self.place().await?;
        let (key, token) = claim.spend();
        let reply = self.send(place, operation(key, token)).await?;
        reply.into_settled()
    }

    async fn ask_shell(&self, operation: Operation) -> Result<Reply, StoreError> {
        let place = self.place().await?;
        self.send(place, operation).await
    }

    async fn place(&self) -> Result<mpsc::Permit<'_, Message>, StoreError> {
        let place = self.queue.reserve().await;
        place.map_err(|_| self.shared.failure())
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

impl Store for SimStore {
    fn transactions(&self) -> Option<&dyn TransactionalStore> {
        Some(self)
    }

    fn journal(&self) -> Option<&dyn Journal> {
        Some(self)
    }

    fn id(&self) -> StoreId {
        self.id
    }

    fn now(&self) -> Timestamp {
        let until = self
            .shared
            .forgotten_until
            .load(std::sync::atomic::Ordering::SeqCst);
        transition::now_told(self.shared.clock.now(), Timestamp::from_millis(until))
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        Box::pin(self.claim_by(Operation::Claim(request)))
    }

    fn renew<'a>(
        &'a self,
        claim: &'a mut Claim,
        lease: Duration,
    ) -> StoreFuture<'a, (), SettleError> {
        Box::pin(async move {
            let (key, token) = (claim.digest(), claim.token());
            let reply = self
                .ask_shell(Operation::Renew { key, token, lease })
                .await?;
            claim.renewed_until(reply.into_lease()?);
            Ok(())
        })
    }

    fn complete(&self, claim: Claim, answer: Answer) -> StoreFuture<'_, (), SettleError> {
        Box::pin(self.spend(claim, |key, token| Operation::Complete {
            key,
            token,
            answer,
        }))
    }

    fn release(&self, claim: Claim) -> StoreFuture<'_, (), SettleError> {
        Box::pin(self.spend(claim, |key, token| Operation::Release { key, token }))
    }

    fn doubt(
        &self,
        claim: Claim,
        reason: DoubtReason,
        answer: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError> {
        Box::pin(self.spend(claim, move |key, token| Operation::Doubt {
            key,
            token,
            reason,
            answer,
        }))
    }

    fn ask(
        &self,
        question: Question,
        key: ScopedKey,
        first_sent: Option<Timestamp>,
    ) -> StoreFuture<'_, KeyState> {
        Box::pin(async move {
            let operation = Operation::Ask {
                question,
                key,
                first_sent,
            };
            self.ask_shell(operation).await?.into_state()
        })
    }

    fn session(&self, scope: Scope, request: SessionRequest) -> StoreFuture<'_, SessionState> {
        Box::pin(async move {
            let operation = Operation::Session { scope, request };
            self.ask_shell(operation).await?.into_session()
        })
    }
}

impl Journal for SimStore {
    fn note(
        &self,
        key: KeyDigest,
        token: FencingToken,
        note: StepNote,
    ) -> StoreFuture<'_, (), NoteError> {
        Box::pin(async move {
            let operation = Operation::Note { key, token, note };
            self.ask_shell(operation).await?.into_noted()
        })
    }

    fn abandoned(&self, after: Option<Cursor>, calls_max: usize) -> StoreFuture<'_, AbandonedPage> {
        Box::pin(async move {
            let operation = Operation::Abandoned { after, calls_max };
            self.ask_shell(operation).await?.into_abandoned()
        })
    }

    fn resolve_step(
        &self,
        key: ScopedKey,
        token: FencingToken,
        name: StepName,
        resolution: StepResolution,
    ) -> StoreFuture<'_, (), SettleError> {
        Box::pin(async move {
            let operation = Operation::ResolveStep {
                key: key.digest(),
                token,
                name,
                resolution,
            };
            self.ask_shell(operation).await?.into_settled()
        })
    }
}

impl TransactionalStore for SimStore {
    fn begin(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        Box::pin(self.claim_by(Operation::Begin(request)))
    }

    fn start(&self, _: &Claim) -> Transaction {
        Transaction::new(Arc::clone(&self.shared) as Arc<dyn ReadRows>)
    }

    fn commit(&self, claim: Claim, work: Work, answer: Answer) -> CommitFuture<'_> {
        Box::pin(async move {
            let place = self.place().await.map_err(CommitError::Refused)?;
            let commit = Box::new(Commit {
                key: claim.digest(),
                token: claim.token(),
                work,
                answer,
            });
            let reply = self.send(place, Operation::Commit(commit)).await;
            match reply.map_err(CommitError::Unknown)?.into_committed() {
                Ok(()) => {
                    claim.spend();
                    Ok(())
                }
                Err(CommitRefusal::Conflict) => Err(CommitError::Conflict(claim)),
                Err(CommitRefusal::Fenced) => Err(CommitError::Fenced),
                Err(CommitRefusal::Refused(error)) => Err(CommitError::Refused(error)),
            }
        })
    }

    fn read(&self, range: RowRange) -> StoreFuture<'_, Vec<Row>> {
        Box::pin(async move {
            let range = range.at_most(RANGE_ROWS_MAX);
            let sight = Sight::Durable;
            let reply = self.ask_shell(Operation::Read { range, sight }).await?;
            reply.into_rows()
        })
    }
}

/// Forgets what a call was answered, and not that it was made. Planted.
fn doubt_settled(record: &mut Record) {
    if let Record::Call(call) = record
        && let State::Completed { at, .. } = call.state
    {
        call.state = State::InDoubt {
            since: at,
            reason: DoubtReason::OwnerGone,
            answer: None,
        };
    }
}

/// As that of the embedded store.
const QUEUE_MAX: usize = 1_024;
