//! The outbox itself: a handle on its thread.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::open::open;
use super::sync::GroupSync;
use super::writer::{Caller, Message, Poison, Writer};
use super::{OutboxOpenError, OutboxOptions};
use crate::outbox::{
    NewCall, OutboxCall, OutboxChange, OutboxEntry, OutboxError, OutboxStore, Written,
};
use crate::{IdempotencyKey, Scope, StoreFuture, StoreId};

/// A durable [`OutboxStore`] in a directory, for one process at a time.
///
/// What it says is kept survives a crash of the process, of the machine and a power cut. It belongs
/// to one scope: the calls of one principal, to one server. Opened as another it is refused, because
/// under another principal its keys are new.
///
/// All reads and writes happen on one thread of its own, in groups that share one sync, so no method
/// blocks a runtime. Callers wait for their turn when 1,024 operations are queued. After the first
/// failed write it answers [`OutboxError::Poisoned`] until it is opened again.
///
/// Drop the last handle or, to know when the directory is free, [`close`](Self::close) it.
///
/// ```
/// use onlyonce_storage::outbox::{NewCall, OutboxChange, OutboxError, OutboxState, OutboxStore};
/// use onlyonce_storage::{IdempotencyKey, OutboxOptions, Scope, SledOutbox};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("outbox");
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let shop = Scope::principal("shop-7")?;
/// let key = IdempotencyKey::parse("order-4711")?;
/// let outbox = SledOutbox::open_async(&path, shop.clone(), OutboxOptions::new()).await?;
/// outbox.write(NewCall::new(key.clone(), "bank.transfer", "100 to bob".into())).await?;
/// outbox.close().await?;
///
/// let outbox = SledOutbox::open_async(&path, shop, OutboxOptions::new()).await?;
/// let call = outbox.load(&key).await?;
/// assert_eq!(call.request, "100 to bob");
/// assert_eq!(call.entry.state, OutboxState::Unsent);
/// outbox.change(&key, OutboxChange::Cancel).await?;
/// assert_eq!(outbox.load(&key).await.unwrap_err(), OutboxError::NotThere);
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SledOutbox {
    id: StoreId,
    // `None` only while it is dropped.
    queue: Option<mpsc::Sender<Message>>,
    poison: Poison,
    ended: watch::Receiver<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

// === impl SledOutbox ===

impl SledOutbox {
    /// Opens the outbox in the directory `path`, or makes one there if it is absent or empty.
    ///
    /// `scope` says whose calls these are: the principal that the server takes the client's
    /// credential for, [`Scope::global`] where the server has only that. It is the same whenever
    /// the outbox is opened, also with a credential that was refreshed.
    ///
    /// Blocks while everything in it is read and checked; in async code use
    /// [`open_async`](Self::open_async).
    ///
    /// # Errors
    ///
    /// See [`OutboxOpenError`]. At once where another process has it open.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "options are built for one outbox and given away"
    )]
    pub fn open(
        path: impl AsRef<Path>,
        scope: Scope,
        options: OutboxOptions,
    ) -> Result<Self, OutboxOpenError> {
        Self::open_with(path.as_ref(), &scope, &options, |syncer| syncer)
    }

    pub(super) fn open_with(
        path: &Path,
        scope: &Scope,
        options: &OutboxOptions,
        seam: impl FnOnce(Box<dyn GroupSync>) -> Box<dyn GroupSync>,
    ) -> Result<Self, OutboxOpenError> {
        let opened = open(path, scope, options)?;
        let id = opened.id;
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let (tell_end, ended) = watch::channel(false);
        let poison = Poison::default();
        let clock = Arc::clone(&options.clock);
        let writer = Writer::new(opened, clock, Arc::clone(&poison), seam);
        let thread = std::thread::Builder::new()
            .name("onlyonce-outbox".to_owned())
            .spawn(move || {
                writer.run(messages);
                tell_end.send_replace(true);
            })
            .map_err(|source| OutboxOpenError::Io {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            id,
            queue: Some(queue),
            poison,
            ended,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// [`open`](Self::open) on a thread that may block. Dropping the future does not stop it; the
    /// outbox is then opened and dropped.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_async(
        path: impl AsRef<Path>,
        scope: Scope,
        options: OutboxOptions,
    ) -> Result<Self, OutboxOpenError> {
        let path = path.as_ref().to_owned();
        let shown = path.clone();
        tokio::task::spawn_blocking(move || Self::open(path, scope, options))
            .await
            .unwrap_or_else(|error| {
                Err(OutboxOpenError::Io {
                    path: shown,
                    source: error.into(),
                })
            })
    }

    /// The random identity of this outbox, made once.
    #[must_use]
    pub const fn id(&self) -> StoreId {
        self.id
    }

    /// Finishes what was asked so far and frees the directory: afterwards it can be opened again.
    /// What is asked later is answered [`OutboxError::Closed`]. Dropping the future does not stop
    /// the closing.
    ///
    /// # Errors
    ///
    /// [`OutboxError::Poisoned`] when an earlier write had failed. The directory is free all the
    /// same.
    pub async fn close(&self) -> Result<(), OutboxError> {
        if let Some(queue) = &self.queue {
            // OK to ignore because a thread that takes nothing more is ending.
            let _ = queue.send(Message::Close).await;
        }
        let mut ended = self.ended.clone();
        // OK to ignore because a thread that is gone has ended.
        let _ = ended.wait_for(|ended| *ended).await;
        match self.failure() {
            OutboxError::Closed => Ok(()),
            poisoned => Err(poisoned),
        }
    }

    async fn ask<T>(&self, make: impl FnOnce(Caller<T>) -> Message) -> Result<T, OutboxError> {
        let queue = self.queue.as_ref().ok_or(OutboxError::Closed)?;
        let place = queue.reserve().await.map_err(|_| self.failure())?;
        let (caller, reply) = oneshot::channel();
        place.send(make(caller));
        reply.await.map_err(|_| self.failure())?
    }

    fn failure(&self) -> OutboxError {
        match &*self.poison.lock() {
            None => OutboxError::Closed,
            Some(reason) => OutboxError::Poisoned(reason.clone()),
        }
    }
}

impl OutboxStore for SledOutbox {
    fn write(&self, call: NewCall) -> StoreFuture<'_, Written, OutboxError> {
        Box::pin(self.ask(|caller| Message::Write(call, caller)))
    }

    fn change(
        &self,
        key: &IdempotencyKey,
        change: OutboxChange,
    ) -> StoreFuture<'_, (), OutboxError> {
        let key = key.clone();
        Box::pin(self.ask(|caller| Message::Change(key, change, caller)))
    }

    fn load(&self, key: &IdempotencyKey) -> StoreFuture<'_, OutboxCall, OutboxError> {
        let key = key.clone();
        Box::pin(self.ask(|caller| Message::Load(key, caller)))
    }

    fn list(&self) -> StoreFuture<'_, Vec<OutboxEntry>, OutboxError> {
        Box::pin(self.ask(Message::List))
    }
}

impl Drop for SledOutbox {
    fn drop(&mut self) {
        self.queue = None;
        let thread = self.thread.lock().take();
        let on_runtime = tokio::runtime::Handle::try_current().is_ok();
        if let Some(thread) = thread
            && !on_runtime
        {
            // OK to ignore because a thread that panicked has ended too.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for SledOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledOutbox")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// More operations wait for a place.
const QUEUE_MAX: usize = 1_024;
