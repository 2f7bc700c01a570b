//! The store itself: a handle on the writer thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::open::{FORMAT_PREFIX, Opened, open, recognise};
use super::size::disk_bytes;
use super::{OpenError, SledOptions};
use crate::commit::disk::Engine;
use crate::commit::writer::Writer;
use crate::commit::{Operation, Sight};
use crate::journal::{AbandonedPage, Journal, StepResolution};
use crate::transaction::{
    CommitFuture, RANGE_ROWS_MAX, Row, RowRange, Transaction, TransactionalStore, Work,
};
use crate::{
    Answer, AnswerBytes, Claim, ClaimOutcome, ClaimRequest, Cursor, DoubtReason, FencingToken,
    Inspect, KeyDigest, KeyState, KeyView, ListPage, ListRequest, NoteError, Operator, Question,
    Resolution, Scope, ScopedKey, SessionRequest, SessionState, SettleError, StepName, StepNote,
    Store, StoreError, StoreFuture, StoreId, StoreStats, Swept, Timestamp,
};

/// A durable [`Store`] in a directory, for one process at a time.
///
/// What it acknowledges survives a crash of the process, of the machine and a power cut. Use it
/// where one server owns its effects; servers that share them need a shared store.
///
/// Changes are decided and written by threads of its own, in groups that share one sync. A duplicate
/// of a call that is settled is answered where it is asked, from memory alone; so no method blocks a
/// runtime. Callers wait for their turn when 1,024 operations are queued. After
/// the first failed write it answers [`StoreError::Poisoned`] until it is opened again.
///
/// Drop the last handle or, to know when the directory is free, [`close`](Self::close) it.
///
/// ```
/// use onlyonce_storage::{IdempotencyKey, KeyState, Scope, ScopedKey, Store};
/// use onlyonce_storage::sled::{SledOptions, SledStore};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("calls");
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let key = ScopedKey::new(Scope::global(), IdempotencyKey::parse("order-4711")?);
/// let store = SledStore::open_async(&path, SledOptions::new()).await?;
/// assert!(matches!(store.seal(key.clone()).await?, KeyState::Sealed { .. }));
/// store.close().await?;
///
/// let store = SledStore::open_async(&path, SledOptions::new()).await?;
/// assert!(matches!(store.peek(key).await?, KeyState::Sealed { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SledStore {
    id: StoreId,
    folder: PathBuf,
    writer: Writer,
}

// === impl SledStore ===

impl SledStore {
    /// Opens the store in the directory `path`, or makes one there if it is absent or empty.
    ///
    /// Calls that were in progress when the store was last open are in doubt from now on: their
    /// owner is gone. Blocks for as long as sled recovers (seconds with millions of records); in
    /// async code use [`open_async`](Self::open_async).
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. At once where another process has it open. A directory that is not a
    /// store is left untouched.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "options are built for one store and given away"
    )]
    pub fn open(path: impl AsRef<Path>, options: SledOptions) -> Result<Self, OpenError> {
        Self::open_with(path.as_ref(), &options, |engine| engine)
    }

    /// Whether the directory holds a store that this version can open. Opens nothing, changes
    /// nothing, and looks at no record. Blocks for a look at one small file.
    ///
    /// # Errors
    ///
    /// What is there is no store, one of a newer format, or cannot be looked at.
    pub fn is_in(path: impl AsRef<Path>) -> Result<bool, OpenError> {
        recognise(path.as_ref(), FORMAT_PREFIX)
    }

    /// [`open`](Self::open) on a thread that may block. Dropping the future does not stop it; the
    /// store is then opened and dropped.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_async(
        path: impl AsRef<Path>,
        options: SledOptions,
    ) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let shown = path.clone();
        tokio::task::spawn_blocking(move || Self::open(path, options))
            .await
            .unwrap_or_else(|error| {
                Err(OpenError::Io {
                    path: shown,
                    source: error.into(),
                })
            })
    }

    pub(super) fn open_with(
        path: &Path,
        options: &SledOptions,
        seam: impl FnOnce(Engine) -> Engine,
    ) -> Result<Self, OpenError> {
        let Opened {
            core,
            guard,
            disk,
            syncer,
            id,
        } = open(path, options)?;
        let engine = seam(Engine {
            replays: Arc::new(disk.reader()),
            disk: Box::new(disk),
            syncer: Box::new(syncer),
        });
        let clock = Arc::clone(&options.clock);
        let writer =
            Writer::start((core, guard), engine, clock).map_err(|source| OpenError::Io {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            id,
            folder: path.to_owned(),
            writer,
        })
    }

    /// Finishes what was asked so far and frees the directory: afterwards it can be opened again.
    /// What is asked later is answered [`StoreError::Closed`]. Dropping the future does not stop
    /// the closing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Poisoned`] when an earlier write had failed. The directory is free all the
    /// same.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.writer.close().await
    }
}

impl Store for SledStore {
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
        self.writer.now()
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        Box::pin(self.writer.claim(request))
    }

    fn renew<'a>(
        &'a self,
        claim: &'a mut Claim,
        lease: Duration,
    ) -> StoreFuture<'a, (), SettleError> {
        Box::pin(async move {
            let (key, token) = (claim.digest(), claim.token());
            let reply = self
                .writer
                .ask(Operation::Renew { key, token, lease })
                .await?;
            claim.renewed_until(reply.into_lease()?);
            Ok(())
        })
    }

    fn complete(&self, claim: Claim, answer: Answer) -> StoreFuture<'_, (), SettleError> {
        Box::pin(self.writer.spend(claim, |key, token| Operation::Complete {
            key,
            token,
            answer,
        }))
    }

    fn release(&self, claim: Claim) -> StoreFuture<'_, (), SettleError> {
        Box::pin(
            self.writer
                .spend(claim, |key, token| Operation::Release { key, token }),
        )
    }

    fn doubt(
        &self,
        claim: Claim,
        reason: DoubtReason,
        answer: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError> {
        Box::pin(
            self.writer
                .spend(claim, move |key, token| Operation::Doubt {
                    key,
                    token,
                    reason,
                    answer,
                }),
        )
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
            self.writer.ask(operation).await?.into_state()
        })
    }

    fn session(&self, scope: Scope, request: SessionRequest) -> StoreFuture<'_, SessionState> {
        Box::pin(async move {
            let operation = Operation::Session { scope, request };
            self.writer.ask(operation).await?.into_session()
        })
    }
}

impl Journal for SledStore {
    fn note(
        &self,
        key: KeyDigest,
        token: FencingToken,
        note: StepNote,
    ) -> StoreFuture<'_, (), NoteError> {
        Box::pin(async move {
            let operation = Operation::Note { key, token, note };
            self.writer.ask(operation).await?.into_noted()
        })
    }

    fn abandoned(&self, after: Option<Cursor>, calls_max: usize) -> StoreFuture<'_, AbandonedPage> {
        Box::pin(async move {
            let operation = Operation::Abandoned { after, calls_max };
            self.writer.ask(operation).await?.into_abandoned()
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
            self.writer.ask(operation).await?.into_settled()
        })
    }
}

impl TransactionalStore for SledStore {
    fn begin(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        Box::pin(self.writer.begin(request))
    }

    fn start(&self, _: &Claim) -> Transaction {
        Transaction::new(self.writer.rows())
    }

    fn commit(&self, claim: Claim, work: Work, answer: Answer) -> CommitFuture<'_> {
        Box::pin(self.writer.commit(claim, work, answer))
    }

    fn read(&self, range: RowRange) -> StoreFuture<'_, Vec<Row>> {
        Box::pin(async move {
            let range = range.at_most(RANGE_ROWS_MAX);
            let sight = Sight::Durable;
            let reply = self.writer.ask(Operation::Read { range, sight }).await?;
            reply.into_rows()
        })
    }
}

impl Inspect for SledStore {
    fn list(&self, request: ListRequest) -> StoreFuture<'_, ListPage> {
        Box::pin(async move {
            let operation = Operation::List(request);
            self.writer.ask(operation).await?.into_page()
        })
    }

    fn show(&self, key: ScopedKey, answer: AnswerBytes) -> StoreFuture<'_, KeyView> {
        Box::pin(async move {
            let operation = Operation::Show { key, answer };
            self.writer.ask(operation).await?.into_view()
        })
    }

    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        Box::pin(async move {
            let figures = self.writer.figures().await?;
            let folder = self.folder.clone();
            // Not by the writer: a disk that hangs must not hold up what needs no disk.
            let disk_bytes = match tokio::runtime::Handle::try_current() {
                Ok(runtime) => {
                    let measured = runtime.spawn_blocking(move || disk_bytes(&folder));
                    measured.await.ok().flatten()
                }
                // Another runtime has no threads to wait on.
                Err(_) => None,
            };
            Ok(StoreStats {
                id: self.id,
                incarnation: figures.incarnation,
                now: self.now(),
                forgotten_until: figures.forgotten_until,
                retention: figures.retention.answer,
                horizon: figures.retention.horizon,
                poisoned: figures.poisoned,
                clock: figures.clock,
                open: figures.open,
                settled: figures.buckets.iter().map(|bucket| bucket.settled).sum(),
                buckets: figures.buckets,
                disk_bytes,
            })
        })
    }

    fn resolve(
        &self,
        key: ScopedKey,
        token: FencingToken,
        resolution: Resolution,
        by: Operator,
    ) -> StoreFuture<'_, (), SettleError> {
        Box::pin(async move {
            let operation = Operation::Resolve {
                key,
                token,
                resolution,
                by,
            };
            self.writer.ask(operation).await?.into_settled()
        })
    }

    fn sweep(&self) -> StoreFuture<'_, Swept> {
        Box::pin(self.writer.sweep())
    }

    fn confirm_clock(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.writer.confirm_clock())
    }
}
