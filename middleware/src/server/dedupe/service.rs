//! Takes requests in, and gives each caller its response.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use onlyonce_storage::journal::AbandonedCall;
use onlyonce_storage::{
    Answer, Fingerprints, Question, ScopedKey, Store, StoreError, Timestamp, planted,
};
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::driven::{Driven, Lost};
use super::executions::Executions;
use super::finishing::{Finisher, Passed};
use super::flight::{Boarding, Flight, FlightName, Flights, Landing};
use super::in_doubt::InDoubtPolicy;
use super::options::DedupeOptions;
use super::owner::{Delivery, Owner};
use super::patience::{by, patience};
use super::reconcile::Reconciler;
use super::runs::Ended;
use crate::observe::server as observe;
use crate::server::{Adapter, Admission, Guarantee, Intent, Keys, Refusal, Served};

/// See [`DedupeLayer`](super::DedupeLayer).
pub struct Dedupe<S, A> {
    inner: S,
    shared: Arc<Shared<A>>,
}

/// What all clones share.
pub(super) struct Shared<A> {
    pub(super) adapter: A,
    pub(super) store: Arc<dyn Store>,
    pub(super) options: DedupeOptions,
    /// For calls of which the adapter says nothing.
    pub(super) in_doubt: InDoubtPolicy,
    pub(super) flights: Arc<Flights>,
    pub(super) ended: Arc<Ended>,
    pub(super) reconciler: Arc<Reconciler>,
}

/// What [`Dedupe`] answers with, later.
pub type ResponseFuture<Res, Err> = Pin<Box<dyn Future<Output = Result<Res, Err>> + Send>>;

// === impl Dedupe ===

impl<S, A> Dedupe<S, A> {
    pub(super) const fn new(inner: S, shared: Arc<Shared<A>>) -> Self {
        Self { inner, shared }
    }

    /// The keys of this server: to peek at them, seal them, and wait for them.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys::new(Arc::clone(&self.shared.store))
    }

    /// The executions of this server: to count them, and to wait for their end.
    #[must_use]
    pub fn executions(&self) -> Executions {
        self.shared.executions()
    }

    /// How many calls are being executed, and how many callers wait for them.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (
            self.shared.flights.in_flight(),
            self.shared.flights.waiting(),
        )
    }
}

impl<S, A> Dedupe<S, A>
where
    A: Adapter,
    S: Service<A::Request, Response = A::Response, Error = A::Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    /// Goes on with the journaled calls of the store that stand still, in one pass over at most 1,024
    /// of them, but for those that were begun [too long](DedupeOptions::go_on_within) ago: those whose request the adapter [revives](Adapter::revive). It ends when they have, or
    /// after 30 s for each; they go on all the same.
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the executions running to their ends.
    pub fn finish_abandoned(
        &self,
    ) -> impl Future<Output = Result<Passed, StoreError>> + Send + use<S, A> {
        let this = self.clone();
        let mut finisher = self.shared.finisher();
        async move { finisher.pass(move |call| this.go_on(call)).await }
    }

    /// Goes on with the journaled calls of the store that stand still, now and every ten seconds or
    /// so, as [`Finisher`] says. Never ends: spawn it beside the server, and abort it when that shuts
    /// down.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the executions running to their ends.
    pub async fn keep_finishing_abandoned(self) {
        let finisher = self.shared.finisher();
        finisher.keep_on(move |call| self.go_on(call)).await;
    }

    /// Goes on with a call as if it had been asked for; it meets those who ask for it.
    fn go_on(&self, call: AbandonedCall) -> Option<impl Future<Output = ()> + Send + use<S, A>> {
        let (mut intent, request) = self.shared.adapter.revive(&call)?;
        // Whatever the adapter says: of this very call, and of no other.
        intent.key = call.key;
        intent.fingerprints = Fingerprints::new(call.fingerprint);
        intent.guarantee = Guarantee::Journaled;
        intent.stored_request = Some(call.request);
        intent.goes_on_from = Some(call.token);
        intent.deadline = None;
        intent.session = None;
        intent.store = None;
        let running = protect(
            Arc::clone(&self.shared),
            self.inner.clone(),
            intent,
            request,
        );
        Some(async move {
            let _ = running.await;
        })
    }
}

impl<S: Clone, A> Clone for Dedupe<S, A> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S, A> fmt::Debug for Dedupe<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedupe")
            .field("store", &self.shared.store)
            .field("options", &self.shared.options)
            .field("flights", &self.shared.flights)
            .finish_non_exhaustive()
    }
}

impl<S, A> Service<A::Request> for Dedupe<S, A>
where
    A: Adapter,
    S: Service<A::Request, Response = A::Response, Error = A::Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = A::Response;
    type Error = A::Error;
    type Future = ResponseFuture<A::Response, A::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Readiness of the handler is awaited where it is called, on the instance that is called,
        // and not by what is answered without the handler: see `begin`.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: A::Request) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let mut inner = self.inner.clone();
        Box::pin(async move {
            match shared.adapter.admit(request).await {
                Admission::Protected(_, request) if planted!(NoDedupe) => {
                    let response = inner.ready().await?.call(request).await?;
                    Ok(shared.mark(response, Served::Executed))
                }
                Admission::Protected(intent, request) => {
                    onlyonce_storage::kill_point!("dedupe: admitted, no flight boarded");
                    protect(shared, inner, intent, request).await
                }
                Admission::Unprotected(request) => {
                    let response = inner.ready().await?.call(request).await?;
                    Ok(shared.mark(response, Served::Unprotected))
                }
                Admission::Refused(refusal) => Ok(shared.refuse(&refusal)),
                Admission::Ask {
                    question,
                    key,
                    first_sent,
                    deadline,
                } => Ok(Box::pin(ask(shared, question, key, first_sent, deadline)).await),
            }
        })
    }
}

async fn ask<A: Adapter>(
    shared: Arc<Shared<A>>,
    question: Question,
    key: ScopedKey,
    first_sent: Option<Timestamp>,
    deadline: Option<Instant>,
) -> A::Response {
    let state = shared.store.ask(question, key, first_sent);
    let state = match deadline {
        None => state.await,
        Some(deadline) => by(deadline, state).await.unwrap_or_else(|| Err(too_slow())),
    };
    onlyonce_storage::kill_point!("dedupe: question asked, not answered");
    match state {
        Ok(state) => shared.adapter.tell(&state),
        Err(error) => shared.refuse(&Refusal::Unavailable {
            reason: error.to_string(),
            retry_after: error.retry_after(),
        }),
    }
}

#[expect(
    clippy::manual_async_fn,
    reason = "an async function has room for each of its arguments twice"
)]
fn protect<S, A>(
    shared: Arc<Shared<A>>,
    inner: S,
    intent: Intent,
    request: A::Request,
) -> impl Future<Output = Result<A::Response, A::Error>> + Send
where
    A: Adapter,
    S: Service<A::Request, Response = A::Response, Error = A::Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    async move {
        if let Some(refusal) = shared.refuse_at_the_door(&intent) {
            return Ok(shared.refuse(&refusal));
        }
        let name = FlightName {
            key: intent.key.digest(),
            fingerprint: intent.fingerprints.current(),
        };
        // Each round but the last ends with an execution by somebody that came to nothing.
        for _ in 0..ROUNDS_MAX {
            match shared.flights.board(name) {
                Boarding::Lead(lead) => {
                    let deadline = intent.deadline;
                    let owner = Owner {
                        shared: Arc::clone(&shared),
                        inner,
                        intent,
                        request,
                        lead,
                    };
                    return lead_call(&shared, owner, deadline).await;
                }
                Boarding::Crowded => return Ok(shared.refuse(&in_progress())),
                Boarding::Full => return Ok(shared.refuse(&not_executed(FULL))),
                Boarding::Wait(waiter) => {
                    onlyonce_storage::kill_point!("dedupe: duplicate boarded, not waiting");
                    let limit = patience(shared.options.wait, intent.deadline);
                    match Box::pin(waiter.wait(limit)).await {
                        Some(Landing::NotExecuted) => {}
                        Some(landing) => return Ok(shared.respond(&landing)),
                        None => return Ok(shared.refuse(&in_progress())),
                    }
                }
            }
        }
        Ok(shared.refuse(&not_executed(NOTHING_EXECUTED)))
    }
}

fn lead_call<S, A>(
    shared: &Shared<A>,
    owner: Owner<S, A>,
    deadline: Option<Instant>,
) -> impl Future<Output = Result<A::Response, A::Error>> + Send
where
    A: Adapter,
    S: Service<A::Request, Response = A::Response, Error = A::Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    onlyonce_storage::kill_point!("dedupe: flight led, nothing asked");
    let flight = Arc::clone(owner.lead.flight());
    let mut execution = Driven::new(Box::pin(owner.execute()), Arc::clone(&flight));
    async move {
        let delivery = match deadline {
            None => (&mut execution).await,
            Some(deadline) => match by(deadline, &mut execution).await {
                Some(delivery) => delivery,
                // It goes on in a task of its own, unless it is called off.
                None => return Ok(shared.refuse_late(&flight)),
            },
        };
        onlyonce_storage::kill_point!("dedupe: delivered, not handed on");
        match delivery {
            Ok(Delivery::Response(response)) => Ok(response),
            Ok(Delivery::SameAsOthers(landing)) => Ok(shared.respond(&landing)),
            Ok(Delivery::NeverReady(error)) => Err(error),
            // What it had begun is for the store to tell, so the client is sent back to ask.
            Err(Lost) => Ok(shared.refuse(&in_progress())),
        }
    }
}

const fn in_progress() -> Refusal {
    Refusal::InProgress {
        retry_after: RETRY_AFTER,
    }
}

fn not_executed(reason: &str) -> Refusal {
    Refusal::Unavailable {
        reason: reason.to_owned(),
        retry_after: RETRY_AFTER,
    }
}

// === impl Shared ===

impl<A> Shared<A> {
    pub(super) fn executions(&self) -> Executions {
        Executions::new(
            Arc::clone(&self.store),
            Arc::clone(&self.flights),
            self.options.go_on_within,
        )
    }

    fn finisher(&self) -> Finisher {
        Finisher::new(Arc::clone(&self.store), self.options.go_on_within)
    }

    /// What can be refused before anything is looked up.
    fn refuse_at_the_door(&self, intent: &Intent) -> Option<Refusal> {
        if let Err(error) = self.options.key_policy.check(intent.key.key()) {
            return Some(Refusal::KeyMalformed(error));
        }
        let here = self.store.id();
        if intent.store.is_some_and(|bound| bound != here) && !planted!(StoreIdIgnored) {
            return Some(Refusal::Misdirected { here });
        }
        if intent
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            return Some(Refusal::DeadlinePassed { executing: false });
        }
        None
    }

    /// The deadline passed: the execution is called off if it has not begun.
    fn refuse_late(&self, flight: &Flight) -> A::Response
    where
        A: Adapter,
    {
        let executing = !flight.call_off();
        self.refuse(&Refusal::DeadlinePassed { executing })
    }

    fn respond(&self, landing: &Landing) -> A::Response
    where
        A: Adapter,
    {
        let replayed = match landing {
            Landing::Answer(answer, served) => self.replay(answer, *served),
            Landing::InDoubt(in_doubt) => Err(Refusal::InDoubt(in_doubt.clone())),
            Landing::NotExecuted => Err(not_executed(NOTHING_EXECUTED)),
            Landing::Refused(refusal) => Err(refusal.clone()),
        };
        replayed.unwrap_or_else(|refusal| self.refuse(&refusal))
    }
}

impl<A: Adapter> Shared<A> {
    /// A response of the handler's own, marked and counted.
    pub(super) fn mark(&self, response: A::Response, served: Served) -> A::Response {
        if served == Served::ExecutedUnrecorded {
            observe::unrecorded();
        }
        observe::answered(served.name());
        self.adapter.mark(response, served)
    }

    fn replay(&self, answer: &Answer, served: Served) -> Result<A::Response, Refusal> {
        let response = self.adapter.replay(answer, served)?;
        if served == Served::Replayed {
            observe::replayed();
        }
        observe::answered(served.name());
        Ok(response)
    }

    fn refuse(&self, refusal: &Refusal) -> A::Response {
        observe::answered(refusal.name());
        self.adapter.refuse(refusal)
    }
}

const FULL: &str = "as many calls are being executed as may be";
const NOTHING_EXECUTED: &str = "the handler executed nothing";

/// A call that somebody is executing in this process mostly ends within it.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(100);

/// A question changes nothing that is executed, so it may be asked again.
fn too_slow() -> StoreError {
    StoreError::Unavailable {
        reason: "the store did not answer before the deadline".to_owned(),
        retry_after: RETRY_AFTER,
    }
}

/// A key whose executions keep coming to nothing is released faster than its duplicates can be
/// served; after this many the client may wait outside.
const ROUNDS_MAX: usize = 8;
