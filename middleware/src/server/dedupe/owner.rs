//! The one execution of a call: claim, run, settle, tell.
//!
//! It runs in a task of its own, so that neither a caller who goes away nor one who stops waiting
//! can abandon an effect half-way.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use onlyonce_storage::{
    Answer, Claim, ClaimOutcome, ClaimRequest, Completion, DoubtReason, InDoubt, KeyState,
    SettleError, Store, StoreError,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};
use tower::{Service, ServiceExt};

use super::flight::{Landing, Lead};
use super::options::Wait;
use super::service::Shared;
use crate::observe::server::Running;
use crate::server::{Adapter, Intent, Outcome, Recording, Refusal, Served};

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

/// What an execution came to.
struct Flown<Res> {
    /// For those who waited.
    landing: Landing,
    /// For the caller who began it, where that differs.
    response: Option<Res>,
}

/// What asking for the claim came to.
enum Asked {
    Claimed(Claim, Instant),
    Landed(Landing),
}

impl<S, A> Owner<S, A>
where
    A: Adapter,
    S: Service<A::Request, Response = A::Response, Error = A::Error> + Send + 'static,
    S::Future: Send + 'static,
{
    /// Executes the call, at most once, and delivers.
    pub(super) async fn execute(self, deliver: oneshot::Sender<Delivery<A::Response, A::Error>>) {
        let Self {
            shared,
            mut inner,
            intent,
            request,
            lead,
        } = self;
        // Readiness comes before the claim: a handler that has no room has executed nothing.
        let ready = match inner.ready().await {
            Ok(ready) => ready,
            Err(error) => {
                lead.land(Landing::NotExecuted);
                // OK because a caller who went away needs no answer.
                let _ = deliver.send(Delivery::NeverReady(error));
                return;
            }
        };
        onlyonce_storage::kill_point!("dedupe: handler ready, key not claimed");
        let (claim, held_until) = match ask(&shared, &intent).await {
            Asked::Claimed(claim, held_until) => (claim, held_until),
            Asked::Landed(landing) => {
                onlyonce_storage::kill_point!("dedupe: key taken before, nobody told");
                lead.land(landing.clone());
                let _ = deliver.send(Delivery::SameAsOthers(landing));
                return;
            }
        };
        onlyonce_storage::kill_point!("dedupe: claimed, handler not called");
        let flown = if lead.flight().start_running() {
            // Inside a future, so that a panic of `call` itself is caught as well.
            let handler = async {
                let _running = Running::begin();
                ready.call(request).await
            };
            fly(&shared, claim, held_until, handler).await
        } else {
            release(&shared, claim, None).await
        };
        lead.land(flown.landing.clone());
        onlyonce_storage::kill_point!("dedupe: waiters told, owner not");
        let _ = deliver.send(match flown.response {
            Some(response) => Delivery::Response(response),
            None => Delivery::SameAsOthers(flown.landing),
        });
    }
}

/// Asks the store, for as long as somebody elsewhere executes the call and waiting is worth it.
async fn ask<A>(shared: &Shared<A>, intent: &Intent) -> Asked {
    let options = &shared.options;
    let mut request = ClaimRequest::new(
        intent.key.clone(),
        intent.fingerprints.clone(),
        options.lease,
    );
    request.retention = options.retention;
    request.first_sent = intent.first_sent;
    request.session = intent.session;
    let patience = patience(options.wait, intent.deadline);
    let give_up_at = Instant::now() + patience;
    let mut pause = POLL_PAUSE_MIN;
    loop {
        // Before the store is asked, so that our idea of the lease ends before the store's does.
        let asked_at = Instant::now();
        let outcome = match shared.store.claim(request.clone()).await {
            Ok(outcome) => outcome,
            Err(error) => return Asked::Landed(Landing::Refused(unable(&error))),
        };
        let landing = match outcome {
            ClaimOutcome::Claimed(claim) => {
                return Asked::Claimed(claim, asked_at + options.lease);
            }
            ClaimOutcome::InProgress { retry_after } => {
                // The claim's holder is in another process, or gone. We look again: the answer,
                // or the lapse of the lease, is the store's to tell.
                if Instant::now() + pause <= give_up_at {
                    sleep(pause).await;
                    pause = (pause * 2).min(POLL_PAUSE_MAX);
                    continue;
                }
                let retry_after = retry_after.clamp(POLL_PAUSE_MIN, RETRY_AFTER_MAX);
                Landing::Refused(Refusal::InProgress { retry_after })
            }
            ClaimOutcome::Completed(Completion { answer, .. }) => {
                Landing::Answer(answer, Served::Replayed)
            }
            ClaimOutcome::InDoubt(in_doubt) => land_in_doubt(in_doubt),
            ClaimOutcome::FirstSentAhead => Landing::Refused(Refusal::FirstSentAhead),
            ClaimOutcome::Mismatch => Landing::Refused(Refusal::Mismatch),
            ClaimOutcome::OverQuota => Landing::Refused(Refusal::OverQuota {
                retry_after: RETRY_AFTER_MAX,
            }),
            ClaimOutcome::Stale => Landing::Refused(Refusal::Stale),
        };
        return Asked::Landed(landing);
    }
}

/// Runs the handler under a lease that is kept renewed, and settles what it came to.
async fn fly<A, F>(
    shared: &Shared<A>,
    mut claim: Claim,
    held_until: Instant,
    handler: F,
) -> Flown<A::Response>
where
    A: Adapter,
    F: Future<Output = Result<A::Response, A::Error>> + Send,
{
    let ended = {
        let handler = AssertUnwindSafe(handler).catch_unwind();
        let lost = keep_renewed(&*shared.store, &mut claim, held_until, shared.options.lease);
        tokio::select! {
            // A tie is won by the answer.
            biased;
            result = handler => Some(result),
            () = lost => None,
        }
    };
    match ended {
        Some(Ok(result)) => {
            onlyonce_storage::kill_point!("dedupe: handler returned, answer not encoded");
            let Recording { outcome, response } = shared.adapter.record(result).await;
            onlyonce_storage::kill_point!("dedupe: answer encoded, not recorded");
            settle(shared, claim, outcome, response).await
        }
        // A panic may have come before or after the effect.
        Some(Err(_panic)) => doubt(shared, claim, DoubtReason::OwnerGone, None, None).await,
        // The handler was dropped above, while the lease still held.
        None => doubt(shared, claim, DoubtReason::LeaseLapsed, None, None).await,
    }
}

/// Makes the outcome durable before anybody hears of it.
async fn settle<A>(
    shared: &Shared<A>,
    claim: Claim,
    outcome: Outcome,
    response: Option<A::Response>,
) -> Flown<A::Response>
where
    A: Adapter,
{
    match outcome {
        Outcome::Record(answer) => complete(shared, claim, answer, response).await,
        Outcome::NotExecuted => release(shared, claim, response).await,
        Outcome::InDoubt(answer) => {
            doubt(shared, claim, DoubtReason::Ambiguous, answer, response).await
        }
    }
}

async fn complete<A>(
    shared: &Shared<A>,
    claim: Claim,
    answer: Answer,
    response: Option<A::Response>,
) -> Flown<A::Response>
where
    A: Adapter,
{
    let key = claim.key().clone();
    let token = claim.token();
    match shared.store.complete(claim, answer.clone()).await {
        Ok(()) => {
            onlyonce_storage::kill_point!("dedupe: answer recorded, nobody told");
            Flown {
                landing: Landing::Answer(answer, Served::Attached),
                response: response.map(|response| shared.mark(response, Served::Executed)),
            }
        }
        // Somebody resolved the doubt that our claim had fallen into. What the record says now is
        // what everybody gets.
        Err(SettleError::Fenced) => {
            let landing = match shared.store.peek(key).await {
                Ok(KeyState::Completed(completion)) => {
                    Landing::Answer(completion.answer, Served::Replayed)
                }
                Ok(_) | Err(_) => unrecorded(shared, token),
            };
            Flown {
                landing,
                response: None,
            }
        }
        // The answer exists and cannot be kept: it is delivered this once, and says so.
        Err(_) => Flown {
            landing: unrecorded(shared, token),
            response: response.map(|response| shared.mark(response, Served::ExecutedUnrecorded)),
        },
    }
}

async fn release<A>(
    shared: &Shared<A>,
    claim: Claim,
    response: Option<A::Response>,
) -> Flown<A::Response>
where
    A: Adapter,
{
    // A release that fails leaves the key to lapse into doubt. This attempt was not executed all
    // the same, and the response may say so.
    let released = shared.store.release(claim).await;
    onlyonce_storage::kill_point!("dedupe: released, nobody told");
    let landing = match released {
        Ok(()) => Landing::NotExecuted,
        Err(SettleError::Fenced) => Landing::NotExecuted,
        Err(SettleError::Store(error)) => Landing::Refused(unable(&error)),
        Err(_) => Landing::NotExecuted,
    };
    let response = response.map(|response| shared.mark(response, Served::NotExecuted));
    Flown { landing, response }
}

async fn doubt<A>(
    shared: &Shared<A>,
    claim: Claim,
    reason: DoubtReason,
    answer: Option<Answer>,
    response: Option<A::Response>,
) -> Flown<A::Response>
where
    A: Adapter,
{
    let in_doubt = InDoubt {
        token: claim.token(),
        since: shared.store.now(),
        reason,
        answer: answer.clone(),
    };
    // A failure to write the doubt leaves a claim in progress, which lapses into the same doubt.
    let written = shared.store.doubt(claim, reason, answer).await;
    onlyonce_storage::kill_point!("dedupe: doubt recorded, nobody told");
    let kept = written.is_ok();
    let in_doubt = InDoubt {
        answer: in_doubt.answer.filter(|_| kept),
        ..in_doubt
    };
    Flown {
        landing: land_in_doubt(in_doubt),
        response: response.map(|response| shared.mark(response, Served::InDoubt)),
    }
}

/// Ends only when the lease can no longer be kept, and then while it still holds.
async fn keep_renewed(store: &dyn Store, claim: &mut Claim, held_until: Instant, lease: Duration) {
    let mut held_until = held_until;
    let mut next = held_until - lease + lease / 3;
    loop {
        let stop_at = held_until - lease / 10;
        tokio::time::sleep_until(next.min(stop_at)).await;
        if Instant::now() >= stop_at {
            return;
        }
        let asked_at = Instant::now();
        match timeout_at(stop_at, store.renew(claim, lease)).await {
            Ok(Ok(())) => {
                onlyonce_storage::kill_point!("dedupe: lease renewed, handler running");
                held_until = asked_at + lease;
                next = asked_at + lease / 3;
            }
            Ok(Err(SettleError::Fenced)) | Err(_) => return,
            Ok(Err(_)) => next = Instant::now() + lease / 30,
        }
    }
}

fn land_in_doubt(in_doubt: InDoubt) -> Landing {
    match in_doubt.answer {
        Some(answer) => Landing::Answer(answer, Served::InDoubt),
        None => Landing::InDoubt(in_doubt),
    }
}

fn unrecorded<A>(shared: &Shared<A>, token: onlyonce_storage::FencingToken) -> Landing {
    let since = shared.store.now();
    Landing::InDoubt(InDoubt {
        token,
        since,
        reason: DoubtReason::Unrecorded,
        answer: None,
    })
}

fn unable(error: &StoreError) -> Refusal {
    Refusal::Unavailable {
        reason: error.to_string(),
        retry_after: error.retry_after(),
    }
}

/// How long a duplicate waits for the execution of another.
pub(super) fn patience(wait: Wait, deadline: Option<Instant>) -> Duration {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    match wait {
        Wait::No => Duration::ZERO,
        Wait::UntilDeadline => left.unwrap_or(WAIT_WITHOUT_DEADLINE),
        Wait::UpTo(limit) => left.map_or(limit, |left| left.min(limit)),
    }
}

/// The first look comes soon, since most calls take milliseconds; later ones rarely, since each
/// costs the store a read.
const POLL_PAUSE_MIN: Duration = Duration::from_millis(10);
const POLL_PAUSE_MAX: Duration = Duration::from_millis(250);

/// A claim in progress elsewhere may end long before its lease does.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// A duplicate without deadline does not wait for ever: a call's default deadline is 30 s.
const WAIT_WITHOUT_DEADLINE: Duration = Duration::from_secs(30);
