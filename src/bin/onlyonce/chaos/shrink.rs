//! `chaos shrink`: from a seed that fails to the smallest schedule that does.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use onlyonce::chaos::scenario;
use onlyonce::chaos::sim::plans;
use onlyonce::chaos::sim::shrink::{Shrunk, shrink};
use onlyonce_chaos::scenario::Scenario;
use tokio::time::Instant;

use super::super::{exit, output};
use super::ended;

#[derive(Args)]
pub(crate) struct ShrinkArguments {
    /// The seed of a run that fails
    seed: u64,
    /// The name of a scenario that comes along, or a TOML file; that of `chaos gate` where this is
    /// not said
    #[arg(long)]
    scenario: Option<String>,
    /// Runs the service without dedupe, as `chaos run --naive` does
    #[arg(long)]
    naive: bool,
    /// How many calls the run makes
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    calls: Option<u64>,
    /// How many runs at most
    #[arg(long, default_value_t = 2_000)]
    runs: u64,
    /// Makes so many failing runs small, from this seed on, and tells how well that goes: sizes
    /// before and after, runs and time
    #[arg(long, value_name = "RUNS", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    failing: Option<u64>,
    /// Plants this bug first: one that `chaos mutants` lists
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "BUG")]
    plant: Option<String>,
}

/// One failing run that was made small.
struct Measured {
    seed: u64,
    shrunk: Shrunk,
    calls: u64,
    took: Duration,
}

pub(super) fn run(arguments: &ShrinkArguments) -> ExitCode {
    let named = match arguments.scenario.as_deref().map(scenario).transpose() {
        Ok(named) => named,
        Err(error) => return output::fail(exit::MISUSED, &error),
    };
    let scenario_of = |seed| {
        let calls = arguments.calls;
        let mut wanted = match &named {
            None => plans::of_seed(seed, calls.unwrap_or(100)),
            Some(named) => named.clone(),
        };
        wanted.calls = calls.unwrap_or(wanted.calls);
        match arguments.naive {
            true => wanted.naive(),
            false => wanted,
        }
    };
    #[cfg(feature = "mutants")]
    let _planted = match planted(arguments.plant.as_deref()) {
        Ok(planted) => planted,
        Err(text) => return output::fail(exit::MISUSED, &text),
    };
    match arguments.failing {
        Some(failing) => many(arguments, failing, &scenario_of),
        None => one(arguments, &scenario_of(arguments.seed)),
    }
}

#[cfg(feature = "mutants")]
fn planted(name: Option<&str>) -> Result<Option<onlyonce::storage::mutants::Planted>, String> {
    use onlyonce::storage::mutants::{Mutant, plant};
    let Some(name) = name else { return Ok(None) };
    let named = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
    match named {
        Some(&mutant) => Ok(Some(plant(Some(mutant)))),
        None => Err(format!("no bug `{name}`: `chaos mutants` lists them")),
    }
}

fn one(arguments: &ShrinkArguments, wanted: &Scenario) -> ExitCode {
    match shrink(wanted, arguments.seed, arguments.runs) {
        Err(error) => output::fail(exit::UNKNOWN, &error),
        Ok(None) => ended(
            0,
            "nothing is wrong with this run: there is nothing to be made small\n",
        ),
        Ok(Some(shrunk)) => {
            let text = format!(
                "{}: {} faults, {} calls, seed {}, trace {:016x}, after {} runs\n\n{}\n{}",
                shrunk.violation,
                shrunk.scenario.faults.len(),
                shrunk.scenario.calls,
                shrunk.seed,
                shrunk.trace_hash,
                shrunk.runs,
                shrunk.toml(),
                shrunk.test()
            );
            ended(exit::BROKEN, &text)
        }
    }
}

/// The first runs that fail, each made small.
fn many(
    arguments: &ShrinkArguments,
    failing: u64,
    scenario_of: &dyn Fn(u64) -> Scenario,
) -> ExitCode {
    let mut measured = Vec::new();
    let mut text = String::new();
    for seed in (arguments.seed..).take(SEEDS_MAX) {
        if measured.len() as u64 == failing {
            break;
        }
        let wanted = scenario_of(seed);
        let began = Instant::now();
        let shrunk = match shrink(&wanted, seed, arguments.runs) {
            Err(error) => return output::fail(exit::UNKNOWN, &error),
            Ok(None) => continue,
            Ok(Some(shrunk)) => shrunk,
        };
        let (took, calls) = (began.elapsed(), wanted.calls);
        measured.push(Measured {
            seed,
            shrunk,
            calls,
            took,
        });
    }
    for one in &measured {
        let Measured {
            seed,
            shrunk,
            calls,
            took,
        } = one;
        text.push_str(&format!(
            "seed {seed}: {}, {} strikes and {calls} calls became {} and {}, in {} runs and {:.2} s\n",
            shrunk.violation,
            shrunk.strikes,
            shrunk.scenario.faults.len(),
            shrunk.scenario.calls,
            shrunk.runs,
            took.as_secs_f64()
        ));
    }
    if measured.is_empty() {
        text.push_str(&format!("none of {SEEDS_MAX} runs fails\n"));
        return ended(0, &text);
    }
    let of = |figure: &dyn Fn(&Measured) -> f64| median(measured.iter().map(figure).collect());
    text.push_str(&format!(
        "medians of {}: {} strikes and {} calls became {} and {}, in {} runs and {:.2} s\n",
        measured.len(),
        of(&|one| one.shrunk.strikes as f64),
        of(&|one| one.calls as f64),
        of(&|one| one.shrunk.scenario.faults.len() as f64),
        of(&|one| one.shrunk.scenario.calls as f64),
        of(&|one| one.shrunk.runs as f64),
        of(&|one| one.took.as_secs_f64())
    ));
    ended(exit::BROKEN, &text)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// How many seeds are tried to find runs that fail.
const SEEDS_MAX: usize = 10_000;
