//! A protocol for tests: what an attempt means is written on its result.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce_middleware::client::{
    Adapter, Advice, AttachKeyLayer, AttemptTimeoutLayer, Call, CallError, Cost,
    EnforceDeadlineLayer, Executed, Keyed, Pushback, RetryLayer, StampLayer, Ticket, Verdict,
};
use onlyonce_storage::{IdempotencyKey, StoreId};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceBuilder, ServiceExt as _};

pub type Result<T = Answer, E = CallError<Answer, Fault>> = std::result::Result<T, E>;

/// A request; what goes over the wire is the same, stamped.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub body: &'static str,
    pub ticket: Option<Ticket>,
    /// Cannot be copied.
    pub streams: bool,
    pub stamped: Option<Stamped>,
}

/// What the adapter has written onto a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Stamped {
    pub key: IdempotencyKey,
    pub attempt: u32,
    pub left: Option<Duration>,
    pub store: Option<StoreId>,
}

/// What a peer answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    pub means: Verdict,
    pub store: Option<StoreId>,
}

/// What the transport fails with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault(pub Verdict);

#[derive(Clone, Copy, Debug)]
pub struct MockAdapter;

/// A peer that answers as its script says; the last line is repeated for ever.
#[derive(Clone)]
pub struct Peer {
    script: Arc<Mutex<VecDeque<Line>>>,
    received: Arc<Mutex<Vec<(Instant, Request)>>>,
}

/// After this long, this.
pub type Line = (Duration, std::result::Result<Answer, Fault>);

// === impl Request ===

impl Request {
    pub const fn new(body: &'static str) -> Self {
        Self {
            body,
            ticket: None,
            streams: false,
            stamped: None,
        }
    }

    pub fn with_ticket(mut self, ticket: Ticket) -> Self {
        self.ticket = Some(ticket);
        self
    }

    pub const fn streaming(mut self) -> Self {
        self.streams = true;
        self
    }
}

// === lines of a script ===

pub const fn store() -> StoreId {
    StoreId::from_bytes([7; 16])
}

/// The call's answer, by a peer that names its store.
pub fn accepted() -> Line {
    answers(Verdict::Accept)
}

/// An answer by a peer that names its store.
pub fn answers(means: Verdict) -> Line {
    let answer = Answer {
        means,
        store: Some(store()),
    };
    (Duration::ZERO, Ok(answer))
}

/// An answer by a peer that names no store.
pub fn answers_storeless(means: Verdict) -> Line {
    (Duration::ZERO, Ok(Answer { means, store: None }))
}

pub const fn fails(means: Verdict) -> Line {
    (Duration::ZERO, Err(Fault(means)))
}

/// The connection is lost with the request sent.
pub const fn lost() -> Line {
    fails(Verdict::RETRY_UNKNOWN)
}

/// No connection.
pub const fn refused() -> Line {
    fails(Verdict::RETRY_NOT_EXECUTED)
}

pub const fn after(delay: Duration, line: Line) -> Line {
    (delay, line.1)
}

/// No answer, ever.
pub const fn silence() -> Line {
    after(Duration::from_secs(1_000_000), lost())
}

/// 409 and in progress.
pub const fn in_progress(pushback: Pushback) -> Verdict {
    Verdict::Retry(Advice {
        executed: Executed::Unknown,
        pushback,
        cost: Cost::OnlyTime,
    })
}

/// 503 with a hint.
pub const fn busy(pushback: Pushback) -> Verdict {
    Verdict::Retry(Advice {
        executed: Executed::NotThisAttempt,
        pushback,
        cost: Cost::Attempt,
    })
}

// === impl MockAdapter ===

impl Adapter<Request> for MockAdapter {
    type Response = Answer;
    type Error = Fault;

    fn ticket(&self, request: &Request) -> Option<Ticket> {
        request.ticket.clone()
    }

    fn stamp(&self, keyed: Keyed<Request>) -> Request {
        let stamped = Stamped {
            key: keyed.call().key().clone(),
            attempt: keyed.attempt().get(),
            left: keyed.deadline().map(|at| at - Instant::now()),
            store: keyed.call().store(),
        };
        let (mut request, _) = keyed.into_parts();
        request.stamped = Some(stamped);
        request
    }

    fn try_clone(&self, request: &Request) -> Option<Request> {
        (!request.streams).then(|| request.clone())
    }

    fn classify(&self, call: &Call, result: std::result::Result<&Answer, &Fault>) -> Verdict {
        match result {
            Ok(answer) => {
                if let Some(store) = answer.store {
                    call.bind(store);
                }
                answer.means
            }
            Err(fault) => fault.0,
        }
    }
}

// === impl Peer ===

impl Peer {
    pub fn new(script: impl IntoIterator<Item = Line>) -> Self {
        Self {
            script: Arc::new(Mutex::new(script.into_iter().collect())),
            received: Arc::default(),
        }
    }

    /// What it has received so far.
    pub fn received(&self) -> Vec<Request> {
        let received = self.received.lock();
        received
            .iter()
            .map(|(_, request)| request.clone())
            .collect()
    }

    /// When it has received what it has.
    pub fn times(&self) -> Vec<Instant> {
        self.received.lock().iter().map(|(at, _)| *at).collect()
    }

    pub fn attempts(&self) -> usize {
        self.received.lock().len()
    }

    pub fn set_script(&self, script: impl IntoIterator<Item = Line>) {
        *self.script.lock() = script.into_iter().collect();
    }

    /// One call through the whole stack, with a deadline of 30 s and attempts of 10 s.
    pub async fn call(&self, retry: &RetryLayer<MockAdapter>, request: Request) -> Result {
        self.call_within(Duration::from_secs(30), retry, request)
            .await
    }

    /// The same with another deadline.
    pub async fn call_within(
        &self,
        deadline: Duration,
        retry: &RetryLayer<MockAdapter>,
        request: Request,
    ) -> Result {
        ServiceBuilder::new()
            .layer(AttachKeyLayer::new(MockAdapter))
            .layer(EnforceDeadlineLayer::new().with_timeout(deadline))
            .layer(retry.clone())
            .layer(AttemptTimeoutLayer::new())
            .layer(StampLayer::new(MockAdapter))
            .service(self.clone())
            .oneshot(request)
            .await
    }
}

impl Service<Request> for Peer {
    type Response = Answer;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Answer, Fault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut received = self.received.lock();
        // A client that asks without a pause never lets a paused clock go on.
        assert!(received.len() < 100_000, "a client runs away");
        received.push((Instant::now(), request));
        drop(received);
        let mut script = self.script.lock();
        let (delay, result) = if script.len() > 1 {
            script.pop_front().unwrap()
        } else {
            script[0]
        };
        Box::pin(async move {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            result
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection lost")
    }
}

impl Error for Fault {}

/// The layer with nothing between the attempts that a test does not ask for.
pub fn retry() -> RetryLayer<MockAdapter> {
    RetryLayer::new(MockAdapter)
}
