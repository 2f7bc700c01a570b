//! What is done about a call in doubt when a duplicate of it comes: the author of the handler says.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use onlyonce_storage::{Answer, DoubtReason, FencingToken, InDoubt, ScopedKey, Timestamp};

/// What is done about a call in doubt when a duplicate of it comes. Only the author of the handler
/// can say.
///
/// Whatever it says: a request with another fingerprint is refused as a mismatch before anything
/// else, a stale or sealed key is never executed, and an earlier run that comes back can write
/// nothing under its older token.
///
/// | the handler | say |
/// | --- | --- |
/// | has effects that nobody can be asked about | [`Refuse`](Self::Refuse), and an operator resolves |
/// | has effects that an outside system can be asked about by key | [`Reconcile`](Self::Reconcile) |
/// | does the same when it runs twice, also at once, also late | [`RerunDeclaredSafe`](Self::RerunDeclaredSafe) |
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum InDoubtPolicy {
    /// The duplicate is told that the call is in doubt, with the answer if one is kept. The doubt
    /// stays until an operator resolves it.
    #[default]
    Refuse,
    /// The outside world is asked what became of the call.
    Reconcile(Reconciliation),
    /// The handler runs again, in the duplicate's name, although the first run may have had its
    /// effect and may even be running still. Only for a handler whose effect is the same however
    /// often, however concurrently and however late it happens: adding to a value is not, and setting
    /// one is only where nobody else sets it.
    RerunDeclaredSafe,
}

/// A hook that asks the outside world what became of a call.
///
/// It has no effects of its own and may be asked any number of times: one at a time for a key in a
/// process, at most [`reconciles_max`] at once, each for at most [`reconcile_timeout`]. Processes
/// that share a store may ask about one key at the same time; only one of their findings is
/// recorded. It is dropped at the timeout. An error, a panic and a timeout all mean *still unknown*.
///
/// [`reconciles_max`]: super::DedupeOptions::reconciles_max
/// [`reconcile_timeout`]: super::DedupeOptions::reconcile_timeout
///
/// ```
/// use onlyonce_middleware::server::{Doubt, InDoubtPolicy, Reconciled, Reconciliation};
/// use onlyonce_storage::{Answer, AnswerFormat};
///
/// # async fn payment_of(key: &str) -> Result<Option<String>, std::io::Error> { Ok(None) }
/// let policy = InDoubtPolicy::Reconcile(Reconciliation::new(async |doubt: Doubt| {
///     // The handler gave the provider this key; now the provider is asked by it.
///     let payment = payment_of(doubt.key.key().as_str()).await?;
///     Ok::<_, std::io::Error>(match payment {
///         Some(receipt) => Reconciled::Applied(Answer::new(AnswerFormat::new(1), receipt)),
///         None => Reconciled::NotApplied,
///     })
/// }));
/// ```
#[derive(Clone)]
pub struct Reconciliation {
    hook: Hook,
    fencing: Fencing,
}

/// What a hook is asked about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Doubt {
    /// The key, in its scope.
    pub key: ScopedKey,
    /// The claim under which the call ran.
    pub token: FencingToken,
    /// Since when it is in doubt, on the store's clock.
    pub since: Timestamp,
    /// Why.
    pub reason: DoubtReason,
    /// What the handler answered, where it answered something that does not settle the matter.
    pub answer: Option<Answer>,
    /// Whether the task or process that ran the handler is known to have ended. Where it is not,
    /// the handler may still be at work, and [`Reconciled::NotApplied`] ends nothing unless the
    /// outside system enforces fencing tokens.
    pub owner_known_gone: bool,
}

/// What became of a call, as far as the outside world can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// It took effect, and this is its answer from now on.
    Applied(Answer),
    /// It took no effect, and nothing that the handler has set going outside still can: no request
    /// of its is on the way, and no thread or task that it started goes on. It runs again, if its
    /// owner is known to be gone or is fenced.
    NotApplied,
    /// Nobody can say yet.
    StillUnknown,
}

/// One run of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Execution {
    /// Orders this run among all that the store has ever allowed. An outside system that remembers
    /// the largest token it has seen, and refuses smaller ones, is safe from a run that was thought
    /// to be dead.
    pub token: FencingToken,
    /// The claim of the run before, when the call was in doubt and this is a re-run.
    pub rerun_of: Option<FencingToken>,
}

type Hook = Arc<dyn Fn(Doubt) -> Finding + Send + Sync>;

type Finding = Pin<Box<dyn Future<Output = Result<Reconciled, HookError>> + Send>>;

/// Why a hook could not say.
pub(super) type HookError = Box<dyn Error + Send + Sync>;

/// Whether the outside system refuses a token that is smaller than one it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fencing {
    EnforcedOutside,
    None,
}

// === impl Reconciliation ===

impl Reconciliation {
    /// Asks `hook`. What it fails with is logged, so its text must hold no key and no content.
    pub fn new<F, Fut, E>(hook: F) -> Self
    where
        F: Fn(Doubt) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reconciled, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Self {
            hook: Arc::new(move |doubt| {
                let finding = hook(doubt);
                Box::pin(async move { finding.await.map_err(Into::into) })
            }),
            fencing: Fencing::None,
        }
    }

    /// The handler sends its [`Execution::token`] with every effect, and the outside system refuses
    /// whatever comes with a smaller token than it has seen. *Not applied* then permits a re-run
    /// also while the earlier run may still be at work.
    ///
    /// Said of a system that does not, it lets an effect happen twice. Do not take it back while
    /// calls of this handler are in doubt.
    #[must_use]
    pub fn outside_enforces_fencing(mut self) -> Self {
        self.fencing = Fencing::EnforcedOutside;
        self
    }

    pub(super) fn ask(&self, doubt: Doubt) -> Finding {
        (self.hook)(doubt)
    }

    /// Whether *not applied* permits a re-run.
    pub(super) fn permits_rerun(&self, owner_known_gone: bool) -> bool {
        owner_known_gone || self.fencing == Fencing::EnforcedOutside
    }
}

impl fmt::Debug for Reconciliation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciliation")
            .field("fencing", &self.fencing)
            .finish_non_exhaustive()
    }
}

// === impl Doubt ===

impl Doubt {
    pub(super) fn new(key: ScopedKey, in_doubt: &InDoubt, owner_known_gone: bool) -> Self {
        Self {
            key,
            token: in_doubt.token,
            since: in_doubt.since,
            reason: in_doubt.reason,
            answer: in_doubt.answer.clone(),
            owner_known_gone,
        }
    }
}

// === impl Execution ===

impl Execution {
    pub(super) const fn new(token: FencingToken, rerun_of: Option<FencingToken>) -> Self {
        Self { token, rerun_of }
    }

    /// Whether the call was in doubt and runs again.
    #[must_use]
    pub const fn is_rerun(&self) -> bool {
        self.rerun_of.is_some()
    }
}
