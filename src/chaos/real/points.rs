//! Named points of the server's code at which its process is killed.
//!
//! The points are those that the kill-point tests of the libraries use (`kill_point!`): the process
//! kills itself there with SIGKILL, so that not an instruction more runs. They are in the program
//! only if it was built with the feature `points`.

use std::collections::VecDeque;

use onlyonce_chaos::executor::NotRun;
use onlyonce_chaos::fault::Fault;
use onlyonce_chaos::scenario::Mode;

/// The points of a serving process, by name. A doubt that is ended by hand and an outbox have points
/// as well; no server of a run passes those.
#[must_use]
pub const fn kill_points() -> &'static [&'static str] {
    &NAMES
}

/// Those at which the server is still to be killed, one process at a time.
///
/// A process is killed at one point. The next fault is armed when the one before has struck: a point
/// that is never passed keeps the later ones from striking, and none of them counts as struck.
#[derive(Debug, Default)]
pub(super) struct Armed {
    /// Which faults, by their ordinals.
    left: VecDeque<usize>,
}

// === impl Armed ===

impl Armed {
    /// Those of the scenario's faults that a server of this mode can meet.
    pub(super) fn of(faults: &[Fault], mode: Mode) -> Self {
        let points = faults.iter().enumerate().filter(|(_, fault)| {
            let point = fault.when.point.as_deref();
            point.is_some_and(|point| is_passed(point, mode))
        });
        Self {
            left: points.map(|(index, _)| index).collect(),
        }
    }

    /// The fault that the next process dies of.
    pub(super) fn first(&self) -> Option<usize> {
        self.left.front().copied()
    }

    /// It has struck.
    pub(super) fn struck(&mut self) {
        self.left.pop_front();
    }

    /// Nothing strikes any more.
    pub(super) fn end(&mut self) {
        self.left.clear();
    }
}

/// What the process is told, if its faults are about a point: `NAME#PASSING`.
pub(super) fn kill_at(fault: &Fault) -> Option<String> {
    let point = fault.when.point.as_deref()?;
    Some(format!("{point}#{}", fault.when.passing.unwrap_or(1)))
}

/// The variable that tells it.
pub(super) const KILL_AT: &str = "ONLYONCE_KILL_AT";

/// Whether this program can be killed at points, and has this one.
pub(super) fn can(point: &str) -> Result<(), NotRun> {
    if !cfg!(feature = "points") {
        return Err(NotRun::because(
            "this program has no named points in it; one that is built with the feature `points` has",
        ));
    }
    match NAMES.contains(&point) {
        true => Ok(()),
        false => Err(NotRun::because(format!(
            "the server has no point `{point}`"
        ))),
    }
}

/// Where nothing dedupes there is neither a store nor a claim.
fn is_passed(point: &str, mode: Mode) -> bool {
    mode != Mode::Naive || point.starts_with("server: ")
}

const NAMES: [&str; 79] = [
    "checkpoint: a table made, nothing in it",
    "checkpoint: durable, its file not free",
    "checkpoint: everything durable, not said to be",
    "checkpoint: everything given to sled, not durable",
    "checkpoint: files not said to be there, still there",
    "checkpoint: its file free, nobody told",
    "checkpoint: one file removed, the next not",
    "checkpoint: one row written, the next not",
    "checkpoint: open calls given to sled, sessions not",
    "checkpoint: pages durable, rows not written",
    "checkpoint: said, not durable",
    "checkpoint: sessions given to sled, tables not",
    "checkpoint: some pages written, the next not",
    "checkpoint: some rows of a table written, the rest not",
    "dedupe: admitted, no flight boarded",
    "dedupe: answer encoded, not recorded",
    "dedupe: answer recorded, nobody told",
    "dedupe: claimed, handler not called",
    "dedupe: delivered, not handed on",
    "dedupe: doubt recorded, nobody told",
    "dedupe: duplicate boarded, not waiting",
    "dedupe: flight led, nothing asked",
    "dedupe: handler ready, key not claimed",
    "dedupe: handler returned, answer not encoded",
    "dedupe: key taken before, nobody told",
    "dedupe: lease renewed, handler running",
    "dedupe: question asked, not answered",
    "dedupe: released, nobody told",
    "dedupe: transaction lost, not run again",
    "dedupe: transaction run, nothing committed",
    "dedupe: transaction settled, nobody told",
    "dedupe: waiters told, owner not",
    "disk: bucket of answers made, nothing in it",
    "disk: checkpoints ended, database not closed",
    "disk: database closed, lock held",
    "disk: settled bucket made, nothing in it",
    "log: files made, nothing in them",
    "log: turn written, not synced",
    "opening: carried over, the log not begun again",
    "opening: database open, log not read",
    "opening: directory there, not locked",
    "opening: everything read, incarnation not raised",
    "opening: format drafted, not named",
    "opening: format named, leftovers not removed",
    "opening: format named, not synced",
    "opening: incarnation raised, open calls not in doubt",
    "opening: leftovers removed, database not open",
    "opening: locked, format not named",
    "opening: log there, trees not read",
    "opening: one turn begun, the next not",
    "opening: open calls in doubt, not carried over",
    "opening: the log begun again, not serving",
    "opening: unfinished pages removed, nothing carried over",
    "server: call begun, service not called",
    "server: call decoded, not begun",
    "server: calls over, connection not ended",
    "server: client welcomed, nothing read",
    "server: frame read, not decoded",
    "server: replies taken, not written",
    "server: replies written, calls not over",
    "server: reply queued, call not over",
    "server: service answered, reply not queued",
    "server: shutting down, client not told",
    "sweep: let go, not answered",
    "sweep: note durable, nothing removed",
    "sweep: noted, not durable",
    "syncer: group synced, nobody told",
    "syncer: group taken, not written",
    "syncer: group written, not synced",
    "syncer: next group let go, this one not answered",
    "syncer: one reply given, the next not",
    "writer: changes applied, not handed over",
    "writer: group handed over, syncer not told",
    "writer: last group handed over, syncer not ended",
    "writer: operations decided, not applied",
    "writer: operations taken, not decided",
    "writer: questions decided, not answered",
    "writer: records applied, rows not",
    "writer: syncer ended, disk not closed",
];

#[cfg(test)]
mod tests {
    use onlyonce_chaos::fault::{Place, What, When};

    use super::*;

    fn at(point: &str, passing: Option<u64>) -> Fault {
        let when = When {
            point: Some(point.to_owned()),
            passing,
            ..When::default()
        };
        let crash = What::Crash { back_after_ms: 5 };
        Fault::new(point, Place::Server, crash).when(when)
    }

    #[test]
    fn a_process_is_told_the_point_and_its_passing() {
        let told = |passing| kill_at(&at("disk: group # written", passing));
        assert_eq!(told(None).as_deref(), Some("disk: group # written#1"));
        assert_eq!(told(Some(7)).as_deref(), Some("disk: group # written#7"));
    }

    #[test]
    fn a_server_that_dedupes_nothing_is_killed_at_its_own_points_only() {
        let faults = [
            at("syncer: group taken, not written", None),
            at("server: call decoded, not begun", None),
        ];
        let mut armed = Armed::of(&faults, Mode::Claimed);
        assert_eq!(armed.first(), Some(0));
        armed.struck();
        assert_eq!(armed.first(), Some(1));
        assert_eq!(Armed::of(&faults, Mode::Naive).first(), Some(1));
    }
}
