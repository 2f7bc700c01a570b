//! What this machine can run, and why not where it cannot.

use std::fmt::Write as _;

use onlyonce_chaos::executor::{Executor, NotRun};
use onlyonce_chaos::fault::{Fault, Phase, Place, What, When};
use onlyonce_chaos::scenario::Scenario;
use serde_json::{Value, json};

use super::kill_points;

/// One executor on this machine.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Its name.
    pub executor: &'static str,
    /// Whether it can run anything here.
    pub machine: Result<(), NotRun>,
    /// Each fault that there is.
    pub faults: Vec<ExaminedFault>,
    /// Whether it can kill a server at a named point of its code. Of an executor that can run nothing
    /// here it is not asked.
    pub points: Option<Result<(), NotRun>>,
}

/// One fault with one executor.
#[derive(Clone, Debug)]
pub struct ExaminedFault {
    /// Where it is.
    pub place: Place,
    /// What it does.
    pub what: What,
    /// At which phases it can strike (`None`: without one), or why at none.
    pub phases: Result<Vec<Option<Phase>>, NotRun>,
}

/// Asks each executor for each fault. Blocks for some seconds: they try things out.
#[must_use]
pub fn examine(executors: &[&dyn Executor]) -> Vec<Examined> {
    // OK because the text is a scenario.
    let scenario = Scenario::parse("name = \"doctor\"\nworkload = \"transfers\"\n")
        .expect("the smallest scenario is one");
    executors
        .iter()
        .map(|executor| examine_one(*executor, &scenario))
        .collect()
}

fn examine_one(executor: &dyn Executor, scenario: &Scenario) -> Examined {
    let machine = executor.can(scenario);
    let mut faults = Vec::new();
    if machine.is_ok() {
        for what in ALL {
            for place in PLACES.into_iter().filter(|&place| what.fits(place)) {
                let phases = phases(executor, scenario, place, what);
                faults.push(ExaminedFault {
                    place,
                    what,
                    phases,
                });
            }
        }
    }
    let points = machine.is_ok().then(|| at_a_point(executor, scenario));
    Examined {
        executor: executor.name(),
        machine,
        faults,
        points,
    }
}

fn at_a_point(executor: &dyn Executor, scenario: &Scenario) -> Result<(), NotRun> {
    let when = When {
        point: kill_points().first().map(|&point| point.to_owned()),
        ..When::default()
    };
    let crash = What::Crash { back_after_ms: 10 };
    let fault = Fault::new("doctor", Place::Server, crash).when(when);
    executor.can_fault(scenario, &fault)
}

fn phases(
    executor: &dyn Executor,
    scenario: &Scenario,
    place: Place,
    what: What,
) -> Result<Vec<Option<Phase>>, NotRun> {
    let mut why_not = None;
    let mut can = Vec::new();
    let phases = std::iter::once(None).chain(Phase::ALL.into_iter().map(Some));
    for phase in phases {
        let when = When {
            phase,
            ..When::default()
        };
        let fault = Fault::new("doctor", place, what).when(when);
        match executor.can_fault(scenario, &fault) {
            Ok(()) => can.push(phase),
            Err(reason) => why_not = why_not.or(Some(reason)),
        }
    }
    match why_not {
        Some(reason) if can.is_empty() => Err(reason),
        _ => Ok(can),
    }
}

/// For people.
#[must_use]
pub fn to_text(examined: &[Examined]) -> String {
    let mut text = String::new();
    for one in examined {
        // OK because a string takes everything that is written to it.
        let _ = match &one.machine {
            Ok(()) => writeln!(text, "{}: can run here", one.executor),
            Err(reason) => writeln!(text, "{}: {reason}", one.executor),
        };
        for fault in &one.faults {
            let (place, what) = (fault.place, fault.what);
            let _ = match &fault.phases {
                Ok(phases) => writeln!(text, "  {place:<7} {what:<12} {}", names(phases)),
                Err(reason) => writeln!(text, "  {place:<7} {what:<12} {reason}"),
            };
        }
        // OK because a string takes everything that is written to it.
        let _ = match &one.points {
            Some(Ok(())) => writeln!(
                text,
                "  server  crash        at each of {} points of its code",
                kill_points().len()
            ),
            Some(Err(reason)) => writeln!(
                text,
                "  server  crash        at a point of its code: {reason}"
            ),
            None => Ok(()),
        };
    }
    text
}

/// For programs.
#[must_use]
pub fn to_json(examined: &[Examined]) -> Value {
    let fault = |fault: &ExaminedFault| {
        let (place, what) = (fault.place.name(), fault.what.name());
        match &fault.phases {
            Ok(phases) => json!({ "where": place, "what": what, "phases": phase_names(phases) }),
            Err(reason) => json!({ "where": place, "what": what, "not_run": reason.reason() }),
        }
    };
    let one = |one: &Examined| match &one.machine {
        Ok(()) => json!({
            "executor": one.executor,
            "faults": one.faults.iter().map(fault).collect::<Vec<_>>(),
            "points": match &one.points {
                Some(Ok(())) => json!(kill_points()),
                Some(Err(reason)) => json!({ "not_run": reason.reason() }),
                None => json!({}),
            },
        }),
        Err(reason) => json!({ "executor": one.executor, "not_run": reason.reason() }),
    };
    json!({ "executors": examined.iter().map(one).collect::<Vec<_>>() })
}

fn names(phases: &[Option<Phase>]) -> String {
    phase_names(phases).join(", ")
}

fn phase_names(phases: &[Option<Phase>]) -> Vec<&'static str> {
    phases
        .iter()
        .map(|phase| phase.map_or("any phase", Phase::name))
        .collect()
}

const PLACES: [Place; 5] = [
    Place::Wire,
    Place::Server,
    Place::Client,
    Place::Disk,
    Place::Clock,
];

const ALL: [What; 17] = [
    What::Drop,
    What::Duplicate { later_ms: 0 },
    What::Delay {
        min_ms: 1,
        max_ms: 10,
    },
    What::Corrupt,
    What::Truncate,
    What::Reset,
    What::Close,
    What::Blackhole,
    What::Partition,
    What::PacketLoss,
    What::Crash { back_after_ms: 10 },
    What::Pause { for_ms: 10 },
    What::PowerCut,
    What::SyncFails,
    What::SyncSlow { for_ms: 10 },
    What::DiskFull,
    What::ClockJump { by_ms: 1_000 },
];
