//! The one execution of a call: it begins, runs under its lease, is settled, and told.
//!
//! It outlives its caller (`driven.rs`), so that neither one who goes away nor one who stops waiting
//! can abandon an effect half-way. What happens seldom is boxed here: a future has room for the
//! largest of what it may await, and is moved as a whole. What happens always is written as blocks
//! that own what they need: an async function has room for each of its arguments twice.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use onlyonce_storage::{Claim, DoubtReason, SettleError, Store, planted};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tower::Service;

use super::begin::{Begun, Grant, begin};
use super::flight::{Landing, Lead};
use super::in_doubt::Execution;
use super::journaled;
use super::runs::RunningHere;
use super::service::Shared;
use super::settle::{Flown, Run, doubt, give_back, settle};
use super::transact;
use crate::nested;
use crate::observe::server::{self as observe, Running};
use crate::server::{Adapter, Guarantee, Intent};

/// What an execution needs.
pub(super) struct Owner<S, A: Adapter> {
    pub(super) shared: Arc<Shared<A>>,
    pub(super) inner: S,
    pub(super) intent: Intent,
    pub(super) request: A::Request,
    pub(super) lead: Lead,
}

/// What the caller who began the execution gets.
pub(super) enum Delivery<Res, Err> {
    /// The handler was never ready; nothing was executed.
    NeverReady(Err),
    /// This.
    Response(Res),
    /// What those who waited get.
    SameAsOthers(Landing),
}

/// How a handler's time under its lease ended.
pub(super) enum Ended<T> {
    /// It returned.
    Itself(T),
    /// The lease was over before it began.
    NeverBegun,
    /// It was dropped, since the lease could not be kept.
    Stopped,
}

impl<S, A> Owner<S, A>
where
    A: Adapter,
    S: Service<A::Request, Response = A::Response, Error = A::Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    /// Executes the call, at most once: what its caller gets. Those who wait are told before.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async function has room for each of its arguments twice"
    )]
    pub(super) fn execute(
        self,
    ) -> impl Future<Output = Delivery<A::Response, A::Error>> + Send + 'static {
        async move {
            if planted!(DedupeAfterEffect) && self.intent.guarantee == Guarantee::Claimed {
                return Box::pin(self.effect_first()).await;
            }
            let begun = begin(&self.shared, &self.intent, self.inner, self.lead.flight()).await;
            let (mut handler, grant) = match begun {
                Begun::Granted(handler, grant) => (handler, grant),
                Begun::Landed(landing) => {
                    onlyonce_storage::kill_point!("dedupe: key taken before, nobody told");
                    self.lead.land(landing.clone());
                    return Delivery::SameAsOthers(landing);
                }
                Begun::NeverReady(error) => {
                    self.lead.land(Landing::NotExecuted);
                    return Delivery::NeverReady(error);
                }
            };
            onlyonce_storage::kill_point!("dedupe: claimed, handler not called");
            let (shared, caller_retries) = (&*self.shared, self.intent.caller_retries);
            let request = self.request;
            let flown = if !self.lead.flight().start_running() {
                Flown {
                    landing: Box::pin(give_back(shared, grant)).await,
                    response: None,
                }
            } else if self.intent.guarantee == Guarantee::Transactional {
                let flown = transact::fly(shared, grant, handler, request);
                Box::pin(nested::handling(caller_retries, flown)).await
            } else if self.intent.guarantee == Guarantee::Journaled {
                let flown = journaled::fly(shared, grant, handler, (&self.intent, request));
                Box::pin(nested::handling(caller_retries, flown)).await
            } else {
                let before = grant.rerun_of.as_ref().map(|before| before.token);
                let execution = Execution::new(grant.claim.token(), before);
                // Inside a future, so that a panic of `call` itself is caught as well.
                let handler = async move {
                    let _here = RunningHere::begin(shared.store.id(), execution.token);
                    let _running = Running::begin();
                    if execution.is_rerun() {
                        onlyonce_storage::kill_point!("doubt: claimed again, handler not called");
                        observe::rerun();
                    }
                    let request = shared.adapter.executing(request, execution);
                    handler.call(request).await
                };
                // Boxed, since each future that it is handed to would have room for it twice.
                let handler = Box::pin(nested::handling(caller_retries, handler));
                fly(shared, grant, handler).await
            };
            let delivery = match flown.response {
                Some(response) => {
                    self.lead.land(flown.landing);
                    Delivery::Response(response)
                }
                None => {
                    self.lead.land(flown.landing.clone());
                    Delivery::SameAsOthers(flown.landing)
                }
            };
            onlyonce_storage::kill_point!("dedupe: waiters told, owner not");
            delivery
        }
    }
}

/// A planted bug: see [`onlyonce_storage::mutants`].
impl<S, A> Owner<S, A>
where
    A: Adapter,
    S: Service<A::Request, Response = A::Response, Error = A::Error> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    async fn effect_first(self) -> Delivery<A::Response, A::Error> {
        let (shared, mut inner) = (&*self.shared, self.inner);
        if let Err(error) = poll_fn(|context| inner.poll_ready(context)).await {
            self.lead.land(Landing::NotExecuted);
            return Delivery::NeverReady(error);
        }
        let execution = Execution::new(onlyonce_storage::FencingToken::new(0, 0), None);
        let request = shared.adapter.executing(self.request, execution);
        let result = inner.call(request).await;
        let landing = match begin(shared, &self.intent, inner, self.lead.flight()).await {
            Begun::Granted(_, grant) => {
                let recording = shared.adapter.record(result).await;
                let held_until = grant.held_until;
                let run = Run::ended(grant, held_until, shared.options.lease);
                settle(shared, run, recording).await.landing
            }
            Begun::Landed(landing) => landing,
            Begun::NeverReady(error) => {
                self.lead.land(Landing::NotExecuted);
                return Delivery::NeverReady(error);
            }
        };
        self.lead.land(landing.clone());
        Delivery::SameAsOthers(landing)
    }
}

/// Runs the handler under a lease that is kept renewed, and settles what it came to.
#[expect(
    clippy::manual_async_fn,
    reason = "an async function has room for each of its arguments twice"
)]
fn fly<A, F>(
    shared: &Shared<A>,
    mut grant: Grant,
    handler: F,
) -> impl Future<Output = Flown<A::Response>> + Send
where
    A: Adapter,
    F: Future<Output = Result<A::Response, A::Error>> + Send,
{
    async move {
        let held_until = Mutex::new(grant.held_until);
        let lease = shared.options.lease;
        let running = under_lease(
            &*shared.store,
            &mut grant.claim,
            &held_until,
            lease,
            handler,
        );
        let ended = running.await;
        let held_until = held_until.into_inner();
        let result = match ended {
            Ended::Itself(Ok(result)) => {
                onlyonce_storage::kill_point!("dedupe: handler returned, answer not encoded");
                result
            }
            Ended::Itself(Err(_panic)) if planted!(PanicReleases) => {
                let grant = Grant {
                    held_until,
                    ..grant
                };
                return Flown {
                    landing: Box::pin(give_back(shared, grant)).await,
                    response: None,
                };
            }
            // A panic may have come before or after the effect.
            Ended::Itself(Err(_panic)) => {
                let run = Run::ended(grant, held_until, lease);
                let flown = doubt(shared, run, DoubtReason::OwnerGone, None, None);
                return Box::pin(flown).await;
            }
            Ended::NeverBegun => {
                let grant = Grant {
                    held_until,
                    ..grant
                };
                return Flown {
                    landing: Box::pin(give_back(shared, grant)).await,
                    response: None,
                };
            }
            Ended::Stopped => {
                let run = Run::ended(grant, held_until, lease);
                let flown = doubt(shared, run, DoubtReason::LeaseLapsed, None, None);
                return Box::pin(flown).await;
            }
        };
        let recording = shared.adapter.record(result).await;
        onlyonce_storage::kill_point!("dedupe: answer encoded, not recorded");
        settle(shared, Run::ended(grant, held_until, lease), recording).await
    }
}

/// Drives the handler, and drops it when its lease cannot be kept.
///
/// It is never polled once the lease is over: a process that was frozen for longer must not go on
/// where it stopped, since somebody else may execute the call by now.
pub(super) async fn under_lease<F: Future + Send>(
    store: &dyn Store,
    claim: &mut Claim,
    held_until: &Mutex<Instant>,
    lease: Duration,
    handler: F,
) -> Ended<std::thread::Result<F::Output>> {
    let mut begun = false;
    let mut handler = pin!(AssertUnwindSafe(handler).catch_unwind());
    let while_held = poll_fn(|context| {
        if Instant::now() >= *held_until.lock() {
            return Poll::Ready(None);
        }
        begun = true;
        handler.as_mut().poll(context).map(Some)
    });
    // Boxed when it is first asked for, since most handlers have returned before.
    let lost = async { Box::pin(keep_renewed(store, claim, held_until, lease)).await };
    let returned = tokio::select! {
        // A tie is won by the answer.
        biased;
        returned = while_held => returned,
        () = lost => None,
    };
    match returned {
        Some(returned) => Ended::Itself(returned),
        None if begun => Ended::Stopped,
        None => Ended::NeverBegun,
    }
}

/// Ends only when the lease can no longer be kept, and then while it still holds.
async fn keep_renewed(
    store: &dyn Store,
    claim: &mut Claim,
    held_until: &Mutex<Instant>,
    lease: Duration,
) {
    let mut held = *held_until.lock();
    let mut next = held - lease + lease / 3;
    loop {
        let stop_at = held - lease / 10;
        tokio::time::sleep_until(next.min(stop_at)).await;
        if Instant::now() >= stop_at {
            return;
        }
        let asked_at = Instant::now();
        match timeout_at(stop_at, store.renew(claim, lease)).await {
            Ok(Ok(())) => {
                onlyonce_storage::kill_point!("dedupe: lease renewed, handler running");
                held = asked_at + lease;
                *held_until.lock() = held;
                next = asked_at + lease / 3;
            }
            Ok(Err(SettleError::Fenced)) | Err(_) => return,
            Ok(Err(_)) => next = Instant::now() + lease / 30,
        }
    }
}
