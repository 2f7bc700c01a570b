//! The client's layers around a transport, and who is behind which of them.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Method, Request, Response, Uri, header};
use onlyonce_storage::KeyError;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;
use tower_service::Service;

use super::attempt::{Attempt, AttemptOptions, Dialect, SentUndated};
use super::peers::Peers;
use super::{Adapter, Classification, TransportError};
use crate::client::{
    Adapter as _, AttemptTimeoutLayer, Call, CallError, ChooseKey, EnforceDeadlineLayer, Last,
    Outcome, RetryBudget, RetryLayer, Stopped, Ticket, UniqueKey,
};
use crate::http::{Body, Read, key};
use crate::stack::{self, BoxClient};

/// A request that fits is kept for another attempt: what linkerd keeps.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// As much as a server records.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// More services than one program calls, and little memory.
const DESTINATIONS_MAX: usize = 256;

/// A few for each destination. Each takes some hundred bytes.
const ROUTES_MAX: usize = 1024;

/// Three attempts of 10 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A third of that.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// A call's deadline, where it is sooner than the stack's: put it among a request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(pub Instant);

/// Calls over HTTP that are safe to retry, to any number of destinations.
///
/// Outer to inner: the body is read into memory, then the layers of
/// [`stack::client`](crate::stack::client), then what learns of the peer and reads the answer, then the
/// transport.
///
/// The call's key is the one that the caller has put on the request (a [`Ticket`] or an
/// [`IdempotencyKey`](onlyonce_storage::IdempotencyKey) among its extensions, or the header
/// `Idempotency-Key`), or else what the stack's chooser says. A key that came with the request may have
/// been sent before, as far as anybody knows here, so its request goes only to a peer that dedupes; say
/// [`Ticket::never_sent`] where you know that it was not.
///
/// Requests without effects (`GET`, `HEAD`, `OPTIONS`, `TRACE`) get no key, and are retried whatever is
/// known of the peer: within the same bounds of attempts, time and budget. What is answered last is
/// their answer, whatever its code.
///
/// # Errors
///
/// A [`CallError`] wherever there is no answer. Its response, where there is one, is in
/// [`CallError::last`].
///
/// # Cancellation
///
/// Dropping the future drops the attempt that is being made. The call may be executed all the same.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// Builds a [`Client`]. See [`stack()`].
#[must_use = "a stack does nothing until it is built"]
#[derive(Clone)]
pub struct Stack<K = UniqueKey> {
    chooser: K,
    numbers: Numbers,
}

#[derive(Clone)]
struct Numbers {
    transport: Transport,
    classification: Classification,
    attempt: AttemptOptions,
    call_timeout: Duration,
    request_bytes_max: usize,
    destinations_max: usize,
    routes_max: usize,
    budget: Arc<dyn Fn() -> RetryBudget + Send + Sync>,
    retry: Arc<dyn Fn(RetryLayer<Adapter>) -> RetryLayer<Adapter> + Send + Sync>,
}

struct Shared {
    choose: Arc<Choose>,
    numbers: Numbers,
    peers: Arc<Peers>,
    destinations: Mutex<HashMap<Name, Destination>>,
}

/// Scheme and authority.
type Name = (Box<str>, Box<str>);

/// One destination's layers, with its budget.
#[derive(Clone)]
struct Destination {
    calls: BoxClient<Request<Body>, Response<Body>, TransportError>,
    /// For requests without effects.
    safe: BoxClient<Request<Body>, Response<Body>, TransportError>,
    used: Instant,
}

type Choose = dyn Fn(&Request<Body>) -> Ticket + Send + Sync;

type Transport = BoxCloneSyncService<Request<Body>, Response<Body>, TransportError>;

pub(crate) type Failed = CallError<Response<Body>, TransportError>;

/// Why a request cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum NoRequest {
    #[error("its URI is not absolute: scheme and authority are needed")]
    NoDestination,
    #[error("its header idempotency-key cannot be used: {0}")]
    Key(#[from] KeyError),
}

/// The client's layers with their defaults, around `transport`.
///
/// One client is for any number of destinations. What must not be shared between them is not: each
/// authority has a retry budget of its own, and what is known of a peer is known of each route by
/// itself.
pub fn stack<T>(transport: T) -> Stack
where
    T: Service<Request<Body>, Response = Response<Body>, Error = TransportError>
        + Clone
        + Send
        + Sync
        + 'static,
    T::Future: Send + 'static,
{
    Stack {
        chooser: UniqueKey,
        numbers: Numbers {
            transport: BoxCloneSyncService::new(transport),
            classification: Classification::default(),
            attempt: AttemptOptions {
                answer_bytes_max: ANSWER_BYTES_MAX,
                assume_dedupe: false,
                ask_peers: true,
                timeout: ATTEMPT_TIMEOUT,
                dialect: Dialect::HTTP,
                require_dedupe: false,
            },
            call_timeout: CALL_TIMEOUT,
            request_bytes_max: REQUEST_BYTES_MAX,
            destinations_max: DESTINATIONS_MAX,
            routes_max: ROUTES_MAX,
            budget: Arc::new(RetryBudget::default),
            retry: Arc::new(|retry| retry),
        },
    }
}

// === impl Stack ===

impl<K> Stack<K> {
    /// Chooses the keys of calls that have none otherwise: usually derived from the request's own
    /// business identifier. A closure has to spell out the type of its argument. It sees the request
    /// before its body is read.
    pub fn with_key<C>(self, chooser: C) -> Stack<C>
    where
        C: ChooseKey<Request<Body>>,
    {
        Stack {
            chooser,
            numbers: self.numbers,
        }
    }

    /// Ends calls after `timeout`. 30 s (default). It covers the reading of the request's body.
    pub const fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.numbers.call_timeout = timeout;
        self
    }

    /// Ends attempts after `timeout`. 10 s (default). It covers the reading of the answer, as far as
    /// that is read.
    pub const fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.numbers.attempt.timeout = timeout;
        self
    }

    /// Makes at most this many attempts of a call. 3 (default).
    pub fn with_attempts_max(self, attempts_max: NonZeroU32) -> Self {
        self.with_retry(move |retry| retry.with_attempts_max(attempts_max))
    }

    /// Makes the retry budget of a destination. It is asked once for each.
    pub fn with_budget<F>(mut self, make: F) -> Self
    where
        F: Fn() -> RetryBudget + Send + Sync + 'static,
    {
        self.numbers.budget = Arc::new(make);
        self
    }

    /// Retries otherwise. `change` is asked twice for each destination: for calls, and for requests
    /// without effects. It comes on top of earlier changes.
    pub fn with_retry<F>(mut self, change: F) -> Self
    where
        F: Fn(RetryLayer<Adapter>) -> RetryLayer<Adapter> + Send + Sync + 'static,
    {
        let earlier = self.numbers.retry;
        self.numbers.retry = Arc::new(move |retry| change(earlier(retry)));
        self
    }

    /// Takes it on your word that every peer dedupes, and that all servers of a peer share one store.
    ///
    /// **This weakens the promise.** If it is not so, an attempt whose answer was lost is executed
    /// again. It is for peers that take an `Idempotency-Key` but say nothing of a store.
    pub fn assume_dedupe(mut self) -> Self {
        self.numbers.attempt.assume_dedupe = true;
        self.with_retry(RetryLayer::assume_dedupe)
    }

    /// Asks no peer, with `OPTIONS`, whether it dedupes. A peer is then known only once it has answered
    /// a call: the first one to each route has no date, and is retried only if it provably was not
    /// processed; and one that may have been sent before is not sent until then.
    pub const fn without_asking_peers(mut self) -> Self {
        self.numbers.attempt.ask_peers = false;
        self
    }

    /// Sends calls only to peers that say that they dedupe, also those that were never sent before. One
    /// that cannot be asked is asked again, as often as there are attempts; one that does not say so
    /// ends the call, which was not executed. For whoever passes on calls of others, and cannot tell
    /// them that an outcome is unknown.
    pub const fn require_dedupe(mut self) -> Self {
        self.numbers.attempt.require_dedupe = true;
        self
    }

    /// Reads the heads of answers in another protocol's words.
    #[cfg(feature = "grpc")]
    pub(crate) const fn with_dialect(mut self, dialect: Dialect) -> Self {
        self.numbers.attempt.dialect = dialect;
        self
    }

    /// Asks peers with `OPTIONS` again.
    #[cfg(feature = "grpc")]
    pub(crate) const fn asking_peers(mut self) -> Self {
        self.numbers.attempt.ask_peers = true;
        self
    }

    /// Takes answers as `classification` says.
    pub fn with_classification(mut self, classification: Classification) -> Self {
        self.numbers.classification = classification;
        self
    }

    /// Keeps request bodies of up to `bytes` in memory, so that they can be sent again. 64 KiB
    /// (default). Larger ones are sent once, as they come.
    pub const fn with_request_bytes_max(mut self, bytes: usize) -> Self {
        self.numbers.request_bytes_max = bytes;
        self
    }

    /// Reads answers of up to `bytes` within the attempt. 1 MiB (default). Of larger ones the rest
    /// comes as it comes, and what is cut there is not retried. Event streams are never waited for.
    pub const fn with_answer_bytes_max(mut self, bytes: usize) -> Self {
        self.numbers.attempt.answer_bytes_max = bytes;
        self
    }

    /// Keeps the budgets of this many destinations. 256 (default), at least 1. One that was not used
    /// for the longest is forgotten, and gets a new budget when it is called again.
    pub const fn with_destinations_max(mut self, destinations: usize) -> Self {
        self.numbers.destinations_max = destinations;
        self
    }

    /// Keeps what is known of this many routes. 1,024 (default), at least 1. One that was not used for
    /// the longest is forgotten, and asked about when it is called again.
    pub const fn with_routes_max(mut self, routes: usize) -> Self {
        self.numbers.routes_max = routes;
        self
    }

    /// The client.
    #[must_use]
    pub fn build(self) -> Client
    where
        K: ChooseKey<Request<Body>>,
    {
        let Self { chooser, numbers } = self;
        Client {
            shared: Arc::new(Shared {
                choose: Arc::new(move |request| chooser.choose_ticket(request)),
                peers: Arc::new(Peers::new(numbers.routes_max)),
                numbers,
                destinations: Mutex::default(),
            }),
        }
    }
}

impl<K> fmt::Debug for Stack<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}

// === impl Client ===

impl Client {
    /// The ticket of the call that `request` makes, or why it cannot be sent.
    pub(super) fn ticket(&self, request: &Request<Body>) -> Result<Ticket, TransportError> {
        let checked = self.shared.check(request);
        checked.map_err(TransportError::never_sent)?;
        let ticket = Adapter::default().ticket(request);
        Ok(ticket.unwrap_or_else(|| (self.shared.choose)(request)))
    }

    pub(super) fn classification(&self) -> &Classification {
        &self.shared.numbers.classification
    }

    pub(super) fn call_timeout(&self) -> Duration {
        self.shared.numbers.call_timeout
    }

    /// Makes a call. See [`Client`] for its errors.
    pub fn send<B>(
        &self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, CallError<Response<Body>, TransportError>>>
    + Send
    + 'static
    where
        B: Into<Body>,
    {
        Arc::clone(&self.shared).run(request.map(Into::into))
    }
}

impl Service<Request<Body>> for Client {
    type Response = Response<Body>;
    type Error = CallError<Response<Body>, TransportError>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.send(request))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    async fn run(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Failed> {
        let adapter = Adapter::default();
        let safe = is_safe(request.method());
        let ticket = match adapter.ticket(&request) {
            Some(ticket) => ticket,
            None if safe => UniqueKey.choose_ticket(&request),
            None => (self.choose)(&request),
        };
        if let Err(error) = self.check(&request) {
            return Err(unsent(ticket, TransportError::never_sent(error)));
        }
        let now = Instant::now();
        let deadline = now.checked_add(self.numbers.call_timeout);
        let deadline = adapter.deadline(&request).into_iter().chain(deadline).min();

        let (mut head, body) = request.into_parts();
        let reading = body.read(self.numbers.request_bytes_max);
        let read = match deadline {
            Some(deadline) => match timeout_at(deadline, reading).await {
                Ok(read) => read,
                Err(_) => {
                    let call = Call::new(ticket);
                    return Err(CallError::new(&call, Stopped::Deadline, Last::Nothing));
                }
            },
            None => reading.await,
        };
        let body = match read {
            Ok(Read::Whole(contents)) => {
                // The transport frames it by what it is.
                head.headers.remove(header::CONTENT_LENGTH);
                head.headers.remove(header::TRANSFER_ENCODING);
                Body::from(contents)
            }
            Ok(Read::TooLarge(body)) => body,
            Err(error) => return Err(unsent(ticket, TransportError::never_sent(error))),
        };

        let mut request = Request::from_parts(head, body);
        let extensions = request.extensions_mut();
        extensions.insert(ticket);
        extensions.insert(SentUndated::default());
        if let Some(deadline) = deadline {
            extensions.insert(Deadline(deadline));
        }
        let Destination {
            calls, safe: reads, ..
        } = self.destination(request.uri());
        if !safe {
            return calls.oneshot(request).await;
        }
        // Whatever became of it, it had no effect: what came back last is as good as any answer.
        match reads.oneshot(request).await {
            Err(CallError {
                last: Last::Response(response),
                ..
            }) => Ok(response),
            result => result.map_err(|error| CallError {
                outcome: Outcome::NotExecuted,
                ..error
            }),
        }
    }

    fn check(&self, request: &Request<Body>) -> Result<(), NoRequest> {
        let uri = request.uri();
        if uri.scheme().is_none() || uri.authority().is_none() {
            return Err(NoRequest::NoDestination);
        }
        if request.extensions().get::<Ticket>().is_none() {
            key::read(request.headers())?;
        }
        Ok(())
    }

    /// The layers of the destination that `uri` names.
    fn destination(&self, uri: &Uri) -> Destination {
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let name = (scheme.into(), authority.to_ascii_lowercase().into());
        let mut destinations = self.destinations.lock();
        if let Some(destination) = destinations.get_mut(&name) {
            destination.used = Instant::now();
            return destination.clone();
        }
        if destinations.len() >= self.numbers.destinations_max.max(1) {
            let oldest = destinations.iter().min_by_key(|(_, it)| it.used);
            let oldest = oldest.map(|(name, _)| name.clone());
            oldest.map(|name| destinations.remove(&name));
        }
        let destination = self.numbers.destination(&self.peers);
        destinations.insert(name, destination.clone());
        destination
    }
}

// === impl Numbers ===

impl Numbers {
    fn destination(&self, peers: &Arc<Peers>) -> Destination {
        let budget = (self.budget)();
        let attempt_timeout = AttemptTimeoutLayer::new().with_timeout(self.attempt.timeout);
        let around =
            |adapter: Adapter, retry: &dyn Fn(RetryLayer<Adapter>) -> RetryLayer<Adapter>| {
                let transport =
                    Attempt::new(self.transport.clone(), Arc::clone(peers), self.attempt);
                stack::client(adapter)
                    .with_deadline(EnforceDeadlineLayer::new().with_timeout(self.call_timeout))
                    .with_attempt_timeout(attempt_timeout)
                    .with_retry(|layer| retry((self.retry)(layer.with_budget(budget.clone()))))
                    .around(transport)
            };
        let classification = || self.classification.clone();
        Destination {
            calls: around(Adapter::new(classification()), &|retry| retry),
            // A request without effects can be repeated whoever answers it.
            safe: around(Adapter::safe(classification()), &RetryLayer::assume_dedupe),
            used: Instant::now(),
        }
    }
}

/// RFC 9110, 9.2.1.
pub(super) fn is_safe(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
    )
}

/// How a call ends whose request cannot be sent.
pub(crate) fn unsent(ticket: Ticket, error: TransportError) -> Failed {
    CallError::new(&Call::new(ticket), Stopped::Final, Last::Error(error))
}
