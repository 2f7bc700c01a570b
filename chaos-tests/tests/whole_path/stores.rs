//! The stores that every claim is checked on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onlyonce::storage::{
    Answer, Claim, ClaimOutcome, ClaimRequest, DoubtReason, KeyState, MemoryStore, OpenError,
    Question, ScopedKey, SettleError, SledOptions, SledStore, Store, StoreError, StoreFuture,
    StoreId, Timestamp,
};
use tempfile::TempDir;
use tokio::sync::watch;

/// Runs a check on a new store of each kind.
macro_rules! on_every_store {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        mod on_memory {
            $($(#[$attribute])* #[tokio::test] async fn $name() {
                let store = std::sync::Arc::new(onlyonce::storage::MemoryStore::new());
                super::$name(store).await;
            })*
        }
        mod on_sled {
            $($(#[$attribute])* #[tokio::test] async fn $name() {
                let folder = crate::stores::Folder::new();
                super::$name(folder.open().await).await;
            })*
        }
    };
}
pub(crate) use on_every_store;

/// Where a sled store is opened, and opened again.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub async fn open(&self) -> Arc<SledStore> {
        Arc::new(self.try_open().await.unwrap())
    }

    pub async fn try_open(&self) -> Result<SledStore, OpenError> {
        let path: PathBuf = self.0.path().join("store");
        SledStore::open_async(path, SledOptions::new()).await
    }
}

/// A store that refuses claims while it is told to.
#[derive(Debug)]
pub struct Unreachable {
    inner: MemoryStore,
    pub refuses: AtomicBool,
}

impl Unreachable {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(),
            refuses: AtomicBool::new(true),
        })
    }
}

impl Store for Unreachable {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        if self.refuses.load(Ordering::SeqCst) {
            return Box::pin(async {
                Err(StoreError::Unavailable {
                    reason: "connection refused".to_owned(),
                    retry_after: Duration::from_millis(20),
                })
            });
        }
        self.inner.claim(request)
    }

    fn renew<'a>(
        &'a self,
        claim: &'a mut Claim,
        lease: Duration,
    ) -> StoreFuture<'a, (), SettleError> {
        self.inner.renew(claim, lease)
    }

    fn complete(&self, claim: Claim, answer: Answer) -> StoreFuture<'_, (), SettleError> {
        self.inner.complete(claim, answer)
    }

    fn release(&self, claim: Claim) -> StoreFuture<'_, (), SettleError> {
        self.inner.release(claim)
    }

    fn doubt(
        &self,
        claim: Claim,
        reason: DoubtReason,
        answer: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError> {
        self.inner.doubt(claim, reason, answer)
    }

    fn ask(
        &self,
        question: Question,
        key: ScopedKey,
        first_sent: Option<Timestamp>,
    ) -> StoreFuture<'_, KeyState> {
        self.inner.ask(question, key, first_sent)
    }
}

/// A store that answers nothing until it is told to go on.
#[derive(Debug)]
pub struct Stalled {
    inner: MemoryStore,
    answers: watch::Sender<bool>,
    completes: watch::Sender<bool>,
    asked: watch::Sender<usize>,
    busy: watch::Sender<usize>,
}

impl Stalled {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(),
            answers: watch::Sender::new(false),
            completes: watch::Sender::new(true),
            asked: watch::Sender::new(0),
            busy: watch::Sender::new(0),
        })
    }

    pub fn go_on(&self) {
        self.answers.send_replace(true);
        self.completes.send_replace(true);
    }

    pub fn stall_completions(&self) {
        self.completes.send_replace(false);
    }

    /// How many claims were asked for.
    pub fn asked(&self) -> usize {
        *self.asked.borrow()
    }

    pub async fn until_asked(&self, claims: usize) {
        let mut asked = self.asked.subscribe();
        asked.wait_for(|asked| *asked >= claims).await.unwrap();
    }

    /// Until every claim that was asked for is given back or settled.
    pub async fn until_idle(&self) {
        let mut busy = self.busy.subscribe();
        busy.wait_for(|busy| *busy == 0).await.unwrap();
    }

    async fn wait(gate: &watch::Sender<bool>) {
        gate.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

impl Store for Stalled {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        self.asked.send_modify(|asked| *asked += 1);
        self.busy.send_modify(|busy| *busy += 1);
        Box::pin(async move {
            Self::wait(&self.answers).await;
            self.inner.claim(request).await
        })
    }

    fn renew<'a>(
        &'a self,
        claim: &'a mut Claim,
        lease: Duration,
    ) -> StoreFuture<'a, (), SettleError> {
        self.inner.renew(claim, lease)
    }

    fn complete(&self, claim: Claim, answer: Answer) -> StoreFuture<'_, (), SettleError> {
        Box::pin(async move {
            Self::wait(&self.completes).await;
            let completed = self.inner.complete(claim, answer).await;
            self.busy.send_modify(|busy| *busy -= 1);
            completed
        })
    }

    fn release(&self, claim: Claim) -> StoreFuture<'_, (), SettleError> {
        Box::pin(async move {
            let released = self.inner.release(claim).await;
            self.busy.send_modify(|busy| *busy -= 1);
            released
        })
    }

    fn doubt(
        &self,
        claim: Claim,
        reason: DoubtReason,
        answer: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError> {
        self.inner.doubt(claim, reason, answer)
    }

    fn ask(
        &self,
        question: Question,
        key: ScopedKey,
        first_sent: Option<Timestamp>,
    ) -> StoreFuture<'_, KeyState> {
        Box::pin(async move {
            Self::wait(&self.answers).await;
            self.inner.ask(question, key, first_sent).await
        })
    }
}
