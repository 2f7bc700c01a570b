//! A checker: what clients were told, held against the effects that are on disk.
//!
//! "The sum is still right" is no test: a double effect and a lost one can cancel out. This checker
//! takes each operation key by itself and asks ten questions:
//!
//! | | violation | found when |
//! | --- | --- | --- |
//! | I1 | `double-apply` | a key has more than one effect |
//! | I2 | `lost-acked` | a client got an answer that promises an effect, and there is none |
//! | I3 | `reply-divergence` | two answers of a key differ, none of its effects has that answer, or who asked when it had been given was told that nobody knows |
//! | I4 | `false-negative` | a client was told "not applied", and the effect is there |
//! | I5 | `phantom` | an effect that nobody asked for |
//! | I6 | `payload-swap` | the effect or an answer of a key belongs to another payload |
//! | I7 | `fold-mismatch` | an account is not what its effects make of it |
//! | I8 | `order` | an effect was committed before it was asked for, after it was answered, or in front of one that had been answered before this one was asked for |
//! | I9 | `zombie` | an effect happened after its key was swept or acknowledged |
//! | I10 | `stuck` | a call was open too long after the faults had ended |
//!
//! [`judge`] asks all of them of a [`RunRecord`](crate::history::RunRecord), [`Judge`] of events as
//! they come; [`check`] asks those that need no time of operations and effects.
//!
//! `stuck` is of a call, and needs a history that says when the faults ended and how long a call may
//! be open from then on. Never held to be stuck is a call whose client gave up (its last ending is
//! unknown) before the faults ended, and of which no new attempt, no ending and no coming back is seen
//! since; nor one whose client gave up when the store that knew was gone, and did not come back. Of a
//! history that stops early, only those are whose time was over before it stopped.
//!
//! What a client does not know is not a violation: an operation that ended in doubt or unknown may
//! have happened or not, but at most one time. It is counted. The checker has a third verdict,
//! [`Verdict::Unknown`], for runs that it cannot judge: nothing was done, an operation has no end
//! yet, not one was answered, the effects could not be read to the end, or the history contradicts
//! itself or does not say when the faults ended.
//!
//! Everything here is pure and takes time linear in the input.
//!
//! ```
//! use onlyonce_chaos::ledger::{Effect, Effects, Ending, History, Operation, Verdict, check};
//!
//! let history: History = [
//!     Operation::new("order-1", "pay 10").attempts(2).ended(Ending::Answered("ok".into())),
//!     Operation::new("order-2", "pay 99").attempts(1).ended(Ending::Declined("no funds".into())),
//!     Operation::new("order-3", "pay 7").attempts(4).ended(Ending::Unknown),
//! ]
//! .into_iter()
//! .collect();
//!
//! let effect = Effect::new("order-1", "pay 10", "ok");
//! let report = check(&history, &Effects::from_iter([effect.clone()]));
//! assert_eq!(report.verdict(), Verdict::Valid);
//!
//! // The retry was executed as well:
//! let report = check(&history, &Effects::from_iter([effect.clone(), effect]));
//! assert_eq!(report.verdict(), Verdict::Violated);
//! assert_eq!(report.violations()[0].name(), "double-apply");
//! assert_eq!(report.figures().duplicated, 1);
//! ```

mod call;
mod cases;
mod check;
mod effects;
mod groups;
mod history;
mod judge;
mod money;
mod report;
mod rows;
mod sum;
mod taking;

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod long;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unjudged;

pub use check::check;
pub use effects::{Effect, Effects};
pub use history::{Ending, History, Operation, OperationKey};
pub use judge::{Judge, judge};
pub use money::{AccountDifference, Balances, Money, Transfer};
pub use report::{Figures, Report, Verdict, Violation};
