//! From a run that fails to the smallest schedule that still does.

use onlyonce_chaos::executor::HarnessError;
use onlyonce_chaos::fault::Fault;
use onlyonce_chaos::ledger::Verdict;
use onlyonce_chaos::scenario::Scenario;

use super::campaign::judged;

/// The smallest schedule that was found.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// What fails.
    pub scenario: Scenario,
    /// From which seed.
    pub seed: u64,
    /// What the checker calls what is wrong.
    pub violation: String,
    /// What the run came to, to tell whether a later one is the same.
    pub trace_hash: u64,
    /// How many runs it took.
    pub runs: u64,
    /// How often faults had struck in the run that failed.
    pub strikes: usize,
}

struct Shrinking {
    violation: String,
    runs: u64,
    runs_max: u64,
}

/// Makes the faults of a failing run explicit and takes away whatever is not needed: faults, then
/// calls, then clients. `None` where the run does not fail. At most `runs_max` runs are made.
///
/// # Errors
///
/// When the simulation itself fails.
pub fn shrink(
    scenario: &Scenario,
    seed: u64,
    runs_max: u64,
) -> Result<Option<Shrunk>, HarnessError> {
    let first = judged(scenario, seed)?;
    let Some(violation) = first.report.violations().first() else {
        return Ok(None);
    };
    let mut shrinking = Shrinking {
        violation: violation.name().to_owned(),
        runs: 1,
        runs_max,
    };
    let mut found = (scenario.clone(), seed);
    let strikes = first.run.explicit.len();
    let explicit = with(scenario, first.run.explicit);
    if shrinking.fails(&explicit, seed)? {
        found.0 = explicit;
        shrinking.fewer_faults(&mut found)?;
    }
    shrinking.fewer_calls(&mut found)?;
    shrinking.fewer_faults(&mut found)?;
    shrinking.fewer_clients(&mut found)?;
    let (mut scenario, seed) = found;
    scenario.name = format!("shrunk: {}", shrinking.violation);
    scenario.goals.clear();
    let last = judged(&scenario, seed)?;
    Ok(Some(Shrunk {
        scenario,
        seed,
        violation: shrinking.violation,
        trace_hash: last.run.record.trace_hash,
        runs: shrinking.runs,
        strikes,
    }))
}

fn with(scenario: &Scenario, faults: Vec<Fault>) -> Scenario {
    Scenario {
        faults,
        ..scenario.clone()
    }
}

// === impl Shrinking ===

impl Shrinking {
    /// Whether it fails in the same way.
    fn fails(&mut self, scenario: &Scenario, seed: u64) -> Result<bool, HarnessError> {
        if self.runs >= self.runs_max {
            return Ok(false);
        }
        self.runs += 1;
        let report = judged(scenario, seed)?.report;
        let mut violations = report.violations().iter();
        Ok(report.verdict() == Verdict::Violated
            && violations.any(|violation| violation.name() == self.violation))
    }

    /// Takes away one part of the faults after the other, in ever smaller parts.
    fn fewer_faults(&mut self, found: &mut (Scenario, u64)) -> Result<(), HarnessError> {
        let mut part = found.0.faults.len().div_ceil(2);
        while part > 0 && !found.0.faults.is_empty() {
            let mut at = 0;
            let mut less = false;
            while at < found.0.faults.len() {
                let mut faults = found.0.faults.clone();
                faults.drain(at..(at + part).min(faults.len()));
                let fewer = with(&found.0, faults);
                if self.fails(&fewer, found.1)? {
                    found.0 = fewer;
                    less = true;
                } else {
                    at += part;
                }
            }
            part = match part {
                1 if less => 1,
                1 => 0,
                part => part.div_ceil(2).min(found.0.faults.len().max(1)),
            };
        }
        Ok(())
    }

    /// Fewer calls: those that faults strike get the first numbers, and what a call is about comes
    /// from a seed in which it fails again.
    fn fewer_calls(&mut self, found: &mut (Scenario, u64)) -> Result<(), HarnessError> {
        let original = found.clone();
        for calls in [1, 2, 3, 4, 5, 8, 13, 21, 34, 55] {
            if calls >= original.0.calls {
                break;
            }
            let mut struck: Vec<u64> = original
                .0
                .faults
                .iter()
                .filter_map(|fault| fault.when.call)
                .collect();
            struck.retain(|call| *call > 0);
            struck.sort_unstable();
            struck.dedup();
            let renamed = |fault: &Fault| {
                let mut fault = fault.clone();
                // What is of a sync keeps its number.
                if fault.place != onlyonce_chaos::fault::Place::Disk || is_of_a_call(&fault) {
                    let place = fault
                        .when
                        .call
                        .and_then(|call| struck.binary_search(&call).ok());
                    fault.when.call =
                        place.map_or(fault.when.call, |place| Some(place as u64 % calls + 1));
                }
                fault
            };
            let fewer = Scenario {
                calls,
                clients: original.0.clients.min(2),
                faults: original.0.faults.iter().map(renamed).collect(),
                ..original.0.clone()
            };
            let seeds = std::iter::once(original.1).chain(1..=SEEDS_TRIED);
            for seed in seeds {
                if self.fails(&fewer, seed)? {
                    *found = (fewer, seed);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn fewer_clients(&mut self, found: &mut (Scenario, u64)) -> Result<(), HarnessError> {
        let one = Scenario {
            clients: 1,
            ..found.0.clone()
        };
        if found.0.clients > 1 && self.fails(&one, found.1)? {
            found.0 = one;
        }
        Ok(())
    }
}

fn is_of_a_call(fault: &Fault) -> bool {
    use onlyonce_chaos::fault::What;
    !matches!(fault.what, What::SyncFails | What::SyncSlow { .. })
}

impl Shrunk {
    /// The scenario as a file that `onlyonce chaos run` takes.
    #[must_use]
    pub fn toml(&self) -> String {
        self.scenario.to_toml()
    }

    /// A test that fails for as long as the program does. That its calls may end in doubt breaks no promise.
    #[must_use]
    pub fn test(&self) -> String {
        format!(
            "use onlyonce::chaos::sim::campaign::judged;\n\
             use onlyonce_chaos::scenario::Scenario;\n\n\
             #[test]\nfn {}_is_mended() {{\n    \
             let scenario = Scenario::parse(r#\"\n{}\"#).unwrap();\n    \
             let report = judged(&scenario, {}).unwrap().report;\n    \
             assert!(report.violations().is_empty(), \"{{report}}\");\n}}\n",
            self.violation.replace('-', "_"),
            self.toml(),
            self.seed,
        )
    }
}

/// How many seeds are tried for what the calls of a smaller schedule are about.
const SEEDS_TRIED: u64 = 25;
