//! How an execution begins: room in the handler, and the claim.

use std::time::Duration;

use onlyonce_storage::{
    AttemptId, Claim, ClaimOutcome, ClaimRequest, Completion, DoubtReason, FencingToken, InDoubt,
    KeyState, Question, StoreError,
};
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

use super::flight::{Flight, Landing};
use super::patience::{far, patience};
use super::reconcile::{self, Step};
use super::service::Shared;
use super::settle::{doubt_again, give_back, land_in_doubt, unable};
use crate::server::{Adapter, Guarantee, Intent, Refusal, Served};

/// What asking for the claim came to.
enum Asked {
    Claimed(Claim, Instant),
    InDoubt(InDoubt),
    /// Its holder is in another process, or gone.
    InProgress {
        retry_after: Duration,
    },
    Landed(Landing),
}

/// What an execution needs before it runs, or why it does not.
pub(super) enum Begun<S, Err> {
    Granted(S, Grant),
    Landed(Landing),
    NeverReady(Err),
}

/// The right to run the handler once.
pub(super) struct Grant {
    pub(super) claim: Claim,
    /// When the lease ends, on this process' clock.
    pub(super) held_until: Instant,
    /// The doubt that it supersedes, for a re-run.
    pub(super) rerun_of: Option<InDoubt>,
}

/// Whether to look at the store while the handler has no room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It is known that the handler is needed.
    Never,
    Once,
}

/// What waiting for room in the handler came to.
enum Room<Err> {
    /// The handler will never have room.
    Never(Err),
    /// Nobody waits for the call any more.
    NobodyWaits,
    /// The handler has none yet, and the call may need none: something is known of its key.
    NotNeeded,
    /// It is ready.
    Ready,
    /// The store cannot tell.
    Unable(StoreError),
}

/// Waits for room in the handler, then for the claim, for as long as somebody elsewhere executes
/// the call and waiting is worth it.
///
/// Room comes first: a handler that has none has executed nothing, and a claim would be written
/// for nothing. But only what is executed needs room. So while there is none, one look at the
/// store finds the calls that are answered without the handler; and while somebody elsewhere
/// executes, or the outside world is asked, the room (a permit, perhaps, that others wait for) is
/// given back.
///
/// A call in doubt is considered once: whoever finds it in doubt again is told so. What was found
/// applied then is not executed, whatever becomes of its doubt meanwhile.
///
/// Of a journaled call in doubt the store itself knows whether it can go on: it is asked for each doubt
/// once. An attempt that goes on with such a call of the server's own accord takes that call or nothing.
pub(super) async fn begin<S, A>(
    shared: &Shared<A>,
    intent: &Intent,
    mut inner: S,
    flight: &Flight,
) -> Begun<S, S::Error>
where
    A: Adapter,
    S: Service<A::Request> + Clone,
{
    // A handler that is not journaled any more would have anew what its steps have had.
    if intent.goes_on_from.is_some() && intent.guarantee != Guarantee::Journaled {
        return Begun::Landed(Landing::NotExecuted);
    }
    // The same in each round, so that a store which lost its answer knows its own claim again.
    let attempt = AttemptId::random();
    let give_up_at = far(patience(shared.options.wait, intent.deadline));
    let mut considered = false;
    let mut rerun_of = intent.goes_on_from.map(|token| InDoubt {
        token,
        since: shared.store.now(),
        reason: DoubtReason::OwnerGone,
        answer: None,
    });
    let mut applied: Option<InDoubt> = None;
    loop {
        let look = if rerun_of.is_none() {
            Look::Once
        } else {
            Look::Never
        };
        let ready = match room(shared, intent, &mut inner, flight, look).await {
            Room::Never(error) => return Begun::NeverReady(error),
            Room::NobodyWaits => return Begun::Landed(Landing::NotExecuted),
            Room::NotNeeded => {
                give_back_room(&mut inner);
                false
            }
            Room::Ready => true,
            Room::Unable(error) => return Begun::Landed(Landing::Refused(unable(&error))),
        };
        onlyonce_storage::kill_point!("dedupe: handler ready, key not claimed");
        let rerun = rerun_of.as_ref().map(|before| before.token);
        match (claim(shared, intent, attempt, rerun).await, ready) {
            (Asked::Claimed(claim, held_until), _) if let Some(in_doubt) = applied => {
                let again = doubt_again(shared, (claim, held_until), in_doubt);
                let landing = Box::pin(again).await;
                return Begun::Landed(landing);
            }
            (Asked::Claimed(claim, held_until), true) => {
                let grant = Grant {
                    claim,
                    held_until,
                    rerun_of,
                };
                return Begun::Granted(inner, grant);
            }
            // The key became free between the look and the claim.
            (Asked::Claimed(claim, held_until), false) => {
                let grant = Grant {
                    claim,
                    held_until,
                    rerun_of: rerun_of.clone(),
                };
                match Box::pin(give_back(shared, grant)).await {
                    Landing::NotExecuted => {}
                    landing => return Begun::Landed(landing),
                }
            }
            // Somebody was faster; who waits for this attempt asks for himself.
            (Asked::InDoubt(_) | Asked::InProgress { .. }, _) if intent.goes_on_from.is_some() => {
                return Begun::Landed(Landing::NotExecuted);
            }
            (Asked::InDoubt(in_doubt), _) if intent.guarantee == Guarantee::Journaled => {
                let asked = rerun_of.as_ref().map(|before| before.token) == Some(in_doubt.token);
                if asked || (considered && Instant::now() >= give_up_at) {
                    return Begun::Landed(land_in_doubt(in_doubt));
                }
                give_back_room(&mut inner);
                considered = true;
                onlyonce_storage::kill_point!("journal: found standing still, not claimed");
                rerun_of = Some(in_doubt);
            }
            (Asked::InDoubt(in_doubt), _) if considered => {
                return Begun::Landed(land_in_doubt(in_doubt));
            }
            (Asked::InDoubt(in_doubt), _) => {
                give_back_room(&mut inner);
                considered = true;
                match Box::pin(reconcile::consider(shared, intent, in_doubt)).await {
                    Step::AskAgain => {}
                    Step::Superseded(in_doubt) => applied = Some(in_doubt),
                    Step::Land(landing) => return Begun::Landed(landing),
                    Step::Rerun(in_doubt) => {
                        onlyonce_storage::kill_point!("doubt: to run again, not claimed");
                        rerun_of = Some(in_doubt);
                    }
                }
            }
            (Asked::InProgress { retry_after }, _) => {
                give_back_room(&mut inner);
                let over = Box::pin(until_over(shared, intent, give_up_at, retry_after));
                tokio::select! {
                    biased;
                    () = flight.left() => return Begun::Landed(Landing::NotExecuted),
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
async fn room<S, A>(
    shared: &Shared<A>,
    intent: &Intent,
    inner: &mut S,
    flight: &Flight,
    look: Look,
) -> Room<S::Error>
where
    A: Adapter,
    S: Service<A::Request>,
{
    // What a peek finds may belong to another request, which only the claim can tell.
    let known = async {
        if look == Look::Never {
            return std::future::pending().await;
        }
        let (key, first_sent) = (intent.key.clone(), intent.first_sent);
        match shared.store.ask(Question::Peek, key, first_sent).await {
            Ok(KeyState::Absent) => std::future::pending().await,
            // Of who does not say when it was first sent it may mean "executed, or never made".
            Ok(KeyState::Stale) if first_sent.is_none() => std::future::pending().await,
            Ok(_) => Room::NotNeeded,
            Err(error) => Room::Unable(error),
        }
    };
    tokio::select! {
        // A handler that has room costs no look at the store, and runs though its caller is gone.
        biased;
        ready = inner.ready() => ready.map_or_else(Room::Never, |_| Room::Ready),
        () = flight.left() => Room::NobodyWaits,
        known = known => known,
    }
}

/// Gives the room of a handler, or its place in the line for it, to somebody else.
fn give_back_room<S: Clone>(inner: &mut S) {
    // A clone has none.
    *inner = inner.clone();
}

/// Asks the store for the claim, once.
async fn claim<A>(
    shared: &Shared<A>,
    intent: &Intent,
    attempt: AttemptId,
    rerun_of: Option<FencingToken>,
) -> Asked {
    let lease = shared.options.lease;
    let request = ClaimRequest {
        key: intent.key.clone(),
        fingerprints: intent.fingerprints.clone(),
        attempt,
        lease: match onlyonce_storage::planted!(LeaseTooShort) {
            true => Duration::from_millis(1),
            false => lease,
        },
        retention: shared.options.retention,
        first_sent: match intent.goes_on_from {
            // No key that is absent is claimed for such a call: who goes on with a call that somebody
            // has ended meanwhile must not begin it anew.
            Some(_) => Some(shared.store.now().plus(AHEAD)),
            None => intent.first_sent,
        },
        session: intent.session,
        rerun_of,
        journal: match intent.guarantee {
            Guarantee::Journaled => intent.stored_request.clone(),
            _ => None,
        },
    };
    // Before the store is asked, so that our idea of the lease ends before the store's does.
    let asked_at = Instant::now();
    let asked = match intent.guarantee {
        Guarantee::Claimed => shared.store.claim(request),
        Guarantee::Transactional => match shared.transactional() {
            Ok(store) => store.begin(request),
            Err(refusal) => return Asked::Landed(Landing::Refused(refusal)),
        },
        Guarantee::Journaled => match shared.journal() {
            Ok(_) if request.journal.is_none() => {
                return Asked::Landed(Landing::Refused(not_stored()));
            }
            Ok(_) => shared.store.claim(request),
            Err(refusal) => return Asked::Landed(Landing::Refused(refusal)),
        },
    };
    let outcome = match asked.await {
        Ok(outcome) => outcome,
        Err(StoreError::JournalTooLarge { limit, .. }) => {
            return Asked::Landed(Landing::Refused(Refusal::TooLarge { limit }));
        }
        Err(error) => return Asked::Landed(Landing::Refused(unable(&error))),
    };
    Asked::Landed(match outcome {
        ClaimOutcome::Claimed(claim) => {
            return Asked::Claimed(claim, asked_at + lease);
        }
        ClaimOutcome::InProgress { retry_after } => return Asked::InProgress { retry_after },
        ClaimOutcome::Completed(Completion { answer, .. }) => {
            Landing::Answer(answer, Served::Replayed)
        }
        ClaimOutcome::InDoubt(in_doubt) => return Asked::InDoubt(in_doubt),
        ClaimOutcome::FirstSentAhead if intent.goes_on_from.is_some() => Landing::NotExecuted,
        ClaimOutcome::FirstSentAhead => Landing::Refused(Refusal::FirstSentAhead),
        ClaimOutcome::Mismatch => Landing::Refused(Refusal::Mismatch),
        ClaimOutcome::OverQuota => Landing::Refused(Refusal::OverQuota {
            retry_after: RETRY_AFTER_MAX,
        }),
        ClaimOutcome::SessionExpired => Landing::Refused(Refusal::SessionExpired),
        ClaimOutcome::Stale => Landing::Refused(Refusal::Stale),
        ClaimOutcome::UnknownSession => Landing::Refused(Refusal::UnknownSession),
        ClaimOutcome::WindowFull => Landing::Refused(Refusal::WindowFull),
    })
}

fn not_stored() -> Refusal {
    Refusal::Unavailable {
        reason: "the server's adapter stores no requests of journaled calls".to_owned(),
        retry_after: RETRY_AFTER_MAX,
    }
}

/// Looks until the execution elsewhere is over: the answer, or the lapse of the lease, is the
/// store's to tell. Where the store hears of it, it is looked at once.
async fn until_over<A>(
    shared: &Shared<A>,
    intent: &Intent,
    give_up_at: Instant,
    retry_after: Duration,
) -> Result<(), Refusal> {
    let mut pause = POLL_PAUSE_MIN;
    let mut told = shared.store.until_told(&intent.key);
    while Instant::now() + pause <= give_up_at {
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(POLL_PAUSE_MAX),
            // Before the look, so that a word that comes meanwhile is heard.
            () = &mut told => told = shared.store.until_told(&intent.key),
        }
        match shared.store.peek(intent.key.clone()).await {
            Ok(KeyState::InProgress { .. }) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(unable(&error)),
        }
    }
    let retry_after = retry_after.clamp(POLL_PAUSE_MIN, RETRY_AFTER_MAX);
    Err(Refusal::InProgress { retry_after })
}

/// The first look comes soon, since most calls take milliseconds; later ones rarely, since each
/// costs the store a read.
const POLL_PAUSE_MIN: Duration = Duration::from_millis(10);
const POLL_PAUSE_MAX: Duration = Duration::from_millis(250);

/// A claim in progress elsewhere may end long before its lease does.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// Far more than clocks may differ.
const AHEAD: Duration = Duration::from_secs(24 * 60 * 60);
