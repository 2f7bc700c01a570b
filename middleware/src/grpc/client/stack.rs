//! The client's layers around a transport of gRPC.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::time::Instant;
use tower::ServiceExt as _;
use tower_service::Service;

use super::Error;
use super::classify::{DIALECT, classify};
use super::wire::Wire;
use crate::client::{Adapter as _, ChooseKey, UniqueKey};
use crate::grpc::methods::{Methods, Protection};
use crate::grpc::{names, timeout};
use crate::http::client::stack::{Failed, unsent};
use crate::http::client::{self, Adapter, Classification, Deadline, TransportError};
use crate::http::{Body, BoxError};

/// Calls over gRPC that are safe to retry: the tower service that a generated client of tonic takes.
///
/// The call's key is the one that the caller has put on the request (a
/// [`Ticket`](crate::client::Ticket) or an [`IdempotencyKey`](onlyonce_storage::IdempotencyKey) among
/// its extensions, or the metadata `idempotency-key`), or else what the stack's chooser says. Its
/// deadline is what `grpc-timeout` says (tonic's `set_timeout`), or the stack's where that is sooner.
/// See [`http::client::Client`](client::Client) for what a key that came with the request means.
///
/// Requests need a whole URI, with scheme and authority: a generated client has it by `with_origin`.
///
/// # Errors
///
/// An [`Error`] wherever there is no answer. A refusal that is provably not executed is an answer.
///
/// # Cancellation
///
/// Dropping the future drops the attempt that is being made. The call may be executed all the same.
#[derive(Clone)]
pub struct Client<T> {
    calls: client::Client,
    transport: T,
    methods: Arc<Methods>,
}

/// Builds a [`Client`]. See [`stack()`].
#[must_use = "a stack does nothing until it is built"]
#[derive(Clone)]
pub struct Stack<T, K = UniqueKey> {
    http: client::Stack<K>,
    transport: T,
    methods: Methods,
}

/// The client's layers with their defaults, around `transport`: a [`tower`](super::tower()) service, or
/// [`hyper`](client::hyper) over a client that speaks HTTP/2 only.
///
/// It protects nothing until methods are named. Answers are taken like this, by `idempotency-status`
/// first:
///
/// | status | verdict |
/// | --- | --- |
/// | `executed`, `executed; unrecorded`, `replayed`, `attached` | the answer, whatever its code |
/// | `in-progress` | with `ABORTED` asked for again, at the cost of time only; otherwise another attempt |
/// | `in-doubt` | in doubt, never retried |
/// | `mismatch`, `stale` | refused, never retried |
/// | `not-executed` | another attempt after `ABORTED`, `CANCELLED`, `DEADLINE_EXCEEDED`, `INTERNAL`, `RESOURCE_EXHAUSTED`, `UNAVAILABLE` and `UNKNOWN`; otherwise refused |
/// | `unprotected` | as without a status, but never retried |
///
/// Without a status it is the code that speaks, and nothing is proven:
///
/// | code | verdict |
/// | --- | --- |
/// | `OK`, `NOT_FOUND`, `OUT_OF_RANGE` | the answer |
/// | `CANCELLED`, `DEADLINE_EXCEEDED`, `RESOURCE_EXHAUSTED`, `UNAVAILABLE`, or none at all | another attempt, towards a peer that is known to dedupe |
/// | `ABORTED`, `DATA_LOSS`, `INTERNAL`, `UNKNOWN` | refused, and the outcome is unknown |
/// | all others | refused |
///
/// `grpc-retry-pushback-ms` says when; a negative one, or one that cannot be read, ends the call.
pub fn stack<T>(transport: T) -> Stack<T>
where
    T: Service<Request<Body>, Response = Response<Body>, Error = TransportError>
        + Clone
        + Send
        + Sync
        + 'static,
    T::Future: Send + 'static,
{
    let http = client::stack(Wire::new(transport.clone()))
        .without_asking_peers()
        .with_classification(Classification::custom(classify))
        .with_dialect(DIALECT);
    Stack {
        http,
        transport,
        methods: Methods::default(),
    }
}

// === impl Stack ===

impl<T, K> Stack<T, K> {
    /// Makes calls of the unary method at `path`, for example `/bank.Bank/Transfer`, safe to retry.
    ///
    /// # Panics
    ///
    /// When `path` is not of the form `/package.Service/Method`.
    pub fn protect(mut self, path: &str) -> Self {
        self.methods.name_method(path, Protection::Protected);
        self
    }

    /// Makes calls of all methods of a service, for example `bank.Bank`, safe to retry, as far as they
    /// are not [left out](Self::leave_out). All of them must be unary.
    ///
    /// # Panics
    ///
    /// When `service` is not of the form `package.Service`.
    pub fn protect_service(mut self, service: &str) -> Self {
        self.methods.name_service(service);
        self
    }

    /// Leaves a method of a protected service out: it reads, or it streams.
    ///
    /// # Panics
    ///
    /// When `path` is not of the form `/package.Service/Method`.
    pub fn leave_out(mut self, path: &str) -> Self {
        self.methods.name_method(path, Protection::Unprotected);
        self
    }

    /// Changes what is as over HTTP: attempts, timeouts, budgets, keys, limits, and whether it is taken
    /// on your word that peers dedupe. Its classification is gRPC's own; another one has to read
    /// trailers.
    pub fn with_http<L>(
        self,
        change: impl FnOnce(client::Stack<K>) -> client::Stack<L>,
    ) -> Stack<T, L> {
        Stack {
            http: change(self.http),
            transport: self.transport,
            methods: self.methods,
        }
    }

    /// Asks a peer, before the first call of each method, whether it dedupes: with an HTTP `OPTIONS` for
    /// the method's path, without a message. Our layer answers it; any other server of gRPC refuses
    /// it, by its method or because a unary call without a message is none, and nothing is executed.
    ///
    /// It is not the default, since gRPC has no such question: what stands in between might count or
    /// log it as a call that failed.
    pub fn asking_peers(mut self) -> Self {
        self.http = self.http.asking_peers();
        self
    }

    /// The client.
    #[must_use]
    pub fn build(self) -> Client<T>
    where
        K: ChooseKey<Request<Body>>,
    {
        Client {
            calls: self.http.build(),
            transport: self.transport,
            methods: Arc::new(self.methods),
        }
    }
}

impl<T, K> fmt::Debug for Stack<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

// === impl Client ===

impl<T, B> Service<Request<B>> for Client<T>
where
    T: Service<Request<Body>, Response = Response<Body>, Error = TransportError>
        + Clone
        + Send
        + 'static,
    T::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Whether the transport is, is waited for by each attempt.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(Body::stream);
        if !self.methods.protects(request.uri().path()) {
            let passed = self.transport.clone().oneshot(request);
            return Box::pin(async move { passed.await.map_err(Error::Unprotected) });
        }
        match with_deadline(request) {
            Ok(request) => {
                let answering = self.calls.send(request);
                Box::pin(async move { answering.await.map_err(call_error) })
            }
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }
}

impl<T> fmt::Debug for Client<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

fn call_error(error: Failed) -> Error {
    Error::Call(Box::new(error))
}

/// The same request, with what `grpc-timeout` says as its deadline.
fn with_deadline(mut request: Request<Body>) -> Result<Request<Body>, Error> {
    let left = timeout::read(request.headers()).map_err(|error| {
        let ticket = Adapter::default().ticket(&request);
        let ticket = ticket.unwrap_or_else(|| UniqueKey.choose_ticket(&request));
        call_error(unsent(ticket, TransportError::never_sent(error)))
    })?;
    request.headers_mut().remove(names::TIMEOUT);
    let Some(at) = left.and_then(|left| Instant::now().checked_add(left)) else {
        return Ok(request);
    };
    let extensions = request.extensions_mut();
    let at = match extensions.get() {
        Some(Deadline(sooner)) => at.min(*sooner),
        None => at,
    };
    extensions.insert(Deadline(at));
    Ok(request)
}
