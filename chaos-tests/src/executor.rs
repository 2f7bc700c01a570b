//! What carries a scenario out.
//!
//! An executor drives some service through a [`Scenario`]: it makes the calls of the workload,
//! lets the faults strike, and writes down what happened. It judges nothing. Ours are a tower
//! layer, a TCP proxy, the kernel, killed processes and a simulation; a test of somebody else's
//! service brings its own, and has the same checker and the same report.

use std::error::Error;
use std::fmt;

use crate::fault::Fault;
use crate::history::RunRecord;
use crate::scenario::Scenario;
use crate::seed::Seed;

/// Carries scenarios out.
///
/// Whatever it starts ends with the call: no process, file, namespace or rule outlives
/// [`Executor::run`].
pub trait Executor: Send + Sync {
    /// The name for reports and for `--exec`, such as `proxy`.
    fn name(&self) -> &'static str;

    /// Whether this machine, and this executor, can run the scenario at all, its faults aside.
    ///
    /// # Errors
    ///
    /// With the reason, if not. It becomes `not run: <reason>`, which nobody may take for passed.
    fn can(&self, scenario: &Scenario) -> Result<(), NotRun>;

    /// Whether it can let this fault of the scenario strike.
    ///
    /// # Errors
    ///
    /// With the reason, if not. Such faults are taken out of the scenario before it is run, and
    /// reported as not run.
    fn can_fault(&self, scenario: &Scenario, fault: &Fault) -> Result<(), NotRun>;

    /// Whether this situation can arise in a run of the scenario by this executor, which has been left
    /// with the faults that it can do. Of one that can, every campaign is asked for it.
    ///
    /// What follows from faults and workload alone, that nothing is killed without a crash for example,
    /// [`situations::can_arise`](crate::goals::situations::can_arise) says for all executors; here is
    /// only what an executor lacks by its nature.
    ///
    /// # Errors
    ///
    /// With the reason, if not. It is reported, and the goal is asked of others.
    fn can_reach(&self, _: &Scenario, _: &str) -> Result<(), NotRun> {
        Ok(())
    }

    /// Whether the service that does nothing about duplicates answers before what it did is durable,
    /// in this scenario: then a power cut must take answers with it, and a control in which none is
    /// lost has shown nothing.
    fn control_loses(&self, _: &Scenario) -> bool {
        false
    }

    /// Runs it once, and comes back when everything that it started is over.
    ///
    /// It blocks and makes a runtime of its own: call it from a thread without one. Everything that
    /// is decided is decided by the seed; whether the time repeats as well is the executor's to
    /// say, see [`Executor::repeats`].
    ///
    /// # Errors
    ///
    /// When the run itself could not be carried out: that is no verdict on the service.
    fn run(&self, scenario: &Scenario, seed: Seed) -> Result<RunRecord, HarnessError>;

    /// Whether two runs from one seed have the same trace hash. Only a simulation can promise that;
    /// everywhere else faults repeat and timing does not.
    fn repeats(&self) -> bool {
        false
    }
}

/// Why something was not run. It is neither passed nor failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NotRun(String);

/// Why a run could not be carried out: a mistake of the harness or of the machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HarnessError {
    /// A file, socket or process failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What failed.
        source: std::io::Error,
    },
    /// Something else failed.
    #[error("{0}")]
    Other(Box<dyn Error + Send + Sync>),
    /// It turned out on the way that it cannot be run here.
    #[error("{0}")]
    NotRun(NotRun),
}

// === impl NotRun ===

impl NotRun {
    /// For this reason, in a few words: what is missing, and what would help.
    #[must_use]
    pub fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not run: {}", self.0)
    }
}

impl Error for NotRun {}

// === impl HarnessError ===

impl HarnessError {
    /// An I/O error, with what was being done.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let what = what.into();
        Self::Io { what, source }
    }

    /// Anything else, as an error or as text.
    pub fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }
}

impl From<NotRun> for HarnessError {
    fn from(reason: NotRun) -> Self {
        Self::NotRun(reason)
    }
}
