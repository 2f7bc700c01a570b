//! An executor whose run is kept, for its history.

use onlyonce::chaos::{Executor, HarnessError, NotRun};
use onlyonce_chaos::Seed;
use onlyonce_chaos::fault::Fault;
use onlyonce_chaos::history::RunRecord;
use onlyonce_chaos::scenario::{Mode, Scenario};
use parking_lot::Mutex;

/// Does what `executor` does, and keeps the first run in this mode: the control is run in another.
pub(super) struct Recorded<'a> {
    executor: &'a dyn Executor,
    mode: Mode,
    first: Mutex<Option<RunRecord>>,
}

// === impl Recorded ===

impl<'a> Recorded<'a> {
    pub(super) fn new(executor: &'a dyn Executor, mode: Mode) -> Self {
        let first = Mutex::default();
        Self {
            executor,
            mode,
            first,
        }
    }

    /// The run, if there was one.
    pub(super) fn into_run(self) -> Option<RunRecord> {
        self.first.into_inner()
    }
}

impl Executor for Recorded<'_> {
    fn name(&self) -> &'static str {
        self.executor.name()
    }

    fn can(&self, scenario: &Scenario) -> Result<(), NotRun> {
        self.executor.can(scenario)
    }

    fn can_fault(&self, scenario: &Scenario, fault: &Fault) -> Result<(), NotRun> {
        self.executor.can_fault(scenario, fault)
    }

    fn can_reach(&self, scenario: &Scenario, goal: &str) -> Result<(), NotRun> {
        self.executor.can_reach(scenario, goal)
    }

    fn control_loses(&self, scenario: &Scenario) -> bool {
        self.executor.control_loses(scenario)
    }

    fn run(&self, scenario: &Scenario, seed: Seed) -> Result<RunRecord, HarnessError> {
        let record = self.executor.run(scenario, seed)?;
        if scenario.mode == self.mode {
            self.first.lock().get_or_insert_with(|| record.clone());
        }
        Ok(record)
    }

    fn repeats(&self) -> bool {
        self.executor.repeats()
    }
}
