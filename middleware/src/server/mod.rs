//! The server's side: the effect of a call happens at most once per key.
//!
//! Outer to inner: `Observe`, authentication (gives the scope), load shedding, [`Dedupe`],
//! handler.

mod adapter;
pub mod dedupe;
mod keys;
mod refusal;
mod steps;

pub use self::adapter::{Adapter, Admission, Guarantee, Intent, Outcome, Recording, Served};
pub use self::dedupe::{
    Dedupe, DedupeLayer, DedupeOptions, Doubt, Execution, Executions, Finisher, InDoubtPolicy,
    Passed, Reconciled, Reconciliation, Wait,
};
pub use self::keys::Keys;
pub use self::refusal::Refusal;
pub(crate) use self::steps::Ran;
pub use self::steps::{StepError, StepRun, Steps, Unfinished};
pub use onlyonce_storage::Question;
pub use onlyonce_storage::journal::AbandonedCall;
