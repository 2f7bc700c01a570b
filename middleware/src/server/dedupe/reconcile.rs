//! A duplicate of a call in doubt: what its policy makes of it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use onlyonce_storage::{Answer, Claim, InDoubt, SettleError};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::flight::Landing;
use super::in_doubt::{Doubt, HookError, InDoubtPolicy, Reconciled, Reconciliation};
use super::options::DedupeOptions;
use super::service::Shared;
use super::settle::land_in_doubt;
use crate::observe::server as observe;
use crate::server::{Adapter, Intent};

/// Bounds how much is asked of the outside world.
#[derive(Debug)]
pub(super) struct Reconciler {
    places: Semaphore,
    timeout: Duration,
}

/// What is to be done about a doubt.
pub(super) enum Step {
    /// Somebody has ended it: the store knows more now.
    AskAgain,
    /// This is what everybody is told.
    Land(Landing),
    /// The call runs again, if the doubt is still the same.
    Rerun(InDoubt),
    /// It was applied, and somebody else has ended the doubt: the store knows more now. Where that
    /// frees the key, one of the two is wrong, and nothing runs.
    Superseded(InDoubt),
}

/// What asking came to.
enum Asked {
    Crowded,
    Failed(HookError),
    Found(Reconciled),
    Panicked,
    TimedOut,
}

// === impl Reconciler ===

impl Reconciler {
    pub(super) fn new(options: &DedupeOptions) -> Arc<Self> {
        let places = options.reconciles_max.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            places: Semaphore::new(places),
            timeout: options.reconcile_timeout,
        })
    }

    async fn ask(&self, reconciliation: &Reconciliation, doubt: Doubt) -> Asked {
        let Ok(Ok(_place)) = timeout(self.timeout, self.places.acquire()).await else {
            return Asked::Crowded;
        };
        // Inside a future, so that a panic of the hook itself is caught as well.
        let finding = AssertUnwindSafe(async { reconciliation.ask(doubt).await }).catch_unwind();
        match timeout(self.timeout, finding).await {
            Ok(Ok(Ok(reconciled))) => Asked::Found(reconciled),
            Ok(Ok(Err(error))) => Asked::Failed(error),
            Ok(Err(_panic)) => Asked::Panicked,
            Err(_elapsed) => Asked::TimedOut,
        }
    }
}

/// in doubt => (in doubt | completed | about to run again), as the call's policy says.
///
/// The flight's leader asks, so that at most one does for a key in this process; its duplicates
/// wait for the flight and hear what it hears.
pub(super) async fn consider<A: Adapter>(
    shared: &Shared<A>,
    intent: &Intent,
    in_doubt: InDoubt,
) -> Step {
    let policy = intent.in_doubt.as_ref().unwrap_or(&shared.in_doubt);
    let reconciliation = match policy {
        InDoubtPolicy::Refuse => return Step::Land(land_in_doubt(in_doubt)),
        InDoubtPolicy::RerunDeclaredSafe => return Step::Rerun(in_doubt),
        InDoubtPolicy::Reconcile(reconciliation) => reconciliation,
    };
    // Before the hook looks: an owner that ends afterwards may have applied it in between.
    let store = shared.store.id();
    let gone = shared.ended.is_owner_known_gone(store, &in_doubt);
    let doubt = Doubt::new(intent.key.clone(), &in_doubt, gone);
    onlyonce_storage::kill_point!("doubt: found, hook not asked");
    let asked = shared.reconciler.ask(reconciliation, doubt).await;
    onlyonce_storage::kill_point!("doubt: hook has answered, nothing done");
    let (result, step) = match asked {
        Asked::Found(Reconciled::Applied(answer)) => {
            applied(shared, intent, in_doubt, answer).await
        }
        Asked::Found(Reconciled::NotApplied) if reconciliation.permits_rerun(gone) => {
            ("not_applied", Step::Rerun(in_doubt))
        }
        // Its owner may be about to apply it.
        Asked::Found(Reconciled::NotApplied) => ("owner_not_known_gone", stays(in_doubt)),
        Asked::Found(Reconciled::StillUnknown) => ("still_unknown", stays(in_doubt)),
        Asked::Crowded => ("crowded", stays(in_doubt)),
        Asked::Failed(error) => {
            tracing::warn!(target: "onlyonce", token = %in_doubt.token, %error, "reconciling failed");
            ("failed", stays(in_doubt))
        }
        Asked::Panicked => {
            tracing::error!(target: "onlyonce", token = %in_doubt.token, "reconciling panicked");
            ("panicked", stays(in_doubt))
        }
        Asked::TimedOut => {
            tracing::warn!(target: "onlyonce", token = %in_doubt.token, "reconciling took too long");
            ("timed_out", stays(in_doubt))
        }
    };
    observe::reconciled(result);
    step
}

/// Records what the outside world says, unless somebody has ended the doubt meanwhile: its owner,
/// an operator, or another process that asked as well.
async fn applied<A: Adapter>(
    shared: &Shared<A>,
    intent: &Intent,
    in_doubt: InDoubt,
    answer: Answer,
) -> (&'static str, Step) {
    let claim = Claim::of_doubt(intent.key.clone(), &in_doubt);
    let completed = shared.store.complete(claim, answer);
    let completed = timeout(shared.reconciler.timeout, completed).await;
    onlyonce_storage::kill_point!("doubt: hook's answer recorded, nobody told");
    match completed {
        // What everybody gets is read from the record.
        Ok(Ok(())) => ("applied", Step::AskAgain),
        Ok(Err(SettleError::Fenced)) => ("superseded", Step::Superseded(in_doubt)),
        Ok(Err(error)) => {
            tracing::warn!(target: "onlyonce", token = %in_doubt.token, %error, "what was reconciled is not recorded");
            ("unrecorded", stays(in_doubt))
        }
        Err(_elapsed) => ("unrecorded", stays(in_doubt)),
    }
}

fn stays(in_doubt: InDoubt) -> Step {
    Step::Land(land_in_doubt(in_doubt))
}
