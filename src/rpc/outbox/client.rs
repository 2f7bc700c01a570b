//! The client of an outbox.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onlyonce_middleware::client::Outcome;
use onlyonce_middleware::client::outbox::{KeptCalls, NoteSentLayer, TellPeer, Unanswered, policy};
use onlyonce_middleware::stack::{self, BoxClient, ClientStack};
use onlyonce_storage::outbox::{NewCall, OutboxCall, OutboxChange, OutboxError, OutboxStore};
use onlyonce_storage::{IdempotencyKey, RetentionOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tower::{Service, ServiceExt as _};

use super::ended::{Ended, into_failure, into_unfinished};
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
/// unsent if nothing of it was. If it was not yet written it may be there or not, also a while later:
/// look for it in [`pending`](Self::pending) before you make it anew under another key. Before a call is
/// cancelled or forgotten, whoever is at it is waited for.
#[derive(Clone)]
pub struct Outbox {
    stack: BoxClient<Request, Reply, TransportError>,
    calls: KeptCalls,
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
            calls: KeptCalls::new(store),
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
    /// [`OutboxFailure::NotWritten`] and [`OutboxFailure::Unwritable`] the call is in the outbox, or
    /// may be: where the outbox failed, go on under the key that the error names.
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
            Err(ended) => Err(into_failure(ended, key)),
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
        let ran = self.calls.run_all(async |key| self.run(&key).await).await?;
        let resumed = ran.into_iter().map(|ran| Resumed {
            unfinished: ran
                .ended
                .and_then(|ended| into_unfinished(ended, &ran.call.key)),
            key: ran.call.key,
            method: ran.call.method,
            state: ran.state,
        });
        Ok(resumed.collect())
    }

    /// All calls in the outbox, the oldest first.
    ///
    /// # Errors
    ///
    /// When the outbox fails.
    pub async fn pending(&self) -> Result<Vec<Pending>, OutboxError> {
        let calls = self.calls.list().await?;
        let pending = |(age, call)| Pending { age, call };
        Ok(calls.into_iter().map(pending).collect())
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
        self.calls.remove(key, OutboxChange::Acknowledge).await
    }

    /// Removes a call that was never sent by this outbox, or no attempt of which was executed.
    /// Waits for whoever is making it.
    ///
    /// # Errors
    ///
    /// [`OutboxError::MaybeExecuted`] for any other that has no answer.
    pub async fn cancel(&self, key: &IdempotencyKey) -> Result<(), OutboxError> {
        self.calls.remove(key, OutboxChange::Cancel).await
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
        self.calls
            .remove(key, OutboxChange::ForgetMaybeExecuted)
            .await
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
        let written = self.calls.write(call.timeout(self.timeout)).await;
        written.map_err(|error| match error.rules_out_writing() {
            true => OutboxFailure::NotWritten(error),
            false => OutboxFailure::Outbox {
                key: key.clone(),
                error,
            },
        })?;
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
        let call = self.calls.store().load(key).await.map_err(failed)?;
        match call.entry.method == method.name() {
            true => Ok(call),
            false => Err(failed(OutboxError::Mismatch)),
        }
    }

    /// One run of a call: its answer is kept when this returns it.
    async fn run(&self, key: &IdempotencyKey) -> Result<Bytes, Ended> {
        self.calls.run(key, |call| self.make(call)).await
    }

    /// Makes a call once, up to its answer.
    async fn make(&self, call: OutboxCall) -> Result<Bytes, Unanswered<Unfinished>> {
        let ticket = policy::ticket(&call.entry);
        let (key, maybe_executed) = (&call.entry.key, ticket.maybe_executed);
        let request = Request::new(call.entry.method.as_str(), call.request).ticket(ticket);
        let made = request.call();
        let attempts_made = || made.get().map_or(0, |made| made.attempts());
        let attempts = self.stack.clone().oneshot(request);
        let within = call.entry.timeout.unwrap_or(Duration::MAX);
        let (outcome, unfinished) = match timeout(within, attempts).await {
            Ok(Ok(reply)) if reply.status.carries_answer() => return Ok(reply.body),
            Ok(Ok(reply)) => {
                // The stack answers a refusal only where nothing was executed. The state of a key is
                // none, and no answer either.
                let outcome = match reply.status {
                    Status::State => Outcome::Unknown,
                    _ => Outcome::NotExecuted,
                };
                (outcome, Unfinished::refused(key, attempts_made(), &reply))
            }
            Ok(Err(error)) => Unfinished::of(key, &error),
            Err(_) => {
                // What was never stamped was never handed to the transport.
                let made = made
                    .get()
                    .map_or(maybe_executed, |made| made.maybe_executed());
                let outcome = match made {
                    true => Outcome::Unknown,
                    false => Outcome::NotExecuted,
                };
                (outcome, Unfinished::elapsed(key, attempts_made()))
            }
        };
        Err(Unanswered {
            outcome,
            cannot_tell: unfinished.cannot_tell,
            why: unfinished,
        })
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("store", self.calls.store())
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
