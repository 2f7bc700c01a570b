//! A store that counts what it is asked, and fails when it is told to.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use onlyonce_storage::journal::{AbandonedPage, StepResolution};
use onlyonce_storage::{
    Answer, Claim, ClaimOutcome, ClaimRequest, Cursor, DoubtReason, FencingToken, Journal,
    KeyDigest, KeyState, NoteError, Question, ScopedKey, SettleError, StepName, StepNote, Store,
    StoreError, StoreFuture, StoreId, Timestamp,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug)]
pub struct Watched {
    inner: Arc<dyn Store>,
    pub claims: AtomicUsize,
    pub settlements: AtomicUsize,
    pub refuse_claims: AtomicBool,
    pub slow_claims: AtomicBool,
    pub refuse_completions: AtomicBool,
    pub hang_settlements: AtomicBool,
    /// Everything takes a few polls before it reaches the store, and after.
    pub dawdle: AtomicBool,
    pub refuse_renewals: AtomicBool,
    pub panic_in_completions: AtomicBool,
    /// It keeps journals, as the store behind it does.
    pub journals: AtomicBool,
    /// So many notes are taken, and the others are not, up to the number behind it.
    pub notes_refused: Mutex<std::ops::Range<usize>>,
    pub notes: AtomicUsize,
    /// What another process tells about any key.
    pub told: Arc<Notify>,
}

impl Watched {
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            claims: AtomicUsize::new(0),
            settlements: AtomicUsize::new(0),
            refuse_claims: AtomicBool::new(false),
            slow_claims: AtomicBool::new(false),
            refuse_completions: AtomicBool::new(false),
            hang_settlements: AtomicBool::new(false),
            dawdle: AtomicBool::new(false),
            refuse_renewals: AtomicBool::new(false),
            panic_in_completions: AtomicBool::new(false),
            journals: AtomicBool::new(false),
            notes_refused: Mutex::new(0..0),
            notes: AtomicUsize::new(0),
            told: Arc::default(),
        })
    }
}

impl Watched {
    fn answering<'a, T, E>(&self, answer: StoreFuture<'a, T, E>) -> StoreFuture<'a, T, E>
    where
        T: Send + 'a,
        E: Send + 'a,
    {
        if !self.dawdle.load(Ordering::SeqCst) {
            return answer;
        }
        Box::pin(async move {
            yield_twice().await;
            let answer = answer.await;
            yield_twice().await;
            answer
        })
    }
}

pub async fn yield_twice() {
    for _ in 0..2 {
        tokio::task::yield_now().await;
    }
}

pub fn unreachable_store() -> StoreError {
    StoreError::Unavailable {
        reason: "connection refused".to_owned(),
        retry_after: Duration::from_secs(2),
    }
}

impl Store for Watched {
    fn until_told(&self, _: &ScopedKey) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(Arc::clone(&self.told).notified_owned())
    }

    fn journal(&self) -> Option<&dyn Journal> {
        self.journals.load(Ordering::SeqCst).then_some(self)
    }

    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        if self.refuse_claims.load(Ordering::SeqCst) {
            return Box::pin(async { Err(unreachable_store()) });
        }
        if self.slow_claims.load(Ordering::SeqCst) {
            return Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                self.inner.claim(request).await
            });
        }
        self.answering(self.inner.claim(request))
    }

    fn renew<'a>(
        &'a self,
        claim: &'a mut Claim,
        lease: Duration,
    ) -> StoreFuture<'a, (), SettleError> {
        if self.refuse_renewals.load(Ordering::SeqCst) {
            return Box::pin(async { Err(unreachable_store().into()) });
        }
        self.inner.renew(claim, lease)
    }

    fn complete(&self, claim: Claim, answer: Answer) -> StoreFuture<'_, (), SettleError> {
        self.settlements.fetch_add(1, Ordering::SeqCst);
        if self.hang_settlements.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        assert!(!self.panic_in_completions.load(Ordering::SeqCst));
        if self.refuse_completions.load(Ordering::SeqCst) {
            return Box::pin(async move {
                drop(claim);
                Err(unreachable_store().into())
            });
        }
        self.answering(self.inner.complete(claim, answer))
    }

    fn release(&self, claim: Claim) -> StoreFuture<'_, (), SettleError> {
        self.settlements.fetch_add(1, Ordering::SeqCst);
        if self.hang_settlements.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        self.answering(self.inner.release(claim))
    }

    fn doubt(
        &self,
        claim: Claim,
        reason: DoubtReason,
        answer: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError> {
        self.settlements.fetch_add(1, Ordering::SeqCst);
        if self.hang_settlements.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        self.answering(self.inner.doubt(claim, reason, answer))
    }

    fn ask(
        &self,
        question: Question,
        key: ScopedKey,
        first_sent: Option<Timestamp>,
    ) -> StoreFuture<'_, KeyState> {
        self.answering(self.inner.ask(question, key, first_sent))
    }
}

impl Journal for Watched {
    fn note(
        &self,
        key: KeyDigest,
        token: FencingToken,
        note: StepNote,
    ) -> StoreFuture<'_, (), NoteError> {
        let number = self.notes.fetch_add(1, Ordering::SeqCst);
        if self.notes_refused.lock().contains(&number) {
            return Box::pin(async { Err(unreachable_store().into()) });
        }
        self.inner.journal().unwrap().note(key, token, note)
    }

    fn abandoned(&self, after: Option<Cursor>, calls_max: usize) -> StoreFuture<'_, AbandonedPage> {
        self.inner.journal().unwrap().abandoned(after, calls_max)
    }

    fn resolve_step(
        &self,
        key: ScopedKey,
        token: FencingToken,
        name: StepName,
        resolution: StepResolution,
    ) -> StoreFuture<'_, (), SettleError> {
        let journal = self.inner.journal().unwrap();
        journal.resolve_step(key, token, name, resolution)
    }
}
