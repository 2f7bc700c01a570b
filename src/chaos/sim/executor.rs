//! The executor of scenarios, and what a run of it gives more than others.

use onlyonce_chaos::Seed;
use onlyonce_chaos::executor::{Executor, HarnessError, NotRun};
use onlyonce_chaos::fault::Fault;
use onlyonce_chaos::history::RunRecord;
use onlyonce_chaos::scenario::Scenario;

use super::{strikes, town};

/// Runs scenarios in simulated time: two runs from one seed are the same to the bit.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimExecutor;

/// A run, and what made it.
#[derive(Clone, Debug)]
pub struct SimRun {
    /// What happened.
    pub record: RunRecord,
    /// Everything that the faults did, each as a fault that does this and nothing else.
    pub explicit: Vec<Fault>,
}

// === impl SimExecutor ===

impl SimExecutor {
    /// Runs a scenario once, on this thread, which must have no runtime.
    ///
    /// # Errors
    ///
    /// When the simulation itself fails.
    pub fn simulate(&self, scenario: &Scenario, seed: Seed) -> Result<SimRun, HarnessError> {
        let mut run = town::run(scenario, seed)?;
        run.record.fired = strikes::that_did_something(&run.record.events);
        Ok(run)
    }
}

impl Executor for SimExecutor {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn can(&self, scenario: &Scenario) -> Result<(), NotRun> {
        if town::knows(scenario.workload) {
            return Ok(());
        }
        let name = scenario.workload.name();
        Err(NotRun::because(format!(
            "the simulation has no clients that do `{name}`"
        )))
    }

    fn can_fault(&self, _: &Scenario, fault: &Fault) -> Result<(), NotRun> {
        if fault.when.point.is_some() {
            return Err(NotRun::because(
                "a simulated process is killed at a phase or a time; crash, proxy and kernel kill at points of the code",
            ));
        }
        town::can(fault).map_err(NotRun::because)
    }

    fn run(&self, scenario: &Scenario, seed: Seed) -> Result<RunRecord, HarnessError> {
        self.simulate(scenario, seed).map(|run| run.record)
    }

    fn repeats(&self) -> bool {
        true
    }
}
