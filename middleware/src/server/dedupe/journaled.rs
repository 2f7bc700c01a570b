//! The execution of a call whose effects are steps: the handler is given the results of the steps that
//! runs before have finished, and has the others.
//!
//! A run that ends half-way leaves the call standing still, and says so: whoever asks again, or the
//! server itself (`finishing.rs`), goes on with it. Only a step that must not be repeated and was cut
//! off leaves the call in doubt. Whatever the handler says of a run with a step that has no result is
//! not the call's answer: the step may have taken effect.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::{DoubtReason, Journal};
use parking_lot::Mutex;
use tower::Service;

use super::begin::Grant;
use super::flight::Landing;
use super::in_doubt::Execution;
use super::options::is_too_old;
use super::owner::{Ended, under_lease};
use super::runs::RunningHere;
use super::service::Shared;
use super::settle::{Flown, Run, doubt, give_back, goes_on_later, settle, within};
use crate::observe::server::{self as observe, Running};
use crate::server::{Adapter, Intent, Outcome, Ran, Refusal, Steps};

/// Runs the handler with the call's steps, and settles what it came to.
pub(super) async fn fly<S, A>(
    shared: &Shared<A>,
    mut grant: Grant,
    mut handler: S,
    (intent, request): (&Intent, A::Request),
) -> Flown<A::Response>
where
    A: Adapter,
    S: Service<A::Request, Response = A::Response, Error = A::Error> + Send,
    S::Future: Send,
{
    let is_unasked = intent.goes_on_from.is_some();
    let Some(journal) = grant.claim.journal() else {
        return nothing(shared, grant, NO_JOURNAL).await;
    };
    // Only with the claim it is known when the call was begun. Nothing else is told of one that no run
    // goes on with: it is in doubt, and not listed any more as one that can go on.
    let options = &shared.options;
    let (begun_at, now) = (journal.begun_at(), shared.store.now());
    if let Some(before) = &grant.rerun_of
        && is_too_old(begun_at, now, options.go_on_within)
    {
        // One that seems to begin in the future is as old as ever once the clock is put right.
        let reason = match begun_at > now {
            true => before.reason,
            false => DoubtReason::Ambiguous,
        };
        let (token, held_until) = (grant.claim.token(), grant.held_until);
        tracing::warn!(target: "onlyonce", %token, "a journaled call was begun too long ago to be gone on with; resolve it");
        let run = Run::ended(grant, held_until, options.lease).journaled();
        return doubt(shared, run, reason, None, None).await;
    }
    let name = (grant.claim.digest(), grant.claim.token());
    let steps = Steps::new(Arc::clone(&shared.store), name, journal);
    let before = grant.rerun_of.as_ref().map(|before| before.token);
    let execution = Execution::new(grant.claim.token(), before);
    let Some(request) = shared.adapter.journaling(request, execution, &steps) else {
        return nothing(shared, grant, NO_STEPS).await;
    };
    let running = async move {
        let _here = RunningHere::begin(shared.store.id(), execution.token);
        let _running = Running::begin();
        if execution.is_rerun() {
            observe::rerun();
        }
        onlyonce_storage::kill_point!("journal: claimed, handler not called");
        handler.call(request).await
    };
    let held_until = Mutex::new(grant.held_until);
    let lease = shared.options.lease;
    let ended = under_lease(
        &*shared.store,
        &mut grant.claim,
        &held_until,
        lease,
        running,
    );
    let ended = ended.await;
    // Before anything else: no handle of the handler's begins a step any more.
    let ran = steps.end();
    grant.held_until = held_until.into_inner();
    let reason = match &ended {
        Ended::Stopped => DoubtReason::LeaseLapsed,
        Ended::Itself(_) | Ended::NeverBegun => DoubtReason::OwnerGone,
    };
    let (is_rerun, held_until) = (execution.is_rerun(), grant.held_until);
    if matches!(ended, Ended::NeverBegun) {
        return Flown {
            landing: give_back(shared, grant).await,
            response: None,
        };
    }
    let run = Run::ended(grant, held_until, lease).journaled();
    match (ended, ran) {
        (_, Ran::Cut { step, said }) => {
            let token = run.claim.token();
            tracing::warn!(target: "onlyonce", %token, %step, "a step that must not be repeated was cut off; say what became of it");
            // What was not said to have ended may be running still, in a task of the handler's.
            let reason = match said {
                true => DoubtReason::Ambiguous,
                false => DoubtReason::LeaseLapsed,
            };
            doubt(shared, run, reason, None, None).await
        }
        // It may come to the same again and again, so that its caller is told.
        (Ended::Itself(Err(_panic)), _) => doubt(shared, run, reason, None, None).await,
        (_, Ran::Mistaken { why }) => {
            let token = run.claim.token();
            tracing::error!(target: "onlyonce", %token, %why, "a journaled call cannot go on with this handler; it does with one that is mended");
            doubt(shared, run, reason, None, None).await
        }
        // What the handler of a run that nobody has asked for says before its first step (who asked
        // before had credentials, perhaps) is no answer to a call that may have had effects.
        (Ended::Itself(Ok(_)), Ran::Whole { named: false, .. }) if is_unasked => {
            interrupted(shared, run, reason).await
        }
        (Ended::Itself(Ok(result)), Ran::Whole { any, .. }) => {
            let recording = shared.adapter.record(result).await;
            match recording.outcome {
                // It is not true of the call, nor known of the runs before.
                Outcome::NotExecuted if any || is_rerun => interrupted(shared, run, reason).await,
                _ => settle(shared, run, recording).await,
            }
        }
        _ => interrupted(shared, run, reason).await,
    }
}

/// Leaves the call standing still: it can go on with the next attempt, or by the server.
async fn interrupted<A: Adapter>(
    shared: &Shared<A>,
    run: Run,
    reason: DoubtReason,
) -> Flown<A::Response> {
    let token = run.claim.token();
    shared.ended.note(token);
    tracing::warn!(target: "onlyonce", %token, "a journaled call stands still behind its last finished step");
    let written = within(run.settle_by, shared.store.doubt(run.claim, reason, None)).await;
    onlyonce_storage::kill_point!("journal: interrupted, nobody told");
    if let Err(error) = written {
        // What could not be written is a claim in progress, which lapses into the same; or somebody
        // else goes on with the call, or has settled it. Who asks again hears which.
        tracing::debug!(target: "onlyonce", %token, %error, "it is not noted that a call stands still");
    }
    Flown {
        landing: goes_on_later(),
        response: None,
    }
}

/// Ends a run before its handler is called.
async fn nothing<A: Adapter>(shared: &Shared<A>, grant: Grant, reason: &str) -> Flown<A::Response> {
    give_back(shared, grant).await;
    Flown {
        landing: Landing::Refused(not_able(reason)),
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
    /// The store as one that keeps journals.
    pub(super) fn journal(&self) -> Result<&dyn Journal, Refusal> {
        let store = self.store.journal();
        store.ok_or_else(|| not_able(NO_JOURNALS))
    }
}

const NO_JOURNAL: &str = "the server's store gave a journaled call without its journal";
const NO_JOURNALS: &str = "the server's store keeps no journals of calls";
const NO_STEPS: &str = "the server's adapter hands no steps to its handler";

/// What a step waits for, a peer mostly, is rarely there again sooner.
const RETRY_AFTER: Duration = Duration::from_secs(1);
