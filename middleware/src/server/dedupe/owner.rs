//! The one execution of a call: claim, run, settle, tell.
//!
//! It runs in a task of its own, so that neither a caller who goes away nor one who stops waiting
//! can abandon an effect half-way.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use onlyonce_storage::{
    Answer, Claim, ClaimOutcome, ClaimRequest, Completion, DoubtReason, FencingToken, InDoubt,
    KeyState, ScopedKey, SettleError, Store, StoreError,
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
    /// Its holder is in another process, or gone.
    InProgress {
        retry_after: Duration,
    },
    Landed(Landing),
}

/// What an execution needs before it runs, or why it does not.
enum Begun<S, Err> {
    Claimed(S, Claim, Instant),
    Landed(Landing),
    NeverReady(Err),
}

/// What waiting for room in the handler came to.
enum Room<S, Err> {
    /// The handler will never have room.
    Never(Err),
    /// Nobody waits for the call any more.
    NobodyWaits,
    /// The handler has none yet, and the call may need none: something is known of its key.
    NotNeeded,
    /// This instance is ready.
    Ready(S),
    /// The store cannot tell.
    Unable(StoreError),
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
        let (mut handler, claim, held_until) =
            match begin(&shared, &intent, inner, &mut deliver).await {
                Begun::Claimed(handler, claim, held_until) => (handler, claim, held_until),
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
        let flown = if lead.flight().start_running() {
            // Inside a future, so that a panic of `call` itself is caught as well.
            let handler = async {
                let _running = Running::begin();
                handler.call(request).await
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

/// Waits for room in the handler, then for the claim, for as long as somebody elsewhere executes
/// the call and waiting is worth it.
///
/// Room comes first: a handler that has none has executed nothing, and a claim would be written
/// for nothing. But only what is executed needs room. So while there is none, one look at the
/// store finds the calls that are answered without the handler; and while somebody elsewhere
/// executes, the room (a permit, perhaps, that others wait for) is given back.
async fn begin<S, A, Res>(
    shared: &Shared<A>,
    intent: &Intent,
    inner: S,
    deliver: &mut oneshot::Sender<Delivery<Res, S::Error>>,
) -> Begun<S, S::Error>
where
    A: Adapter,
    S: Service<A::Request> + Clone,
{
    let mut request = ClaimRequest::new(
        intent.key.clone(),
        intent.fingerprints.clone(),
        shared.options.lease,
    );
    request.retention = shared.options.retention;
    request.first_sent = intent.first_sent;
    request.session = intent.session;
    let give_up_at = far(patience(shared.options.wait, intent.deadline));
    loop {
        let ready = match room(shared, intent, inner.clone(), deliver).await {
            Room::Never(error) => return Begun::NeverReady(error),
            Room::NobodyWaits => return Begun::Landed(Landing::NotExecuted),
            Room::NotNeeded => None,
            Room::Ready(handler) => Some(handler),
            Room::Unable(error) => return Begun::Landed(Landing::Refused(unable(&error))),
        };
        onlyonce_storage::kill_point!("dedupe: handler ready, key not claimed");
        match (claim(shared, &request).await, ready) {
            (Asked::Claimed(claim, held_until), Some(handler)) => {
                return Begun::Claimed(handler, claim, held_until);
            }
            // The key became free between the look and the claim. Whether or not this is written,
            // nothing was executed: a claim that stays lapses into doubt.
            (Asked::Claimed(claim, _), None) => {
                if let Err(error) = shared.store.release(claim).await {
                    let landing = not_released(error);
                    return Begun::Landed(landing);
                }
            }
            (Asked::InProgress { retry_after }, ready) => {
                drop(ready);
                let over = until_over(shared, intent, give_up_at, retry_after);
                tokio::select! {
                    () = deliver.closed() => return Begun::Landed(Landing::NotExecuted),
                    over = over => match over {
                        Ok(()) => {}
                        Err(refusal) => return Begun::Landed(Landing::Refused(refusal)),
                    },
                }
            }
            (Asked::Landed(landing), _) => return Begun::Landed(landing),
        }
    }
}

/// Waits until `inner` is ready, unless the call may be answered without it or nobody waits.
async fn room<S, A, Res>(
    shared: &Shared<A>,
    intent: &Intent,
    inner: S,
    deliver: &mut oneshot::Sender<Delivery<Res, S::Error>>,
) -> Room<S, S::Error>
where
    A: Adapter,
    S: Service<A::Request>,
{
    // What a peek finds may belong to another request, which only the claim can tell.
    let known = async {
        match shared.store.peek(intent.key.clone()).await {
            Ok(KeyState::Absent) => std::future::pending().await,
            Ok(_) => Room::NotNeeded,
            Err(error) => Room::Unable(error),
        }
    };
    tokio::select! {
        // A handler that has room costs no look at the store, and runs though its caller is gone.
        biased;
        ready = inner.ready_oneshot() => ready.map_or_else(Room::Never, Room::Ready),
        () = deliver.closed() => Room::NobodyWaits,
        known = known => known,
    }
}

/// Asks the store for the claim, once.
async fn claim<A>(shared: &Shared<A>, request: &ClaimRequest) -> Asked {
    // Before the store is asked, so that our idea of the lease ends before the store's does.
    let asked_at = Instant::now();
    let outcome = match shared.store.claim(request.clone()).await {
        Ok(outcome) => outcome,
        Err(error) => return Asked::Landed(Landing::Refused(unable(&error))),
    };
    Asked::Landed(match outcome {
        ClaimOutcome::Claimed(claim) => {
            return Asked::Claimed(claim, asked_at + request.lease);
        }
        ClaimOutcome::InProgress { retry_after } => return Asked::InProgress { retry_after },
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
    })
}

/// Looks until the execution elsewhere is over: the answer, or the lapse of the lease, is the
/// store's to tell.
async fn until_over<A>(
    shared: &Shared<A>,
    intent: &Intent,
    give_up_at: Instant,
    retry_after: Duration,
) -> Result<(), Refusal> {
    let mut pause = POLL_PAUSE_MIN;
    while Instant::now() + pause <= give_up_at {
        sleep(pause).await;
        pause = (pause * 2).min(POLL_PAUSE_MAX);
        match shared.store.peek(intent.key.clone()).await {
            Ok(KeyState::InProgress { .. }) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(unable(&error)),
        }
    }
    let retry_after = retry_after.clamp(POLL_PAUSE_MIN, RETRY_AFTER_MAX);
    Err(Refusal::InProgress { retry_after })
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
        // Somebody settled the doubt that our claim had fallen into.
        Err(SettleError::Fenced) => Flown {
            landing: settled_by_another(shared, key, token, DoubtReason::Unrecorded).await,
            response: None,
        },
        // The answer exists and cannot be kept: it is delivered this once, and says so.
        Err(_) => Flown {
            landing: Landing::InDoubt(InDoubt {
                token,
                since: shared.store.now(),
                reason: DoubtReason::Unrecorded,
                answer: None,
            }),
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
    let released = shared.store.release(claim).await;
    onlyonce_storage::kill_point!("dedupe: released, nobody told");
    let landing = match released {
        Ok(()) => Landing::NotExecuted,
        Err(error) => not_released(error),
    };
    let response = response.map(|response| shared.mark(response, Served::NotExecuted));
    Flown { landing, response }
}

/// A release that fails leaves the key to lapse into doubt. This attempt was not executed all the
/// same.
fn not_released(error: SettleError) -> Landing {
    match error {
        SettleError::Store(error) => Landing::Refused(unable(&error)),
        _ => Landing::NotExecuted,
    }
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
    let key = claim.key().clone();
    let in_doubt = InDoubt {
        token: claim.token(),
        since: shared.store.now(),
        reason,
        answer: None,
    };
    let written = shared.store.doubt(claim, reason, answer.clone()).await;
    onlyonce_storage::kill_point!("dedupe: doubt recorded, nobody told");
    match written {
        // What the handler answered is said to be kept, so it is given only where it is: otherwise
        // the next duplicate would hear something else.
        Ok(()) => Flown {
            response: response
                .filter(|_| answer.is_some())
                .map(|response| shared.mark(response, Served::InDoubt)),
            landing: land_in_doubt(InDoubt { answer, ..in_doubt }),
        },
        Err(SettleError::Fenced) => Flown {
            landing: settled_by_another(shared, key, in_doubt.token, reason).await,
            response: None,
        },
        // What could not be written is a claim in progress, which lapses into the same doubt.
        Err(_) => Flown {
            landing: land_in_doubt(in_doubt),
            response: None,
        },
    }
}

/// What is known of a call whose claim is no longer the record's.
///
/// A completion under our own token was made for our own execution: by whoever resolved its doubt,
/// or by ourselves, and only the store's word of it got lost. One under another token belongs to a
/// later claim, perhaps of another request: it says nothing about what our handler did.
async fn settled_by_another<A>(
    shared: &Shared<A>,
    key: ScopedKey,
    token: FencingToken,
    reason: DoubtReason,
) -> Landing {
    match shared.store.peek(key).await {
        Ok(KeyState::Completed(completion)) if completion.token == token => {
            Landing::Answer(completion.answer, Served::Replayed)
        }
        Ok(_) | Err(_) => Landing::InDoubt(InDoubt {
            token,
            since: shared.store.now(),
            reason,
            answer: None,
        }),
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

/// When `duration` has passed; a time that nobody lives to see where it is longer.
pub(crate) fn far(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration)
        .unwrap_or_else(|| now + A_LIFETIME)
}

/// Clocks reach this far everywhere.
const A_LIFETIME: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The first look comes soon, since most calls take milliseconds; later ones rarely, since each
/// costs the store a read.
const POLL_PAUSE_MIN: Duration = Duration::from_millis(10);
const POLL_PAUSE_MAX: Duration = Duration::from_millis(250);

/// A claim in progress elsewhere may end long before its lease does.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// A duplicate without deadline does not wait for ever: a call's default deadline is 30 s.
const WAIT_WITHOUT_DEADLINE: Duration = Duration::from_secs(30);
