//! The client's side: every attempt of a call carries one key, and ends at one deadline.
//!
//! Outer to inner: `Observe`, `AttachKey`, `EnforceDeadline`, `Retry`, `AttemptTimeout`, `Stamp`,
//! transport.

mod adapter;
mod call;
mod error;
mod verdict;

pub use self::adapter::{Adapter, ChooseKey, UniqueKey};
pub use self::call::{Call, Keyed, Ticket};
pub use self::error::{AttemptError, CallError, Last, Outcome, Stopped};
pub use self::verdict::{Advice, Cost, Executed, Pushback, Verdict};
