//! Fault injection against onlyonce itself: what `onlyonce chaos` runs.
//!
//! `onlyonce-chaos` knows no service; here is ours, driven by its scenarios and judged by its
//! checker.

pub use onlyonce_chaos::executor::{Executor, HarnessError, NotRun};
