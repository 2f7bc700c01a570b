//! A store with a suspension before and after everything that it does.

use std::sync::Arc;
use std::time::Duration;

use onlyonce::storage::{
    Answer, AnswerBytes, Claim, ClaimOutcome, ClaimRequest, DoubtReason, FencingToken, Inspect,
    KeyState, KeyView, ListPage, ListRequest, MemoryStore, Operator, Question, Resolution,
    ScopedKey, SettleError, Store, StoreFuture, StoreId, StoreStats, Swept, Timestamp,
};
use tokio::task::yield_now;

/// The memory store does everything at its first poll, and the sled store waits as often as its
/// thread makes it. This one waits twice, so that a sweep over it is exhaustive: what is cancelled
/// at the first wait was not done, at the second it was and nobody knows.
#[derive(Debug)]
pub struct Waiting(MemoryStore);

impl Waiting {
    pub fn store() -> Arc<Self> {
        Arc::new(Self(MemoryStore::new()))
    }
}

fn around<'a, T: Send + 'a, E: Send + 'a>(
    operation: StoreFuture<'a, T, E>,
) -> StoreFuture<'a, T, E> {
    Box::pin(async move {
        yield_now().await;
        let done = operation.await;
        yield_now().await;
        done
    })
}

impl Store for Waiting {
    fn id(&self) -> StoreId {
        self.0.id()
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn claim(&self, request: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        around(self.0.claim(request))
    }

    fn renew<'a>(
        &'a self,
        claim: &'a mut Claim,
        lease: Duration,
    ) -> StoreFuture<'a, (), SettleError> {
        around(self.0.renew(claim, lease))
    }

    fn complete(&self, claim: Claim, answer: Answer) -> StoreFuture<'_, (), SettleError> {
        around(self.0.complete(claim, answer))
    }

    fn release(&self, claim: Claim) -> StoreFuture<'_, (), SettleError> {
        around(self.0.release(claim))
    }

    fn doubt(
        &self,
        claim: Claim,
        reason: DoubtReason,
        answer: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError> {
        around(self.0.doubt(claim, reason, answer))
    }

    fn ask(
        &self,
        question: Question,
        key: ScopedKey,
        first_sent: Option<Timestamp>,
    ) -> StoreFuture<'_, KeyState> {
        around(self.0.ask(question, key, first_sent))
    }
}

impl Inspect for Waiting {
    fn list(&self, request: ListRequest) -> StoreFuture<'_, ListPage> {
        around(self.0.list(request))
    }

    fn show(&self, key: ScopedKey, answer: AnswerBytes) -> StoreFuture<'_, KeyView> {
        around(self.0.show(key, answer))
    }

    fn stats(&self) -> StoreFuture<'_, StoreStats> {
        around(self.0.stats())
    }

    fn resolve(
        &self,
        key: ScopedKey,
        token: FencingToken,
        resolution: Resolution,
        by: Operator,
    ) -> StoreFuture<'_, (), SettleError> {
        around(self.0.resolve(key, token, resolution, by))
    }

    fn sweep(&self) -> StoreFuture<'_, Swept> {
        around(self.0.sweep())
    }

    fn confirm_clock(&self) -> StoreFuture<'_, ()> {
        around(self.0.confirm_clock())
    }
}
