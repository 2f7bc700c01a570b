//! The client for callers without a runtime.
//!
//! It has one thread of its own, which does all the waiting. Each method blocks the thread that
//! calls it: never use it on a runtime's worker, take [`Client`](super::Client) there.

use std::fmt;
use std::io;
use std::sync::Arc;

use onlyonce_middleware::client::Ticket;
use onlyonce_storage::IdempotencyKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::{CallFailure, Known, Method, Unanswered};

/// A blocking client of one server. See [`Client`](super::Client) for what its calls promise.
///
/// Cloning it is cheap; clones share the thread, the connection and the retry budget.
///
/// ```no_run
/// use onlyonce::rpc::{Method, blocking};
///
/// const ADD: Method<u64, u64> = Method::new("counter.add");
///
/// let client = blocking::Client::new("127.0.0.1:7411")?;
/// let sum = client.call(&ADD, &5)?;
/// # let _ = sum;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Client {
    runtime: Arc<Driver>,
    client: super::Client,
}

/// The runtime, which must not be dropped where it would block a worker of another.
struct Driver(Option<Runtime>);

// === impl Client ===

impl Client {
    /// A client of the server at `address` (`host:port`), with all defaults.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn new(address: impl Into<Arc<str>>) -> io::Result<Self> {
        Self::over(super::Client::new(address))
    }

    /// The blocking side of `client`, which may have any layers.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn over(client: super::Client) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("onlyonce-blocking")
            .enable_all()
            .build()?;
        Ok(Self {
            runtime: Arc::new(Driver(Some(runtime))),
            client,
        })
    }

    /// Calls `method` under a new key.
    ///
    /// # Errors
    ///
    /// The handler's fault, or what is known of a call without an answer.
    ///
    /// # Panics
    ///
    /// Like every method here, when called on a worker of an asynchronous runtime.
    pub fn call<A, R, F>(
        &self,
        method: &Method<A, R, F>,
        arguments: &A,
    ) -> Result<R, CallFailure<F>>
    where
        A: Serialize,
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        self.block_on(self.client.call(method, arguments))
    }

    /// Calls `method` under a key of the caller's own.
    ///
    /// # Errors
    ///
    /// The handler's fault, or what is known of a call without an answer.
    pub fn call_as<A, R, F>(
        &self,
        key: IdempotencyKey,
        method: &Method<A, R, F>,
        arguments: &A,
    ) -> Result<R, CallFailure<F>>
    where
        A: Serialize,
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        self.block_on(self.client.call_as(key, method, arguments))
    }

    /// Goes on with the call that `ticket` names.
    ///
    /// # Errors
    ///
    /// The handler's fault, or what is known of a call without an answer.
    pub fn resume<A, R, F>(
        &self,
        ticket: Ticket,
        method: &Method<A, R, F>,
        arguments: &A,
    ) -> Result<R, CallFailure<F>>
    where
        A: Serialize,
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        self.block_on(self.client.resume(ticket, method, arguments))
    }

    /// What the server knows of the call that `ticket` names. Executes nothing.
    ///
    /// # Errors
    ///
    /// What kept the question from being answered.
    pub fn peek<A, R, F>(
        &self,
        ticket: impl Into<Ticket>,
        method: &Method<A, R, F>,
    ) -> Result<Known<R, F>, Unanswered>
    where
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        self.block_on(self.client.peek(ticket, method))
    }

    /// Makes the call that `ticket` names impossible if nobody has executed it; how long that holds
    /// stands at [`Client::seal`](super::Client::seal).
    ///
    /// # Errors
    ///
    /// What kept the question from being answered. The key may be sealed then.
    pub fn seal<A, R, F>(
        &self,
        ticket: impl Into<Ticket>,
        method: &Method<A, R, F>,
    ) -> Result<Known<R, F>, Unanswered>
    where
        R: DeserializeOwned,
        F: DeserializeOwned,
    {
        self.block_on(self.client.seal(ticket, method))
    }

    fn block_on<T>(&self, call: impl Future<Output = T>) -> T {
        // OK because the runtime is only taken out when the last client is dropped.
        self.runtime
            .0
            .as_ref()
            .expect("the runtime lives as long as a client")
            .block_on(call)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("blocking::Client").finish_non_exhaustive()
    }
}

// === impl Driver ===

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
