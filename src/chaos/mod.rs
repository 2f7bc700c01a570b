//! Fault injection against onlyonce itself: what `onlyonce chaos` runs.
//!
//! `onlyonce-chaos` knows no service; here is ours, driven by its scenarios and judged by its
//! checker.

pub use onlyonce_chaos::Seed;
pub use onlyonce_chaos::executor::{Executor, HarnessError, NotRun};
pub use onlyonce_chaos::history::{Ending, Event, Happened, RunRecord};
pub use onlyonce_chaos::scenario::Scenario;

mod crash;
pub mod doctor;
#[cfg(target_os = "linux")]
mod kernel;
mod proxy;
mod real;

pub use crash::CrashExecutor;
#[cfg(target_os = "linux")]
pub use kernel::KernelExecutor;
pub use proxy::ProxyExecutor;
pub use real::{ChaosClientsOptions, ChaosServerOptions, run_clients, run_server};
