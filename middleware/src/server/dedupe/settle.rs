//! How an execution ends: its outcome is durable before anybody hears of it.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;
use onlyonce_storage::{
    Answer, Claim, DoubtReason, FencingToken, InDoubt, KeyState, ScopedKey, SettleError, StoreError,
};
use tokio::time::Instant;

use super::begin::Grant;
use super::flight::Landing;
use super::patience::by;
use super::service::Shared;
use crate::server::{Adapter, Outcome, Recording, Refusal, Served};

/// What an execution came to.
pub(super) struct Flown<Res> {
    /// For those who waited.
    pub(super) landing: Landing,
    /// For the caller who began it, where that differs.
    pub(super) response: Option<Res>,
}

/// A run of the handler that has ended.
pub(super) struct Run {
    pub(super) claim: Claim,
    /// The doubt that it superseded, for a re-run.
    pub(super) rerun_of: Option<InDoubt>,
    /// When the store is no longer waited for: what it has not acknowledged by then is not known
    /// to be recorded.
    pub(super) settle_by: Instant,
    /// Whether the call goes on with another run where its answer is not known to be recorded. Then
    /// this one's is given to nobody: the next may be another.
    pub(super) goes_on: bool,
}

// === impl Run ===

impl Run {
    /// The run under this grant, whose lease holds until then.
    pub(super) fn ended(grant: Grant, held_until: Instant, lease: Duration) -> Self {
        Self {
            claim: grant.claim,
            rerun_of: grant.rerun_of,
            settle_by: settle_by(held_until, lease),
            goes_on: false,
        }
    }

    /// The same of a journaled call.
    pub(super) fn journaled(self) -> Self {
        Self {
            goes_on: true,
            ..self
        }
    }
}

/// Makes the outcome durable.
pub(super) fn settle<A: Adapter>(
    shared: &Shared<A>,
    run: Run,
    recording: Recording<A::Response>,
) -> impl Future<Output = Flown<A::Response>> + Send {
    let Recording { outcome, response } = recording;
    // Boxed, but for what nearly all calls come to.
    match outcome {
        Outcome::Record(answer) => Either::Left(complete(shared, run, answer, response)),
        Outcome::NotExecuted => Either::Right(not_executed(shared, run, response).boxed()),
        Outcome::InDoubt(answer) => {
            let doubt = doubt(shared, run, DoubtReason::Ambiguous, answer, response);
            Either::Right(doubt.boxed())
        }
        Outcome::Unrecorded => Either::Right(unrecorded(shared, run, response).boxed()),
    }
}

/// There is an answer that cannot be kept.
async fn unrecorded<A: Adapter>(
    shared: &Shared<A>,
    run: Run,
    response: Option<A::Response>,
) -> Flown<A::Response> {
    let give = |response: Option<A::Response>| {
        response.map(|response| shared.mark(response, Served::ExecutedUnrecorded))
    };
    if !run.goes_on {
        let flown = doubt(shared, run, DoubtReason::Unrecorded, None, None).await;
        return Flown {
            response: give(response),
            ..flown
        };
    }
    let (key, token) = (run.claim.key().clone(), run.claim.token());
    shared.ended.note(token);
    let reason = DoubtReason::Unrecorded;
    let written = shared.store.doubt(run.claim, reason, None);
    match within(run.settle_by, written).await {
        // No run goes on with it any more.
        Ok(()) => Flown {
            landing: unrecorded_doubt(shared, token),
            response: give(response),
        },
        Err(SettleError::Fenced) => Flown {
            landing: settled_by_another(shared, key, token, reason).await,
            response: None,
        },
        // It lapses, and goes on.
        Err(_) => Flown {
            landing: goes_on_later(),
            response: None,
        },
    }
}

fn unrecorded_doubt<A>(shared: &Shared<A>, token: FencingToken) -> Landing {
    Landing::InDoubt(InDoubt {
        token,
        since: shared.store.now(),
        reason: DoubtReason::Unrecorded,
        answer: None,
    })
}

/// Spends a claim under which nothing was executed.
///
/// Whether or not this is written, that stays true: a claim that is left lapses into doubt. The
/// claim of a re-run goes back to the doubt that it superseded: the run before may have executed
/// something.
pub(super) async fn give_back<A: Adapter>(shared: &Shared<A>, grant: Grant) -> Landing {
    let Grant {
        claim,
        held_until,
        rerun_of,
    } = grant;
    shared.ended.note(claim.token());
    let settle_by = settle_by(held_until, shared.options.lease);
    let given_back = match rerun_of {
        None => within(settle_by, shared.store.release(claim)).await,
        Some(InDoubt { reason, answer, .. }) => {
            let doubted = within(settle_by, shared.store.doubt(claim, reason, answer)).await;
            onlyonce_storage::kill_point!("doubt: run again for nothing, nobody told");
            doubted
        }
    };
    onlyonce_storage::kill_point!("dedupe: released, nobody told");
    match given_back {
        Ok(()) => Landing::NotExecuted,
        Err(error) => not_given_back(error),
    }
}

/// Spends the claim of a call that the outside world knows to be applied, and whose doubt somebody
/// has ended as if it was not (an operator who had looked before). Who of them is right cannot be
/// known here, so it is in doubt again.
pub(super) async fn doubt_again<A>(
    shared: &Shared<A>,
    (claim, held_until): (Claim, Instant),
    in_doubt: InDoubt,
) -> Landing {
    let again = InDoubt {
        token: claim.token(),
        since: shared.store.now(),
        ..in_doubt
    };
    let settle_by = settle_by(held_until, shared.options.lease);
    let doubted = shared
        .store
        .doubt(claim, again.reason, again.answer.clone());
    match within(settle_by, doubted).await {
        Ok(()) => land_in_doubt(again),
        Err(error) => not_given_back(error),
    }
}

/// At the end of the lease, or a little later where that is near: until then the record waits for
/// its owner, and the store takes an answer also afterwards.
pub(super) fn settle_by(held_until: Instant, lease: Duration) -> Instant {
    held_until.max(Instant::now() + lease / 10)
}

/// Makes an answer durable.
fn complete<A: Adapter>(
    shared: &Shared<A>,
    run: Run,
    answer: Answer,
    response: Option<A::Response>,
) -> impl Future<Output = Flown<A::Response>> + Send {
    let Run {
        claim,
        settle_by,
        goes_on,
        ..
    } = run;
    let key = claim.key().clone();
    let token = claim.token();
    let completed = within(settle_by, shared.store.complete(claim, answer.clone()));
    async move {
        match completed.await {
            Ok(()) => {
                onlyonce_storage::kill_point!("dedupe: answer recorded, nobody told");
                Flown {
                    landing: Landing::Answer(answer, Served::Attached),
                    response: response.map(|response| shared.mark(response, Served::Executed)),
                }
            }
            // Somebody settled the doubt that our claim had fallen into.
            Err(SettleError::Fenced) => {
                let by_another = settled_by_another(shared, key, token, DoubtReason::Unrecorded);
                Flown {
                    landing: Box::pin(by_another).await,
                    response: None,
                }
            }
            // Of one that is too large the store has written the doubt, from which nothing goes on.
            Err(error)
                if goes_on
                    && !matches!(error, SettleError::Store(StoreError::AnswerTooLarge { .. })) =>
            {
                shared.ended.note(token);
                Flown {
                    landing: goes_on_later(),
                    response: None,
                }
            }
            // The answer exists and is not known to be kept: it is delivered this once, and says so.
            Err(_) => {
                shared.ended.note(token);
                Flown {
                    landing: unrecorded_doubt(shared, token),
                    response: response
                        .map(|response| shared.mark(response, Served::ExecutedUnrecorded)),
                }
            }
        }
    }
}

/// The handler says that it executed nothing. A first run's key is free again. A re-run speaks for
/// itself alone: what is known of its key is what was known before.
async fn not_executed<A: Adapter>(
    shared: &Shared<A>,
    run: Run,
    response: Option<A::Response>,
) -> Flown<A::Response> {
    let rerun = run.rerun_of.clone();
    let token = run.claim.token();
    let grant = Grant {
        claim: run.claim,
        held_until: run.settle_by,
        rerun_of: run.rerun_of,
    };
    let landing = give_back(shared, grant).await;
    let landing = match (rerun, landing) {
        (Some(before), Landing::NotExecuted) => land_in_doubt(InDoubt { token, ..before }),
        (_, landing) => landing,
    };
    let response = response.map(|response| shared.mark(response, Served::NotExecuted));
    Flown { landing, response }
}

/// A claim that is not given back lapses into doubt. This attempt was not executed all the same.
fn not_given_back(error: SettleError) -> Landing {
    match error {
        SettleError::Store(error) => Landing::Refused(unable(&error)),
        _ => Landing::NotExecuted,
    }
}

/// Spends a claim whose handler has ended without saying what became of the call.
pub(super) async fn doubt<A: Adapter>(
    shared: &Shared<A>,
    run: Run,
    reason: DoubtReason,
    answer: Option<Answer>,
    response: Option<A::Response>,
) -> Flown<A::Response> {
    let Run {
        claim,
        rerun_of,
        settle_by,
        goes_on: _,
    } = run;
    shared.ended.note(claim.token());
    let key = claim.key().clone();
    let in_doubt = InDoubt {
        token: claim.token(),
        since: shared.store.now(),
        reason,
        answer: None,
    };
    let own = answer.is_some();
    // A re-run that says nothing takes nothing from what the run before it had said.
    let answer = answer.or(rerun_of.and_then(|before| before.answer));
    let written = within(settle_by, shared.store.doubt(claim, reason, answer.clone())).await;
    onlyonce_storage::kill_point!("dedupe: doubt recorded, nobody told");
    match written {
        // What the handler answered is said to be kept, so it is given only where it is: otherwise
        // the next duplicate would hear something else.
        Ok(()) => Flown {
            response: response
                .filter(|_| own)
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

/// What is told of a journaled call that goes on with the next attempt, or by the server.
pub(super) fn goes_on_later() -> Landing {
    Landing::Refused(Refusal::InProgress {
        retry_after: RETRY_AFTER,
    })
}

pub(super) fn land_in_doubt(in_doubt: InDoubt) -> Landing {
    match in_doubt.answer {
        Some(answer) => Landing::Answer(answer, Served::InDoubt),
        None => Landing::InDoubt(in_doubt),
    }
}

pub(super) fn unable(error: &StoreError) -> Refusal {
    Refusal::Unavailable {
        reason: error.to_string(),
        retry_after: error.retry_after(),
    }
}

/// What the store says of a claim that is spent. A store that does not answer in time may still
/// write it.
pub(super) fn within(
    settle_by: Instant,
    settled: impl Future<Output = Result<(), SettleError>> + Unpin + Send,
) -> impl Future<Output = Result<(), SettleError>> + Send {
    by(settle_by, settled).map(|settled| {
        settled.unwrap_or_else(|| {
            Err(SettleError::Store(StoreError::Unavailable {
                reason: "the store did not answer before the lease ended".to_owned(),
                retry_after: RETRY_AFTER,
            }))
        })
    })
}

/// A store that has not answered for a whole lease will not do so at once.
const RETRY_AFTER: Duration = Duration::from_secs(1);
