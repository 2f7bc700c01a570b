//! One call alone is at a point when its process is killed: what became of it is looked at in the
//! store, told to its caller, and compared with what the manual says of that point.
//!
//! The other runs of this test hold a crowd against the promise. Here the outcome of each point is
//! known beforehand, so `src/manual/failure_modes.md` can be checked word by word: a point that is
//! not in its tables fails, and so do a row without a point and a row that says something else than
//! what was seen.

mod child;
mod kept;
pub mod manual;
mod measured;
mod outbox;
pub mod outcome;
mod scripts;
pub mod table;
