//! Fault injection against onlyonce itself: what `onlyonce chaos` runs.
//!
//! `onlyonce-chaos` knows no service; here is ours, driven by its scenarios and judged by its
//! checker.

mod scenarios;
mod tower;

pub use onlyonce_chaos::executor::{Executor, HarnessError, NotRun};

pub use self::scenarios::{NoScenario, names as scenario_names, scenario};
pub use self::tower::TowerExecutor;

/// All executors, in the order in which reports name them.
#[must_use]
pub fn executors() -> Vec<Box<dyn Executor>> {
    vec![Box::new(TowerExecutor)]
}
