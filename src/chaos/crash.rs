//! The executor that kills: a server in a process of its own, clients over the loopback.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use onlyonce_chaos::Seed;
use onlyonce_chaos::executor::{Executor, HarnessError, NotRun};
use onlyonce_chaos::fault::{Fault, Place, What, When};
use onlyonce_chaos::history::{Fired, RunRecord};
use onlyonce_chaos::scenario::Scenario;

use super::real::{self, Run, Wire, Work};

/// Kills with SIGKILL, pauses with SIGSTOP, at a phase of an attempt, a point of the code or a time;
/// cuts the power of the disk under the server.
#[derive(Clone, Debug, Default)]
pub struct CrashExecutor {
    program: Option<PathBuf>,
    /// Whether this machine has a disk whose power can be cut, tried out when it is first asked.
    disk: Arc<OnceLock<Result<(), NotRun>>>,
}

/// Nothing between clients and server.
struct Loopback;

// === impl CrashExecutor ===

impl CrashExecutor {
    /// With another program than this one as server: the same one, for a test.
    #[must_use]
    pub fn with_program(program: PathBuf) -> Self {
        Self {
            program: Some(program),
            ..Self::default()
        }
    }

    fn can_cut_power(&self, fault: &Fault) -> Result<(), NotRun> {
        let at_a_time = When {
            from_ms: fault.when.from_ms,
            until_ms: fault.when.until_ms,
            ..When::default()
        };
        if fault.when != at_a_time {
            return Err(NotRun::because(
                "a real disk's power is cut once, at a time of its window",
            ));
        }
        let tried = self.disk.get_or_init(|| {
            let folder = tempfile::tempdir();
            let folder = folder.map_err(|error| NotRun::because(error.to_string()))?;
            real::Disk::below(folder.path()).map(drop)
        });
        tried.clone()
    }
}

impl Executor for CrashExecutor {
    fn name(&self) -> &'static str {
        "crash"
    }

    fn can(&self, _: &Scenario) -> Result<(), NotRun> {
        Ok(())
    }

    fn can_fault(&self, scenario: &Scenario, fault: &Fault) -> Result<(), NotRun> {
        match fault.place {
            Place::Wire => Err(NotRun::because(
                "there is no wire here; proxy and kernel have one",
            )),
            Place::Disk if matches!(fault.what, What::PowerCut) => self.can_cut_power(fault),
            _ => real::can_server_fault(scenario, fault),
        }
    }

    fn can_reach(&self, scenario: &Scenario, goal: &str) -> Result<(), NotRun> {
        real::can_reach(scenario, goal)
    }

    fn control_loses(&self, scenario: &Scenario) -> bool {
        real::loses(scenario.mode, &scenario.faults)
    }

    fn run(&self, scenario: &Scenario, seed: Seed) -> Result<RunRecord, HarnessError> {
        Run {
            executor: self.name(),
            program: &real::program(self.program.as_ref())?,
            scenario,
            seed,
            wire: Loopback,
        }
        .run()
    }
}

impl Wire for Loopback {
    async fn work(
        &self,
        work: Work,
        calm: impl Future<Output = Result<(), HarnessError>> + Send,
    ) -> Result<BTreeMap<String, Fired>, HarnessError> {
        work.call_and_resume(work.server, calm).await?;
        Ok(BTreeMap::new())
    }
}
