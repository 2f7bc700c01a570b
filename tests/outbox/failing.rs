//! The outbox fails at each of its writes: then nothing is sent, or nothing is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::rpc::OutboxFailure;
use onlyonce::storage::outbox::{
    NewCall, OutboxCall, OutboxChange, OutboxEntry, OutboxError, OutboxState, OutboxStore, Written,
};
use onlyonce::storage::{IdempotencyKey, MemoryStore, StoreFuture};
use parking_lot::Mutex;

use super::shop::{Folder, NOBODY, Opened, PAY, client, shop};

/// Which write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Answer,
    Never,
    Sent,
    Write,
    /// It writes, and its answer is lost.
    WriteAnswer,
}

/// An outbox on a disk that fails.
#[derive(Debug)]
struct Failing {
    inner: Arc<dyn OutboxStore>,
    fails: Mutex<Fails>,
}

impl Failing {
    fn on(opened: &Opened, fails: Fails) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::<onlyonce::storage::SledOutbox>::clone(&opened.kept),
            fails: Mutex::new(fails),
        })
    }
}

fn full<T: Send + 'static>() -> StoreFuture<'static, T, OutboxError> {
    Box::pin(async { Err(OutboxError::Poisoned("no space left".to_owned())) })
}

impl OutboxStore for Failing {
    fn write(&self, call: NewCall) -> StoreFuture<'_, Written, OutboxError> {
        match *self.fails.lock() {
            Fails::Write => full(),
            Fails::WriteAnswer => Box::pin(async {
                self.inner.write(call).await?;
                Err(OutboxError::Unavailable("it did not answer".to_owned()))
            }),
            _ => self.inner.write(call),
        }
    }

    fn change(
        &self,
        key: &IdempotencyKey,
        change: OutboxChange,
    ) -> StoreFuture<'_, (), OutboxError> {
        match (*self.fails.lock(), &change) {
            (Fails::Sent, OutboxChange::MarkSent(_)) | (Fails::Answer, OutboxChange::Answer(_)) => {
                full()
            }
            _ => self.inner.change(key, change),
        }
    }

    fn load(&self, key: &IdempotencyKey) -> StoreFuture<'_, OutboxCall, OutboxError> {
        self.inner.load(key)
    }

    fn list(&self) -> StoreFuture<'_, Vec<OutboxEntry>, OutboxError> {
        self.inner.list()
    }
}

// G6
#[tokio::test]
async fn a_call_that_cannot_be_written_is_not_sent() {
    let paid = Arc::<AtomicU32>::default();
    let serving = shop(Arc::default(), Arc::clone(&paid)).await;
    let opened = Folder::new().open(NOBODY).await;
    let failing = Failing::on(&opened, Fails::Write);
    let outbox = client(&serving.local_addr(), failing);
    let failed = outbox.call(&PAY, &5).await.unwrap_err();
    // A write that failed may be there all the same: whoever is told so goes on under its key.
    assert!(matches!(failed, OutboxFailure::Outbox { .. }), "{failed:?}");
    assert!(failed.key().is_some() && failed.to_string().contains("may be in the outbox"));
    assert_eq!(paid.load(Ordering::SeqCst), 0);
    assert_eq!(opened.calls().await, []);
}

// G7
#[tokio::test]
async fn a_call_whose_writing_was_not_answered_names_its_key_and_happens_once() {
    let paid = Arc::<AtomicU32>::default();
    let serving = shop(Arc::default(), Arc::clone(&paid)).await;
    let opened = Folder::new().open(NOBODY).await;
    let failing = Failing::on(&opened, Fails::WriteAnswer);
    let outbox = client(&serving.local_addr(), Arc::<Failing>::clone(&failing));
    let failed = outbox.call(&PAY, &5).await.unwrap_err();
    let OutboxFailure::Outbox { key, .. } = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(paid.load(Ordering::SeqCst), 0);

    *failing.fails.lock() = Fails::Never;
    let paid_once = outbox.call_as(key, &PAY, &5).await.unwrap();
    assert_eq!(paid_once.reply, 10_005);
    outbox.resume_all().await.unwrap();
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

// G6
#[tokio::test]
async fn a_call_that_cannot_be_noted_as_sent_is_not_sent() {
    let paid = Arc::<AtomicU32>::default();
    let serving = shop(Arc::default(), Arc::clone(&paid)).await;
    let opened = Folder::new().open(NOBODY).await;
    let failing = Failing::on(&opened, Fails::Sent);
    let outbox = client(&serving.local_addr(), Arc::<Failing>::clone(&failing));
    let failed = outbox.call(&PAY, &5).await.unwrap_err();
    let OutboxFailure::NotExecuted(unfinished) = &failed else {
        panic!("{failed:?}");
    };
    assert!(unfinished.last.contains("no space left"), "{unfinished}");
    assert_eq!(unfinished.attempts, 1, "it would fail again");
    assert_eq!(paid.load(Ordering::SeqCst), 0);
    assert_eq!(opened.state().await, OutboxState::Unsent);

    *failing.fails.lock() = Fails::Never;
    let key = failed.key().unwrap();
    assert_eq!(outbox.resume(key, &PAY).await.unwrap().reply, 10_005);
}

// G6, E7
#[tokio::test]
async fn an_answer_that_cannot_be_kept_is_not_told_and_comes_again() {
    let (store, paid) = (Arc::<MemoryStore>::default(), Arc::<AtomicU32>::default());
    let serving = shop(store, Arc::clone(&paid)).await;
    let folder = Folder::new();
    let opened = folder.open(NOBODY).await;
    let failing = Failing::on(&opened, Fails::Answer);
    let outbox = client(&serving.local_addr(), Arc::<Failing>::clone(&failing));
    let failed = outbox.call(&PAY, &5).await.unwrap_err();
    assert!(
        matches!(failed, OutboxFailure::AnswerNotKept { .. }),
        "{failed:?}"
    );
    let key = failed.key().unwrap().clone();
    drop((outbox, failing));
    opened.end().await;

    let opened = folder.open(serving.local_addr()).await;
    assert_eq!(
        opened.outbox.resume(&key, &PAY).await.unwrap().reply,
        10_005
    );
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

/// Whatever is not in the outbox is not sent through it.
#[tokio::test]
async fn a_call_that_was_removed_while_it_waited_is_not_sent() {
    let paid = Arc::<AtomicU32>::default();
    let folder = Folder::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let opened = folder.open(address).await;
    let outbox = opened.outbox.clone();
    // Nobody shakes hands yet, so the call waits for its connection.
    let calling = tokio::spawn(async move { outbox.call(&PAY, &5).await });
    while opened.calls().await.is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let key = opened.key().await;
    // Behind the back of the run, for whose end the outbox would wait.
    opened
        .kept
        .change(&key, OutboxChange::Cancel)
        .await
        .unwrap();
    let _serving = super::shop::shop_at(listener, Arc::default(), Arc::clone(&paid));
    let failed = calling.await.unwrap().unwrap_err();
    // On a loaded machine it had perhaps not come as far.
    let just = matches!(
        failed,
        OutboxFailure::NotExecuted(_) | OutboxFailure::Outbox { .. }
    );
    assert!(just, "{failed:?}");
    assert_eq!(paid.load(Ordering::SeqCst), 0);
}
