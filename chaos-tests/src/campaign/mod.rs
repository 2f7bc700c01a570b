//! A scenario, many seeds, several executors: all runs of it, judged and added up.
//!
//! A campaign is judged as one: it is violated when one run is, it is valid when every run is, the
//! wanted situations arose and every fault struck by each executor that can do them, what promises to
//! repeat did repeat, and the naive control showed the duplicates, or the losses, that the faults are
//! there to make. Otherwise it is unknown. What was not run is said with its reason, and nothing of it
//! counts.

mod latency;
mod part;
mod run;
mod story;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod toy;

pub use latency::Latencies;
pub use part::{Campaign, Control, Differing, Failure, Finding, Missed, NeverStruck, Part};
pub use run::{Options, possible, replay, run};
pub use story::{Band, Dot, Story, Timeline};
