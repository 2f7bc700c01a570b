//! What a method's author says about its calls in doubt.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use onlyonce_middleware::server::{Doubt, InDoubtPolicy, Reconciliation};
use onlyonce_storage::Answer;
use serde::Serialize;

use super::{adapter, value};

/// What became of a call of a method that replies `R` or faults `F`, as far as the outside world
/// can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconciled<R, F> {
    /// It took effect, and this is its answer from now on.
    Applied(Result<R, F>),
    /// It took no effect, and nothing that the handler has set going outside still can: no request
    /// of its is on the way, and no thread or task that it started goes on. It runs again, if its
    /// owner is known to be gone or is fenced.
    NotApplied,
    /// Nobody can say yet.
    StillUnknown,
}

/// What is done about a method's calls in doubt.
pub(super) enum WhenInDoubt {
    Reconcile { ask: Ask, fenced: Fenced },
    Refuse,
    RerunDeclaredSafe,
}

/// Whether the outside system refuses smaller fencing tokens than it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fenced {
    No,
    Yes,
}

/// Asks the method's hook about one call, whose encoded arguments are given.
pub(super) type Ask = std::sync::Arc<dyn Fn(Doubt, &[u8]) -> Asking + Send + Sync>;

pub(super) type Asking = Pin<Box<dyn Future<Output = Result<Found, Failed>> + Send>>;

type Found = onlyonce_middleware::server::Reconciled;

type Failed = Box<dyn Error + Send + Sync>;

// === impl Reconciled ===

impl<R: Serialize, F: Serialize> Reconciled<R, F> {
    /// The same with the answer in bytes, as the method's handler would have answered.
    pub(super) fn encode(self) -> Result<Found, Failed> {
        Ok(match self {
            Self::Applied(answer) => {
                let body = value::encode_result(answer.as_ref())?;
                Found::Applied(Answer::new(adapter::ANSWER, body))
            }
            Self::NotApplied => Found::NotApplied,
            Self::StillUnknown => Found::StillUnknown,
        })
    }
}

// === impl WhenInDoubt ===

impl WhenInDoubt {
    /// The policy for one call.
    pub(super) fn policy(&self, arguments: &Bytes) -> InDoubtPolicy {
        let (ask, fenced) = match self {
            Self::Refuse => return InDoubtPolicy::Refuse,
            Self::RerunDeclaredSafe => return InDoubtPolicy::RerunDeclaredSafe,
            Self::Reconcile { ask, fenced } => (ask.clone(), *fenced),
        };
        let arguments = arguments.clone();
        let reconciliation = Reconciliation::new(move |doubt| ask(doubt, &arguments));
        InDoubtPolicy::Reconcile(match fenced {
            Fenced::No => reconciliation,
            Fenced::Yes => reconciliation.outside_enforces_fencing(),
        })
    }
}

impl fmt::Debug for WhenInDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reconcile { fenced, .. } => write!(f, "Reconcile(fenced: {fenced:?})"),
            Self::Refuse => f.write_str("Refuse"),
            Self::RerunDeclaredSafe => f.write_str("RerunDeclaredSafe"),
        }
    }
}
