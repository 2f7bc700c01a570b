//! The execution of a call whose effect lies in the store: the handler works on a transaction, which
//! is committed with the answer, or leaves nothing.
//!
//! The claim is held in the store's memory, so there is nothing to be in doubt about: whatever ends
//! a run before its commit (an error, a panic, a lost lease, a crash) has applied nothing, and the
//! key is free. A run whose reads were changed by somebody else's commit runs again, a bounded number
//! of times.

use std::time::Duration;

use onlyonce_storage::transaction::{
    CommitError, Transaction, TransactionError, TransactionalStore, Work,
};
use onlyonce_storage::{Answer, Claim};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tower::{Service, ServiceExt};

use super::begin::Grant;
use super::flight::Landing;
use super::in_doubt::Execution;
use super::owner::{Ended, under_lease};
use super::runs::RunningHere;
use super::service::Shared;
use super::settle::{Flown, give_back, settle_by, unable};
use crate::jitter;
use crate::observe::server::{self as observe, Running};
use crate::server::{Adapter, Outcome, Recording, Refusal, Served};

/// What one run came to.
enum Run<Res> {
    /// It is over for good, with the claim if that still holds.
    Over(Option<Claim>, Flown<Res>),
    /// What it had read was changed by somebody else.
    Conflict(Claim),
}

/// Runs the handler until it commits, ends without an effect, or has run too often.
pub(super) async fn fly<S, A>(
    shared: &Shared<A>,
    mut grant: Grant,
    mut handler: S,
    request: A::Request,
) -> Flown<A::Response>
where
    A: Adapter,
    S: Service<A::Request, Response = A::Response, Error = A::Error> + Send,
    S::Future: Send,
{
    let store = match shared.transactional() {
        Ok(store) => store,
        Err(refusal) => return nothing(shared, Some(grant), refusal).await,
    };
    let held_until = Mutex::new(grant.held_until);
    let mut pause = CONFLICT_PAUSE;
    let runs_max = shared.options.transaction_runs_max.max(1);
    for number in 1..=runs_max {
        let mut claim = grant.claim;
        let transaction = store.start(&claim);
        let execution = Execution::new(claim.token(), None);
        let Some(request) = shared
            .adapter
            .transacting(&request, execution, &transaction)
        else {
            grant.claim = claim;
            return nothing(shared, Some(grant), not_able(NO_TRANSACTIONS)).await;
        };
        let running = async {
            let _here = RunningHere::begin(shared.store.id(), execution.token);
            let _running = Running::begin();
            handler.ready().await?.call(request).await
        };
        let lease = shared.options.lease;
        let ended = under_lease(&*shared.store, &mut claim, &held_until, lease, running).await;
        onlyonce_storage::kill_point!("dedupe: transaction run, nothing committed");
        grant.held_until = *held_until.lock();
        let held = (claim, grant.held_until);
        let run = settle(shared, store, held, &transaction, ended).await;
        match run {
            Run::Over(None, flown) => return flown,
            Run::Over(Some(claim), flown) => {
                grant.claim = claim;
                let landing = give_back(shared, grant).await;
                return Flown {
                    // Where the store cannot be asked, the claim lapses, and nothing is applied.
                    landing: match landing {
                        Landing::Refused(_) => landing,
                        _ => flown.landing,
                    },
                    response: flown.response,
                };
            }
            Run::Conflict(claim) => grant.claim = claim,
        }
        onlyonce_storage::kill_point!("dedupe: transaction lost, not run again");
        if number == runs_max {
            break;
        }
        observe::transaction_lost("run_again");
        // Those who lost against one another come back at different times.
        sleep(jitter::up_to(pause)).await;
        pause = (pause * 2).min(CONFLICT_PAUSE_MAX);
    }
    observe::transaction_lost("given_up");
    nothing(shared, Some(grant), not_able(CONFLICTS)).await
}

/// What a run that has ended means, and commits it if it may be.
async fn settle<A: Adapter>(
    shared: &Shared<A>,
    store: &dyn TransactionalStore,
    (claim, held_until): (Claim, Instant),
    transaction: &Transaction,
    ended: Ended<std::thread::Result<Result<A::Response, A::Error>>>,
) -> Run<A::Response> {
    // Before anything else: no handle of the handler's can write to it any more.
    let work = transaction.end();
    let result = match ended {
        Ended::Itself(Ok(result)) => result,
        Ended::Itself(Err(_panic)) => return Run::Over(Some(claim), rolled_back(PANICKED)),
        Ended::NeverBegun | Ended::Stopped => return Run::Over(Some(claim), rolled_back(LAPSED)),
    };
    let work = match work {
        Ok(work) => work,
        Err(TransactionError::Conflict) => return Run::Conflict(claim),
        // Whatever the handler says: what it meant to do is not all there.
        Err(error) => return Run::Over(Some(claim), rolled_back(&error.to_string())),
    };
    let Recording { outcome, response } = shared.adapter.record(result).await;
    match outcome {
        Outcome::Record(answer) => {
            let settle_by = settle_by(held_until, shared.options.lease);
            commit(shared, store, settle_by, (claim, work, answer), response).await
        }
        Outcome::NotExecuted => Run::Over(
            Some(claim),
            Flown {
                landing: Landing::NotExecuted,
                response: response.map(|response| shared.mark(response, Served::NotExecuted)),
            },
        ),
        // There is no doubt about what was never applied.
        Outcome::InDoubt(None) => Run::Over(Some(claim), rolled_back(NO_ANSWER)),
        Outcome::InDoubt(Some(_)) => Run::Over(
            Some(claim),
            Flown {
                landing: Landing::NotExecuted,
                response: response.map(|response| shared.mark(response, Served::NotExecuted)),
            },
        ),
        // Applied with an answer that nobody could be told again, it would be in doubt for ever.
        Outcome::Unrecorded => Run::Over(Some(claim), rolled_back(UNRECORDED)),
    }
}

async fn commit<A: Adapter>(
    shared: &Shared<A>,
    store: &dyn TransactionalStore,
    settle_by: Instant,
    (claim, work, answer): (Claim, Work, Answer),
    response: Option<A::Response>,
) -> Run<A::Response> {
    let committed = timeout_at(settle_by, store.commit(claim, work, answer.clone())).await;
    onlyonce_storage::kill_point!("dedupe: transaction settled, nobody told");
    let refused = |refusal| Flown {
        landing: Landing::Refused(refusal),
        response: None,
    };
    Run::Over(
        None,
        match committed {
            Ok(Ok(())) => Flown {
                landing: Landing::Answer(answer, Served::Attached),
                response: response.map(|response| shared.mark(response, Served::Executed)),
            },
            Ok(Err(CommitError::Conflict(claim))) => return Run::Conflict(claim),
            Ok(Err(CommitError::Fenced)) => refused(not_able(LAPSED)),
            Ok(Err(CommitError::Refused(error))) => refused(unable(&error)),
            // All of it or nothing is applied; the client is sent back to ask which.
            Ok(Err(_)) | Err(_) => refused(Refusal::InProgress {
                retry_after: RETRY_AFTER,
            }),
        },
    )
}

/// Ends a call under which nothing was executed.
async fn nothing<A: Adapter>(
    shared: &Shared<A>,
    grant: Option<Grant>,
    refusal: Refusal,
) -> Flown<A::Response> {
    if let Some(grant) = grant {
        // Nothing was written for the claim: where the store cannot be asked, it lapses.
        give_back(shared, grant).await;
    }
    Flown {
        landing: Landing::Refused(refusal),
        response: None,
    }
}

fn rolled_back<Res>(why: &str) -> Flown<Res> {
    Flown {
        landing: Landing::Refused(not_able(why)),
        response: None,
    }
}

fn not_able(reason: &str) -> Refusal {
    Refusal::Unavailable {
        reason: reason.to_owned(),
        retry_after: RETRY_AFTER,
    }
}

// === impl Shared ===

impl<A> Shared<A> {
    /// The store as one that keeps tables.
    pub(super) fn transactional(&self) -> Result<&dyn TransactionalStore, Refusal> {
        let store = self.store.transactions();
        store.ok_or_else(|| not_able(NO_TABLES))
    }
}

const CONFLICTS: &str = "others kept changing what the transaction reads; it was rolled back";
const LAPSED: &str = "the transaction took longer than its lease could be kept; it was rolled back";
const NO_ANSWER: &str = "the handler gave no answer that can be recorded; it was rolled back";
const NO_TABLES: &str = "the server's store keeps no tables for transactions";
const NO_TRANSACTIONS: &str = "the server's adapter hands no transaction to its handler";
const UNRECORDED: &str =
    "the handler's answer is too large to be recorded, or does not end; it was rolled back";
const PANICKED: &str = "the handler panicked; its transaction was rolled back";

const RETRY_AFTER: Duration = Duration::from_millis(100);

/// About one commit: whoever won is out of the way by then.
const CONFLICT_PAUSE: Duration = Duration::from_millis(1);
const CONFLICT_PAUSE_MAX: Duration = Duration::from_millis(64);
