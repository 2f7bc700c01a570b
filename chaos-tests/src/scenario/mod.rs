//! What a run is told: who calls what, and what goes wrong on the way. It is data.
//!
//! ```
//! use onlyonce_chaos::scenario::Scenario;
//!
//! let scenario = Scenario::parse(r#"
//! name = "lost answers"
//! workload = "transfers"
//! calls = 100
//! goals = ["a reply was lost after its effect"]
//!
//! [[fault]]
//! name = "answers get lost"
//! where = "wire"
//! when = { phase = "reply-sent", share = 0.1 }
//! what = "drop"
//! "#).unwrap();
//! assert_eq!(scenario.faults.len(), 1);
//!
//! let error = Scenario::parse("name = \"x\"\nworkload = \"transfers\"\ncals = 100\n").unwrap_err();
//! assert_eq!((error.line(), error.field()), (3, "cals"));
//! ```

mod parse;
mod write;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use parse::ScenarioError;

use crate::fault::Fault;

/// A scenario. [`Scenario::parse`] takes only ones that make sense.
#[derive(Clone, Debug, PartialEq, Serialize)]
// Exhaustive: executors and shrinking build variants of it.
pub struct Scenario {
    /// What reports call it.
    pub name: String,
    /// What it tries, in one sentence.
    pub about: String,
    /// What the clients do.
    pub workload: Workload,
    /// How many calls a run makes, from 1 to [`CALLS_MAX`].
    pub calls: u64,
    /// How many clients make them, from 1 to [`CLIENTS_MAX`].
    pub clients: u32,
    /// Which promise the service makes, or that it makes none.
    pub mode: Mode,
    /// How long a client goes on with one call, and how long a call may stay open after the faults
    /// have ended, in milliseconds, from 1 to [`DEADLINE_MS_MAX`].
    pub deadline_ms: u64,
    /// How long one attempt waits for its answer, in milliseconds, at most the deadline.
    pub attempt_ms: u64,
    /// Whether a naive control must show duplicates. Not where no fault can make any.
    pub control: bool,
    /// What goes wrong.
    #[serde(rename = "fault")]
    pub faults: Vec<Fault>,
    /// Which situations must have arisen in a campaign of it, see [`goals`](crate::goals).
    pub goals: Vec<String>,
}

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Workload {
    /// Amounts go from one account to another.
    Transfers,
    /// Charges, and refunds of them. A refund of a charge that is not there is declined.
    Refunds,
    /// Lines are appended to mailboxes; the answer is the line's place.
    Mailbox,
    /// One key, sent by all clients at once, as often as there are calls.
    HotKey,
    /// Transfers by clients that crash and come back with the calls that they had not finished.
    Outbox,
    /// Transfers to servers that are restarted one after the other.
    RollingRestarts,
}

/// What the service does about duplicates.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
// Exhaustive: an executor must know what to start.
pub enum Mode {
    /// A durable claim before the effect: a crash in between leaves the call in doubt.
    #[default]
    Claimed,
    /// Effect and record commit together.
    Transactional,
    /// Nothing: the control. Every attempt is executed, and a run must show duplicates.
    Naive,
}

/// The most calls of one run.
pub const CALLS_MAX: u64 = 10_000_000;

/// The most clients of one run: each is a task and perhaps a connection.
pub const CLIENTS_MAX: u32 = 1_024;

/// The longest deadline, an hour: what takes longer is no scenario but a life.
pub const DEADLINE_MS_MAX: u64 = 3_600_000;

/// The most faults of one scenario, so that a report can show them all.
pub const FAULTS_MAX: usize = 64;

/// The longest scenario, in bytes.
pub const SCENARIO_BYTES_MAX: usize = 256 * 1024;

/// The longest name of a scenario, a fault or a goal, in bytes.
pub const NAME_BYTES_MAX: usize = 80;

// === impl Scenario ===

impl Scenario {
    /// The same calls and faults with a service that does nothing about duplicates.
    #[must_use]
    pub fn naive(mut self) -> Self {
        self.mode = Mode::Naive;
        self
    }

    /// The same without faults.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.faults.clear();
        self
    }
}

// === impl Workload ===

impl Workload {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Transfers,
        Self::Refunds,
        Self::Mailbox,
        Self::HotKey,
        Self::Outbox,
        Self::RollingRestarts,
    ];

    /// The name in scenarios, such as `hot-key`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transfers => "transfers",
            Self::Refunds => "refunds",
            Self::Mailbox => "mailbox",
            Self::HotKey => "hot-key",
            Self::Outbox => "outbox",
            Self::RollingRestarts => "rolling-restarts",
        }
    }
}

// === impl Mode ===

impl Mode {
    /// The name in scenarios, such as `claimed`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Transactional => "transactional",
            Self::Naive => "naive",
        }
    }
}
