//! `chaos replay`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use onlyonce::chaos::{kill_points, scenario};
use onlyonce_chaos::campaign;
use onlyonce_chaos::scenario::Scenario;

use super::super::{exit, output};
use super::{ended, executors, read};

#[derive(Args)]
pub(crate) struct ReplayArguments {
    /// A history that `chaos run --history` or `chaos gate --history` has written
    history: PathBuf,
    /// The scenario, instead of what is in the history: the name of one that comes along, or a TOML file
    #[arg(long)]
    scenario: Option<String>,
    /// How many calls the run made, where it was not what the scenario says
    #[arg(long)]
    calls: Option<u64>,
}

pub(super) fn run(arguments: &ReplayArguments) -> ExitCode {
    let misused = |text: &str| output::fail(exit::MISUSED, text);
    let record = match read(&arguments.history) {
        Ok(record) => record,
        Err(error) => return misused(&format!("{}: {error}", arguments.history.display())),
    };
    let header = &record.header;
    let name = arguments.scenario.as_ref().unwrap_or(&header.scenario);
    let written = !header.toml.is_empty() && arguments.scenario.is_none();
    let named = match written {
        true => Scenario::parse_with_points(&header.toml, kill_points())
            .map_err(|error| format!("the scenario in the history, {error}")),
        false => scenario(name).map_err(|error| format!("{error} (name its file with --scenario)")),
    };
    let mut wanted = match named {
        Ok(scenario) => scenario,
        Err(error) => return misused(&error),
    };
    if header.naive {
        wanted = wanted.naive();
    }
    if let Some(calls) = arguments.calls {
        wanted.calls = calls;
    }
    let executors = match executors(std::slice::from_ref(&header.executor)) {
        Ok(executors) => executors,
        Err(text) => return misused(&text),
    };
    let [executor] = executors.as_slice() else {
        return misused("the history names no executor");
    };
    match campaign::replay(&wanted, executor.as_ref(), &record) {
        Ok(None) => {
            let text = format!(
                "the same trace: {:016x}, and the same was read at the end\n",
                record.trace_hash
            );
            ended(0, &text)
        }
        Ok(Some(differing)) => {
            let why = match executor.repeats() {
                true => "this executor should repeat",
                false => "this executor repeats faults, not time",
            };
            let text = format!(
                "it differs at event {} ({why}):\n  then {}\n  now  {}\n",
                differing.event, differing.one, differing.other
            );
            ended(exit::UNKNOWN, &text)
        }
        Err(error) => output::fail(exit::UNKNOWN, &error),
    }
}
