//! More than one attempt, under one key.
//!
//! The rule: another attempt is made only if it can do no harm (nothing was executed, or the peer
//! is known to dedupe), can be afforded (attempts, budget) and can still end (deadline).
//!
//! Why not retry whatever failed: a call that was cut off may have had its effect, and only a peer
//! that keeps the key can tell. So after an attempt whose outcome is unknown this layer goes on
//! only if the peer has named its store, or [`RetryLayer::assume_dedupe`] says so.
//!
//! "Unknown" stays: once an attempt may have been executed, no later refusal makes the call "not
//! executed". Only a result that speaks of the key itself does ([`Executed::Never`]).
//!
//! [`Executed::Never`]: super::Executed::Never

mod attempt_times;
mod backoff;
mod budget;
mod evidence;
mod layer;
mod policy;
mod schedule;
mod service;

pub use self::backoff::{Backoff, BackoffError, BackoffOptions};
pub use self::budget::{EarnedBy, RetryBudget, RetryBudgetOptions, Withdrawal};
pub use self::layer::RetryLayer;
pub use self::service::Retry;
