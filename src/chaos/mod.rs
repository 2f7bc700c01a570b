//! Fault injection against onlyonce itself: what `onlyonce chaos` runs.
//!
//! `onlyonce-chaos` knows no service; here is ours, driven by its scenarios and judged by its
//! checker.

mod crash;
pub mod doctor;
#[cfg(target_os = "linux")]
mod kernel;
mod proxy;
mod real;
mod scenarios;
pub mod sim;
mod tower;

pub use onlyonce_chaos::executor::{Executor, HarnessError, NotRun};

pub use self::crash::CrashExecutor;
#[cfg(target_os = "linux")]
pub use self::kernel::KernelExecutor;
pub use self::proxy::{ProxyExecutor, native_naming};
pub use self::real::{
    ChaosClientsOptions, ChaosServerOptions, kill_points, run_clients, run_server,
};
pub use self::scenarios::{NoScenario, names as scenario_names, scenario};
pub use self::tower::TowerExecutor;

/// All executors, in the order in which reports name them.
#[must_use]
pub fn executors() -> Vec<Box<dyn Executor>> {
    vec![
        Box::new(sim::SimExecutor),
        Box::new(TowerExecutor),
        Box::new(ProxyExecutor::default()),
        #[cfg(target_os = "linux")]
        Box::new(KernelExecutor::default()),
        Box::new(CrashExecutor::default()),
    ]
}
