//! The layer and its service.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::time::sleep;
use tower_layer::Layer;
use tower_service::Service;

use super::error::FaultError;
use super::plan::{FaultKind, Plan, Script, Subject};
use crate::seed::Seed;

/// Puts a [`FaultService`] around a service.
///
/// Clones, and the services they make, share one plan and one count.
#[derive(Clone)]
pub struct FaultLayer<F> {
    shared: Arc<Shared>,
    subject: F,
}

/// A service whose requests and answers get lost as a [`Plan`] says.
///
/// Dropping the future of a call drops the inner call where it stands.
#[derive(Clone)]
pub struct FaultService<S, F> {
    inner: S,
    shared: Arc<Shared>,
    subject: F,
}

/// The future of a [`FaultService`] and of a [`ChaosService`](super::ChaosService).
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<T, E> {
    inner: Pin<Box<dyn Future<Output = Result<T, FaultError<E>>> + Send>>,
}

#[derive(Debug)]
struct Shared {
    seed: Seed,
    plan: Mutex<Plan>,
    fired: Mutex<BTreeMap<FaultKind, u64>>,
}

// === impl FaultLayer ===

impl<F> FaultLayer<F> {
    /// A layer that draws from this seed. `subject` tells which attempt of which call a request
    /// is; where a request does not say its attempt, count outside and put it in.
    pub fn new(seed: impl Into<Seed>, plan: Plan, subject: F) -> Self {
        let shared = Shared {
            seed: seed.into(),
            plan: Mutex::new(plan),
            fired: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            subject,
        }
    }

    /// The plan for later calls; [`Plan::none`] ends the faults of a run.
    pub fn set_plan(&self, plan: Plan) {
        *self.shared.plan.lock() = plan;
    }

    /// How often faults have struck, by kind; a kind that never did is absent.
    #[must_use]
    pub fn fired(&self) -> BTreeMap<FaultKind, u64> {
        self.shared.fired.lock().clone()
    }
}

impl<F> fmt::Debug for FaultLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultLayer")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl<S, F: Clone> Layer<S> for FaultLayer<F> {
    type Service = FaultService<S, F>;

    fn layer(&self, inner: S) -> Self::Service {
        FaultService {
            inner,
            shared: Arc::clone(&self.shared),
            subject: self.subject.clone(),
        }
    }
}

// === impl FaultService ===

impl<S: fmt::Debug, F> fmt::Debug for FaultService<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultService")
            .field("inner", &self.inner)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl<S, F, Request> Service<Request> for FaultService<S, F>
where
    S: Service<Request> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
    F: Fn(&Request) -> Subject,
    Request: Send + 'static,
{
    type Response = S::Response;
    type Error = FaultError<S::Error>;
    type Future = ResponseFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(ready!(self.inner.poll_ready(cx)).map_err(FaultError::Inner))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let subject = (self.subject)(&request);
        let script = self.shared.plan.lock().script(self.shared.seed, subject);
        // The instance that said it was ready is the one to call: a clone has not been asked.
        let unasked = self.inner.clone();
        let ready = mem::replace(&mut self.inner, unasked);
        let shared = Arc::clone(&self.shared);
        ResponseFuture::of(attempt(ready, request, script, shared))
    }
}

async fn attempt<S, Request>(
    mut ready: S,
    request: Request,
    script: Script,
    shared: Arc<Shared>,
) -> Result<S::Response, FaultError<S::Error>>
where
    S: Service<Request>,
{
    if let Some(delay) = script.request_delay {
        shared.count(FaultKind::RequestDelayed);
        sleep(delay).await;
    }
    if script.request_lost {
        shared.count(FaultKind::RequestLost);
        return Err(FaultError::RequestLost);
    }
    let answer = ready.call(request).await;
    if let Some(delay) = script.answer_delay {
        shared.count(FaultKind::AnswerDelayed);
        sleep(delay).await;
    }
    if script.answer_lost {
        shared.count(FaultKind::AnswerLost);
        return Err(FaultError::AnswerLost);
    }
    answer.map_err(FaultError::Inner)
}

// === impl ResponseFuture ===

impl<T, E> ResponseFuture<T, E> {
    pub(super) fn of(
        inner: impl Future<Output = Result<T, FaultError<E>>> + Send + 'static,
    ) -> Self {
        Self {
            inner: Box::pin(inner),
        }
    }
}

impl<T, E> Future for ResponseFuture<T, E> {
    type Output = Result<T, FaultError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

impl<T, E> fmt::Debug for ResponseFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    fn count(&self, kind: FaultKind) {
        *self.fired.lock().entry(kind).or_default() += 1;
    }
}
