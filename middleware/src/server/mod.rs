//! The server's side: the effect of a call happens at most once per key.
//!
//! Outer to inner: `Observe`, authentication (gives the scope), load shedding, [`Dedupe`],
//! handler.

mod adapter;
pub mod dedupe;
mod keys;
mod refusal;

pub use self::adapter::{Adapter, Admission, Guarantee, Intent, Outcome, Recording, Served};
pub use self::dedupe::{
    Dedupe, DedupeLayer, DedupeOptions, Doubt, Execution, Executions, InDoubtPolicy, Reconciled,
    Reconciliation, Wait,
};
pub use self::keys::Keys;
pub use self::refusal::Refusal;
pub use onlyonce_storage::Question;
