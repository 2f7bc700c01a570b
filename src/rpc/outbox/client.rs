//! The client of an outbox.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use onlyonce_middleware::client::Outcome;
use onlyonce_middleware::client::outbox::{NoteSentLayer, TellPeer, policy};
use onlyonce_middleware::stack::{self, BoxClient, ClientStack};
use onlyonce_storage::outbox::{
    NewCall, OutboxCall, OutboxChange, OutboxEntry, OutboxError, OutboxState, OutboxStore,
};
use onlyonce_storage::{Clock as _, IdempotencyKey, RetentionOptions, SystemClock, kill_point};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tower::{Service, ServiceExt as _};

use super::ended::Ended;
use super::turns::Turns;
use super::{Kept, OutboxFailure, Pending, Resumed, Unfinished};
use crate::rpc::{Channel, ClientAdapter, Method, Reply, Request, Status, TransportError, value};

/// A client whose calls outlive its process.
///
/// The rule: **a call is in the outbox, durably, with its key and its exact bytes, before the first
/// byte of it is sent, and stays there until its answer is acknowledged, it is cancelled before it
/// was ever sent, or somebody says by name that it shall be forgotten although it may have been
/// executed.** A process that was killed finds its calls again in [`pending`](Self::pending), and goes
/// on with the same keys.
///
/// Use it where the caller cannot derive the key again: a key that dies with its process is as good
/// as none. Where the key follows from a business identifier that is itself durable,
/// [`Client::call_as`](crate::rpc::Client::call_as) does without a disk.
///
/// An outbox belongs to one principal and one server (or several that share a store). Cloning it is
/// cheap; clones share everything.
///
/// ```
/// use std::sync::Arc;
///
/// use onlyonce::rpc::{Channel, ChannelOptions, Method, Outbox};
/// use onlyonce::storage::{OutboxOptions, Scope, SledOutbox};
/// # use onlyonce::middleware::stack;
/// # use onlyonce::rpc::{Router, Server, ServerAdapter};
/// # use onlyonce::storage::MemoryStore;
/// # use tower::Layer;
///
/// const ADD: Method<u64, u64> = Method::new("counter.add");
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let routes = Router::new(()).method(&ADD, async |_, (), n: u64| Ok(n + 1)).into_routes();
/// # let layers = stack::server(Arc::new(MemoryStore::default()), ServerAdapter::new(routes.clone()));
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let server = Server::builder().global_scope().dedupe(layers.executions()).build()?;
/// # let serving = server.serve(listener, layers.layer(routes))?;
/// # let address = serving.local_addr().to_string();
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("outbox");
/// let kept = SledOutbox::open_async(&path, Scope::global(), OutboxOptions::new()).await?;
/// let channel = Channel::new(address, ChannelOptions::default());
/// let outbox = Outbox::new(channel, Arc::new(kept));
///
/// // After a crash: what an earlier life has left is made, under the same keys.
/// outbox.resume_all().await?;
///
/// let sum = outbox.call(&ADD, &5).await?;
/// assert_eq!(sum.reply, 6);
/// // Here the caller makes use of it, durably. A crash before this line finds the answer again.
/// outbox.acknowledge(&sum.key).await?;
/// assert!(outbox.pending().await?.is_empty());
/// # Ok(())
/// # }
/// ```
///
/// # Cancellation
///
/// Dropping the future of a call leaves the call in the outbox, as one that may have been sent, or
/// unsent if nothing of it was. If it was not yet written it is not there. Before a call is cancelled
/// or forgotten, whoever is at it is waited for.
#[derive(Clone)]
pub struct Outbox {
    stack: BoxClient<Request, Reply, TransportError>,
    store: Arc<dyn OutboxStore>,
    turns: Arc<Turns>,
    timeout: Option<Duration>,
}

// === impl Outbox ===

impl Outbox {
    /// The calls in `store`, over `channel`, with all defaults: three attempts, 10 s for each, 30 s
    /// for a run of a call; calls that were first sent more than 7 days ago are not sent.
    pub fn new(channel: Channel, store: Arc<dyn OutboxStore>) -> Self {
        let horizon = RetentionOptions::default().horizon;
        Self::with_stack(channel, stack::client(ClientAdapter), store, horizon)
    }

    /// The calls in `store`, over `transport`, usually a [`Channel`], with the layers of `stack`.
    ///
    /// A call that was first sent longer than `horizon` ago, on the server's clock, is not sent: its
    /// outcome is unknown. Take what the server's store remembers
    /// ([`RetentionOptions::horizon`]), or less.
    pub fn with_stack<T>(
        transport: T,
        stack: ClientStack<ClientAdapter>,
        store: Arc<dyn OutboxStore>,
        horizon: Duration,
    ) -> Self
    where
        T: Service<Request, Response = Reply, Error = TransportError>
            + TellPeer
            + Clone
            + Send
            + Sync
            + 'static,
        T::Future: Send + 'static,
    {
        let note_sent = NoteSentLayer::new(Arc::clone(&store)).with_horizon(horizon);
        Self {
            stack: stack.around_noting(transport, &note_sent),
            store,
            turns: Arc::default(),
            timeout: None,
        }
    }

    /// The same outbox, for calls each run of which may take `timeout`, if the stack's deadline is
    /// not sooner. It is written with the call, and holds when that is resumed.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Calls `method` under a new key.
    ///
    /// # Errors
    ///
    /// The handler's fault, or what is known of a call without an answer. But for
    /// [`OutboxFailure::NotWritten`] the call is in the outbox.
    pub async fn call<A, R, F>(
        &self,
        method: &Method<A, R, F>,
        arguments: &A,
    ) -> Result<Kept<R>, OutboxFailure<F>>
    where
        A: Serialize,
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        let call = new_call(IdempotencyKey::unique(), method, arguments)?;
        self.write_and_run(call, method).await
    }

    /// Calls `method` under a key of the caller's own. If the outbox has a call with this key it must
    /// be the same, to the byte, and is gone on with: an answer that is kept is told again.
    ///
    /// The key may have been sent before, by whoever: see
    /// [`Client::call_as`](crate::rpc::Client::call_as). A call that is no longer in the outbox is
    /// first sent now.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub async fn call_as<A, R, F>(
        &self,
        key: IdempotencyKey,
        method: &Method<A, R, F>,
        arguments: &A,
    ) -> Result<Kept<R>, OutboxFailure<F>>
    where
        A: Serialize,
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        let call = new_call(key, method, arguments)?.maybe_sent_elsewhere();
        self.write_and_run(call, method).await
    }

    /// Goes on with a call under its key and with its bytes: gets its answer, from the outbox or from
    /// the server, and makes the call if nobody has.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub async fn resume<A, R, F>(
        &self,
        key: &IdempotencyKey,
        method: &Method<A, R, F>,
    ) -> Result<Kept<R>, OutboxFailure<F>>
    where
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        self.load(key, method).await?;
        match self.run(key).await {
            Ok(answer) => kept(key, &answer),
            Err(ended) => Err(ended.into_failure(key)),
        }
    }

    /// Goes on with every call that may yet get an answer, up to 16 at once and in no order, and says
    /// how each has ended. Their answers are kept, to be [fetched](Self::fetch).
    ///
    /// Where the order matters, resume one after the other: [`pending`](Self::pending) lists the
    /// oldest first.
    ///
    /// # Errors
    ///
    /// When the outbox fails. That a call gets no answer is no error here.
    pub async fn resume_all(&self) -> Result<Vec<Resumed>, OutboxError> {
        let mut calls = self.store.list().await?;
        calls.retain(|call| call.state.is_unfinished());
        let runs = calls.into_iter().map(|call| async move {
            let ended = self.run(&call.key).await.err();
            let state = match self.store.load(&call.key).await {
                Ok(now) => now.entry.state,
                // Somebody has taken its answer meanwhile.
                Err(OutboxError::NotThere) => return Ok(None),
                Err(error) => return Err(error),
            };
            let unfinished = match ended {
                Some(Ended::Unfinished(_, unfinished)) => Some(unfinished),
                Some(Ended::NotKept(error)) => Some(Unfinished::not_kept(&call.key, &error)),
                Some(Ended::Outbox(error)) => return Err(error),
                None => None,
            };
            Ok(Some(Resumed {
                key: call.key,
                method: call.method,
                state,
                unfinished,
            }))
        });
        let ended: Vec<_> = stream::iter(runs)
            .buffer_unordered(RESUMED_AT_ONCE)
            .collect()
            .await;
        ended.into_iter().filter_map(Result::transpose).collect()
    }

    /// All calls in the outbox, the oldest first.
    ///
    /// # Errors
    ///
    /// When the outbox fails.
    pub async fn pending(&self) -> Result<Vec<Pending>, OutboxError> {
        let now = SystemClock.now();
        let pending = |call: OutboxEntry| Pending {
            age: now.since(call.written_at),
            call,
        };
        Ok(self.store.list().await?.into_iter().map(pending).collect())
    }

    /// What a call was made with: to tell what a call of an earlier life was about.
    ///
    /// # Errors
    ///
    /// [`OutboxFailure::Outbox`] where the call is not there, [`OutboxFailure::Unreadable`] where its
    /// bytes are not of the method's type.
    pub async fn arguments<A, R, F>(
        &self,
        key: &IdempotencyKey,
        method: &Method<A, R, F>,
    ) -> Result<A, OutboxFailure<F>>
    where
        A: DeserializeOwned,
    {
        let call = self.load(key, method).await?;
        value::decode(&call.request).map_err(|error| OutboxFailure::Unreadable {
            key: key.clone(),
            text: error.to_string(),
        })
    }

    /// The answer that is kept of a call. Sends nothing; the answer stays.
    ///
    /// # Errors
    ///
    /// The handler's fault, [`OutboxFailure::Unreadable`], or [`OutboxFailure::Outbox`] where the
    /// call has no answer yet or is not there.
    pub async fn fetch<A, R, F>(
        &self,
        key: &IdempotencyKey,
        method: &Method<A, R, F>,
    ) -> Result<Kept<R>, OutboxFailure<F>>
    where
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        let call = self.load(key, method).await?;
        match &call.answer {
            Some(answer) => kept(key, answer),
            None => Err(OutboxFailure::Outbox {
                key: key.clone(),
                error: OutboxError::NotNow {
                    asked: "fetch the answer of",
                    state: call.entry.state.name(),
                },
            }),
        }
    }

    /// Removes a call whose answer the caller has made use of, durably.
    ///
    /// # Errors
    ///
    /// [`OutboxError::NotNow`] for a call that has no answer. When it fails the answer may be
    /// removed or not.
    pub async fn acknowledge(&self, key: &IdempotencyKey) -> Result<(), OutboxError> {
        self.remove(key, OutboxChange::Acknowledge).await
    }

    /// Removes a call that was never sent by this outbox, or no attempt of which was executed.
    /// Waits for whoever is making it.
    ///
    /// # Errors
    ///
    /// [`OutboxError::MaybeExecuted`] for any other that has no answer.
    pub async fn cancel(&self, key: &IdempotencyKey) -> Result<(), OutboxError> {
        self.remove(key, OutboxChange::Cancel).await
    }

    /// Removes a call that may have been executed, and has no answer. Its effect may happen all the
    /// same, also later; nobody will be told. To make sure that it does not,
    /// [`seal`](crate::rpc::Client::seal) its [`ticket`](Pending::ticket) first.
    ///
    /// # Errors
    ///
    /// [`OutboxError::NotNow`] for a call that has an answer or was never sent.
    pub async fn forget_although_maybe_executed(
        &self,
        key: &IdempotencyKey,
    ) -> Result<(), OutboxError> {
        self.remove(key, OutboxChange::ForgetMaybeExecuted).await
    }

    async fn remove(&self, key: &IdempotencyKey, change: OutboxChange) -> Result<(), OutboxError> {
        let _turn = self.turns.take(key).await;
        self.store.change(key, change).await?;
        kill_point!("outbox: call removed, nobody told");
        Ok(())
    }

    async fn write_and_run<A, R, F>(
        &self,
        call: NewCall,
        method: &Method<A, R, F>,
    ) -> Result<Kept<R>, OutboxFailure<F>>
    where
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        let key = call.key.clone();
        kill_point!("outbox: call made, not written");
        self.store
            .write(call.timeout(self.timeout))
            .await
            .map_err(OutboxFailure::NotWritten)?;
        kill_point!("outbox: call written, not sent");
        self.resume(&key, method).await
    }

    /// The call, if it is one of `method`.
    async fn load<A, R, F>(
        &self,
        key: &IdempotencyKey,
        method: &Method<A, R, F>,
    ) -> Result<OutboxCall, OutboxFailure<F>> {
        let failed = |error| OutboxFailure::Outbox {
            key: key.clone(),
            error,
        };
        let call = self.store.load(key).await.map_err(failed)?;
        match call.entry.method == method.name() {
            true => Ok(call),
            false => Err(failed(OutboxError::Mismatch)),
        }
    }

    /// One run of a call: its answer is kept when this returns it.
    async fn run(&self, key: &IdempotencyKey) -> Result<Bytes, Ended> {
        let _turn = self.turns.take(key).await;
        let call = self.store.load(key).await.map_err(Ended::Outbox)?;
        match (call.answer, &call.entry.state) {
            (Some(answer), _) => return Ok(answer),
            (None, OutboxState::Unknown { because, .. }) => {
                return Err(Ended::given_up(key, *because));
            }
            (None, _) => {}
        }
        let ticket = policy::ticket(&call.entry);
        let maybe_executed = ticket.maybe_executed;
        let request = Request::new(call.entry.method.as_str(), call.request).ticket(ticket);
        let made = request.call();
        let attempts_made = || made.get().map_or(0, |made| made.attempts());
        let attempts = self.stack.clone().oneshot(request);
        let within = call.entry.timeout.unwrap_or(Duration::MAX);
        match timeout(within, attempts).await {
            Ok(Ok(reply)) if reply.status.carries_answer() => self.keep(key, reply.body).await,
            Ok(Ok(reply)) => {
                // The stack answers a refusal only where nothing was executed. The state of a key is
                // none, and no answer either.
                let outcome = match reply.status {
                    Status::State => Outcome::Unknown,
                    _ => Outcome::NotExecuted,
                };
                let unfinished = Unfinished::refused(key, attempts_made(), &reply);
                self.settle(key, outcome, unfinished).await
            }
            Ok(Err(error)) => {
                let (outcome, unfinished) = Unfinished::of(key, &error);
                self.settle(key, outcome, unfinished).await
            }
            Err(_) => {
                // What was never stamped was never handed to the transport.
                let made = made
                    .get()
                    .map_or(maybe_executed, |made| made.maybe_executed());
                let outcome = match made {
                    true => Outcome::Unknown,
                    false => Outcome::NotExecuted,
                };
                let unfinished = Unfinished::elapsed(key, attempts_made());
                self.settle(key, outcome, unfinished).await
            }
        }
    }

    async fn keep(&self, key: &IdempotencyKey, answer: Bytes) -> Result<Bytes, Ended> {
        kill_point!("outbox: answer there, not kept");
        let change = OutboxChange::Answer(answer.clone());
        let kept = self.store.change(key, change).await;
        kept.map_err(Ended::NotKept)?;
        kill_point!("outbox: answer kept, nobody told");
        Ok(answer)
    }

    /// Notes what the end of a run leaves behind.
    async fn settle(
        &self,
        key: &IdempotencyKey,
        outcome: Outcome,
        unfinished: Unfinished,
    ) -> Result<Bytes, Ended> {
        if let Some(change) = policy::settle(outcome, unfinished.cannot_tell) {
            // OK to ignore because without the note more is held possible, not less; and an outbox
            // that fails says so to whoever asks it next.
            let _ = self.store.change(key, change).await;
            kill_point!("outbox: run settled, nobody told");
        }
        Err(Ended::Unfinished(outcome, unfinished))
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("store", &self.store)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

fn new_call<A: Serialize, R, F>(
    key: IdempotencyKey,
    method: &Method<A, R, F>,
    arguments: &A,
) -> Result<NewCall, OutboxFailure<F>> {
    match value::encode(arguments) {
        Ok(request) => Ok(NewCall::new(key, method.name(), request)),
        Err(error) => Err(OutboxFailure::Unwritable(error.to_string())),
    }
}

fn kept<R, F>(key: &IdempotencyKey, answer: &[u8]) -> Result<Kept<R>, OutboxFailure<F>>
where
    R: DeserializeOwned,
    F: DeserializeOwned,
{
    let key = key.clone();
    match value::decode_result(answer) {
        Ok(Ok(reply)) => Ok(Kept { key, reply }),
        Ok(Err(fault)) => Err(OutboxFailure::Fault { key, fault }),
        Err(error) => Err(OutboxFailure::Unreadable {
            key,
            text: error.to_string(),
        }),
    }
}

/// So that a server which has just come back is not met by all that waited for it at once.
const RESUMED_AT_ONCE: usize = 16;
