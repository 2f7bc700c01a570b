//! `chaos shrink`: from a seed that fails to the smallest schedule that does.

use std::process::ExitCode;

use clap::Args;
use onlyonce::chaos::scenario;
use onlyonce::chaos::sim::{plans, shrink};

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
    /// How many calls the run makes
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    calls: Option<u64>,
    /// How many runs at most
    #[arg(long, default_value_t = 2_000)]
    runs: u64,
}

pub(super) fn run(arguments: &ShrinkArguments) -> ExitCode {
    let mut wanted = match &arguments.scenario {
        None => plans::of_seed(arguments.seed, arguments.calls.unwrap_or(100)),
        Some(name) => match scenario(name) {
            Ok(scenario) => scenario,
            Err(error) => return output::fail(exit::MISUSED, &error),
        },
    };
    if let Some(calls) = arguments.calls {
        wanted.calls = calls;
    }
    match shrink::shrink(&wanted, arguments.seed, arguments.runs) {
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
