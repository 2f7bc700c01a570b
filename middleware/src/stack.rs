//! The blessed orders of the layers.
//!
//! The order matters: a key that is attached inside of retry is another key for every attempt, a
//! timeout inside of dedupe cuts an effect half-way. Each layer's page says what breaks elsewhere.

use std::sync::Arc;

use onlyonce_storage::Store;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service};

use crate::client::outbox::{NoteSentError, NoteSentLayer, TellPeer};
use crate::client::{
    Adapter, AttachKeyLayer, AttemptTimeoutLayer, CallError, ChooseKey, EnforceDeadlineLayer,
    RetryLayer, StampLayer, UniqueKey,
};
use crate::observe::{ObserveLayer, ServeSpan, ServeSpanLayer};
use crate::server::{Dedupe, DedupeLayer, DedupeOptions, InDoubtPolicy};

/// A client's stack around a transport, boxed once so that its type can be named.
pub type BoxClient<Req, Res, Err> = BoxCloneSyncService<Req, Res, CallError<Res, Err>>;

/// The client's layers with their defaults, for one destination.
///
/// Outer to inner: observe, attach key, enforce deadline, retry, attempt timeout, stamp.
pub fn client<A>(adapter: A) -> ClientStack<A>
where
    A: Clone,
{
    ClientStack {
        attach_key: AttachKeyLayer::new(adapter.clone()),
        deadline: EnforceDeadlineLayer::new(),
        retry: RetryLayer::new(adapter.clone()),
        attempt_timeout: AttemptTimeoutLayer::new(),
        stamp: StampLayer::new(adapter),
    }
}

/// The server's layers over `store`, with their defaults.
///
/// Outer to inner: observe, dedupe. Authentication, which gives the scope, and load shedding
/// belong between the two: wrap the stack's [`DedupeLayer`] yourself where you have them as layers.
pub fn server<A>(store: Arc<dyn Store>, adapter: A) -> ServerStack<A> {
    server_with(store, adapter, DedupeOptions::default())
}

/// The server's layers over `store`.
pub fn server_with<A>(store: Arc<dyn Store>, adapter: A, options: DedupeOptions) -> ServerStack<A> {
    ServerStack {
        dedupe: DedupeLayer::with_options(store, adapter, options),
    }
}

/// See [`client`].
#[derive(Debug)]
#[must_use = "a stack does nothing until it wraps a transport"]
pub struct ClientStack<A, K = UniqueKey> {
    attach_key: AttachKeyLayer<A, K>,
    deadline: EnforceDeadlineLayer,
    retry: RetryLayer<A>,
    attempt_timeout: AttemptTimeoutLayer,
    stamp: StampLayer<A>,
}

/// See [`server`].
#[derive(Clone, Debug)]
#[must_use = "a stack does nothing until it wraps a handler"]
pub struct ServerStack<A> {
    dedupe: DedupeLayer<A>,
}

// === impl ClientStack ===

impl<A, K> ClientStack<A, K> {
    /// Chooses keys otherwise: usually derived from the request's own business identifier.
    pub fn with_key<C>(self, chooser: C) -> ClientStack<A, C> {
        let Self {
            attach_key,
            deadline,
            retry,
            attempt_timeout,
            stamp,
        } = self;
        let attach_key = attach_key.with_key(chooser);
        ClientStack {
            attach_key,
            deadline,
            retry,
            attempt_timeout,
            stamp,
        }
    }

    /// Bounds calls otherwise.
    pub const fn with_deadline(mut self, deadline: EnforceDeadlineLayer) -> Self {
        self.deadline = deadline;
        self
    }

    /// Retries otherwise.
    pub fn with_retry(mut self, change: impl FnOnce(RetryLayer<A>) -> RetryLayer<A>) -> Self {
        self.retry = change(self.retry);
        self
    }

    /// Bounds attempts otherwise.
    pub const fn with_attempt_timeout(mut self, timeout: AttemptTimeoutLayer) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// The stack around `transport`.
    pub fn around<Req, T>(self, transport: T) -> BoxClient<Req, A::Response, A::Error>
    where
        A: Adapter<Req>,
        K: ChooseKey<Req>,
        T: Service<Req, Response = A::Response, Error = A::Error> + Clone + Send + Sync + 'static,
        T::Future: Send + 'static,
        Req: Send + 'static,
    {
        let attempts = self.attempt_timeout.layer(self.stamp.layer(transport));
        let calls = self.deadline.layer(self.retry.layer(attempts));
        BoxCloneSyncService::new(ObserveLayer::new().layer(self.attach_key.layer(calls)))
    }

    /// The stack around `transport`, for calls that are in an outbox: each attempt is noted there
    /// before the transport gets it. Calls that are not in it are refused.
    pub fn around_noting<Req, T>(
        self,
        transport: T,
        note_sent: &NoteSentLayer,
    ) -> BoxClient<Req, A::Response, A::Error>
    where
        A: Adapter<Req>,
        A::Error: From<NoteSentError>,
        K: ChooseKey<Req>,
        T: Service<Req, Response = A::Response, Error = A::Error>
            + TellPeer
            + Clone
            + Send
            + Sync
            + 'static,
        T::Future: Send + 'static,
        Req: Send + Sync + 'static,
    {
        let noted = note_sent.layer(self.stamp.layer(transport));
        let attempts = self.attempt_timeout.layer(noted);
        let calls = self.deadline.layer(self.retry.layer(attempts));
        BoxCloneSyncService::new(ObserveLayer::new().layer(self.attach_key.layer(calls)))
    }
}

// === impl ServerStack ===

impl<A> ServerStack<A> {
    /// Treats calls in doubt as `policy` says, where the adapter does not say it of the call (that of
    /// the native RPC says it of every method): see [`DedupeLayer::in_doubt`].
    pub fn in_doubt(&self, policy: InDoubtPolicy) -> Self
    where
        A: Clone,
    {
        Self {
            dedupe: self.dedupe.in_doubt(policy),
        }
    }

    /// The keys of this server: to peek at them, seal them, and wait for them.
    #[must_use]
    pub fn keys(&self) -> crate::server::Keys {
        self.dedupe.keys()
    }

    /// The executions of this server: to count them, and to wait for their end.
    #[must_use]
    pub fn executions(&self) -> crate::server::Executions {
        self.dedupe.executions()
    }
}

impl<S, A> Layer<S> for ServerStack<A> {
    type Service = ServeSpan<Dedupe<S, A>>;

    fn layer(&self, handler: S) -> Self::Service {
        ServeSpanLayer.layer(self.dedupe.layer(handler))
    }
}
