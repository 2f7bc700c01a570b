//! The client's side: every attempt of a call carries one key, and ends at one deadline.
//!
//! Outer to inner: [`ObserveLayer`], [`AttachKeyLayer`], [`EnforceDeadlineLayer`], [`RetryLayer`],
//! [`AttemptTimeoutLayer`], [`outbox::NoteSentLayer`] where calls are to outlive the process,
//! [`StampLayer`], transport. Each says on its page what breaks elsewhere.
//!
//! [`ObserveLayer`]: crate::observe::ObserveLayer

mod adapter;
mod attach_key;
mod attempt_timeout;
mod call;
mod enforce_deadline;
mod error;
pub mod outbox;
mod retry;
mod stamp;
mod verdict;

pub use self::adapter::{Adapter, ChooseKey, UniqueKey};
pub use self::attach_key::{AttachKey, AttachKeyLayer};
pub use self::attempt_timeout::{AttemptTimeout, AttemptTimeoutLayer};
pub use self::call::{Call, Keyed, Ticket};
pub use self::enforce_deadline::{EnforceDeadline, EnforceDeadlineLayer};
pub use self::error::{AttemptError, CallError, Last, Outcome, Stopped};
pub use self::retry::{
    Backoff, BackoffError, BackoffOptions, EarnedBy, Retry, RetryBudget, RetryBudgetOptions,
    RetryLayer, Withdrawal,
};
pub use self::stamp::{Stamp, StampLayer};
pub use self::verdict::{Advice, Cost, Executed, Pushback, Verdict};
