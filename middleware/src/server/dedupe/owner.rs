//! The one execution of a call: it begins, runs under its lease, is settled, and told.
//!
//! It runs in a task of its own, so that neither a caller who goes away nor one who stops waiting
//! can abandon an effect half-way. What happens seldom is boxed there: every task has room for the
//! largest of what it may await, and is moved as a whole.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use onlyonce_storage::{Claim, DoubtReason, SettleError, Store, planted};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tower::Service;

use super::begin::{Begun, Grant, begin};
use super::flight::{Landing, Lead};
use super::in_doubt::Execution;
use super::runs::RunningHere;
use super::service::Shared;
use super::settle::{Flown, Run, doubt, give_back, settle, settle_by};
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
    /// Executes the call, at most once, and delivers.
    pub(super) async fn execute(
        self,
        mut deliver: oneshot::Sender<Delivery<A::Response, A::Error>>,
    ) {
        let Self {
            shared,
            inner,
            intent,
            request,
            lead,
        } = self;
        let (mut handler, grant) = match begin(&shared, &intent, inner, &mut deliver).await {
            Begun::Granted(handler, grant) => (handler, grant),
            Begun::Landed(landing) => {
                onlyonce_storage::kill_point!("dedupe: key taken before, nobody told");
                lead.land(landing.clone());
                // OK because a caller who went away needs no answer.
                let _ = deliver.send(Delivery::SameAsOthers(landing));
                return;
            }
            Begun::NeverReady(error) => {
                lead.land(Landing::NotExecuted);
                let _ = deliver.send(Delivery::NeverReady(error));
                return;
            }
        };
        onlyonce_storage::kill_point!("dedupe: claimed, handler not called");
        let flown = if !lead.flight().start_running() {
            Flown {
                landing: Box::pin(give_back(&shared, grant)).await,
                response: None,
            }
        } else if intent.guarantee == Guarantee::Transactional {
            let flown = transact::fly(&shared, grant, handler, request);
            Box::pin(nested::handling(intent.caller_retries, flown)).await
        } else {
            let before = grant.rerun_of.as_ref().map(|before| before.token);
            let execution = Execution::new(grant.claim.token(), before);
            // Inside a future, so that a panic of `call` itself is caught as well.
            let handler = async {
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
            let handler = Box::pin(nested::handling(intent.caller_retries, handler));
            tokio::select! {
                biased;
                () = deliver.closed(), if planted!(HandlerTiedToConnection) => return,
                flown = fly(&shared, grant, handler) => flown,
            }
        };
        lead.land(flown.landing.clone());
        onlyonce_storage::kill_point!("dedupe: waiters told, owner not");
        let _ = deliver.send(match flown.response {
            Some(response) => Delivery::Response(response),
            None => Delivery::SameAsOthers(flown.landing),
        });
    }
}

/// Runs the handler under a lease that is kept renewed, and settles what it came to.
async fn fly<A, F>(shared: &Shared<A>, grant: Grant, handler: F) -> Flown<A::Response>
where
    A: Adapter,
    F: Future<Output = Result<A::Response, A::Error>> + Send,
{
    let Grant {
        mut claim,
        held_until,
        rerun_of,
    } = grant;
    let lease = shared.options.lease;
    let held_until = Mutex::new(held_until);
    let ended = under_lease(&*shared.store, &mut claim, &held_until, lease, handler).await;
    let held_until = held_until.into_inner();
    let run = |claim, rerun_of| Run {
        claim,
        rerun_of,
        settle_by: settle_by(held_until, lease),
    };
    match ended {
        Ended::Itself(Ok(result)) => {
            onlyonce_storage::kill_point!("dedupe: handler returned, answer not encoded");
            let recording = shared.adapter.record(result).await;
            onlyonce_storage::kill_point!("dedupe: answer encoded, not recorded");
            settle(shared, run(claim, rerun_of), recording).await
        }
        Ended::Itself(Err(_panic)) if planted!(PanicReleases) => {
            let grant = Grant {
                claim,
                held_until,
                rerun_of,
            };
            let landing = Box::pin(give_back(shared, grant)).await;
            let response = None;
            Flown { landing, response }
        }
        // A panic may have come before or after the effect.
        Ended::Itself(Err(_panic)) => {
            let run = run(claim, rerun_of);
            Box::pin(doubt(shared, run, DoubtReason::OwnerGone, None, None)).await
        }
        Ended::NeverBegun => {
            let grant = Grant {
                claim,
                held_until,
                rerun_of,
            };
            Flown {
                landing: Box::pin(give_back(shared, grant)).await,
                response: None,
            }
        }
        Ended::Stopped => {
            let run = run(claim, rerun_of);
            Box::pin(doubt(shared, run, DoubtReason::LeaseLapsed, None, None)).await
        }
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
    let lost = keep_renewed(store, claim, held_until, lease);
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
