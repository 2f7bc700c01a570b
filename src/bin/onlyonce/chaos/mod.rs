//! The commands `chaos`: fault injection with seeds, judged and told.

mod check;
mod doctor;
mod exhaust;
mod gate;
mod mutants;
mod processes;
mod proxy;
mod recorded;
mod replay;
mod run;
mod shrink;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use onlyonce::chaos::{self, Executor};
use onlyonce_chaos::history::{HistoryError, RunRecord};
use onlyonce_chaos::scenario::Scenario;
use tokio::runtime::Runtime;

use super::{exit, output};

pub(crate) use processes::{ClientsArguments, ServerArguments, call, serve};

#[derive(Subcommand)]
pub(crate) enum ChaosCommand {
    /// Runs a scenario from many seeds, judges every run, and writes a report
    #[command(after_help = exit::CHAOS_CODES)]
    Run(run::RunArguments),
    /// Runs a history again from its seed: the same trace, or where it differs
    #[command(after_help = exit::CHAOS_CODES)]
    Replay(replay::ReplayArguments),
    /// Judges histories again
    #[command(after_help = exit::CHAOS_CODES)]
    Check(check::CheckArguments),
    /// A proxy in front of any TCP server, that loses, doubles, delays and cuts its messages
    #[command(after_help = proxy::HELP)]
    Proxy(proxy::ProxyArguments),
    /// Everything at once in simulated time, from many seeds
    #[command(after_help = exit::CHAOS_CODES)]
    Gate(gate::GateArguments),
    /// Every single fault, and every pair of them, of the exchange of one call or two
    #[command(after_help = exit::CHAOS_CODES)]
    Exhaust(exhaust::ExhaustArguments),
    /// Makes a run that fails as small as can be: a scenario, and a test
    #[command(after_help = exit::CHAOS_CODES)]
    Shrink(shrink::ShrinkArguments),
    /// Plants bugs, and tells how soon the simulation finds each
    #[command(after_help = exit::CHAOS_CODES)]
    Mutants(mutants::MutantsArguments),
    /// What this machine can run, and why not where it cannot
    Doctor(doctor::DoctorArguments),
}

/// Runs a command. Executors make runtimes of their own: `runtime` is only for what goes on beside
/// them.
pub(crate) fn run(command: ChaosCommand, runtime: &Runtime) -> ExitCode {
    match command {
        ChaosCommand::Run(arguments) => run::run(&arguments, runtime),
        ChaosCommand::Replay(arguments) => replay::run(&arguments),
        ChaosCommand::Check(arguments) => check::run(&arguments),
        ChaosCommand::Proxy(arguments) => runtime.block_on(proxy::run(arguments)),
        ChaosCommand::Gate(arguments) => gate::run(&arguments),
        ChaosCommand::Exhaust(arguments) => exhaust::run(&arguments),
        ChaosCommand::Shrink(arguments) => shrink::run(&arguments),
        ChaosCommand::Mutants(arguments) => mutants::run(&arguments),
        ChaosCommand::Doctor(arguments) => doctor::run(&arguments),
    }
}

/// The executors of these names; all of them for none.
fn executors(names: &[String]) -> Result<Vec<Box<dyn Executor>>, String> {
    let all = chaos::executors();
    if names.is_empty() {
        return Ok(all);
    }
    let known: Vec<&str> = all.iter().map(|executor| executor.name()).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!(
            "no executor `{unknown}`: it is one of {}",
            known.join(", ")
        ));
    }
    let mut wanted = all;
    wanted.retain(|executor| names.iter().any(|name| name == executor.name()));
    Ok(wanted)
}

fn read(path: &Path) -> Result<RunRecord, HistoryError> {
    RunRecord::read(BufReader::new(File::open(path)?))
}

/// Writes a run down with the scenario that it was of, so that the file is all that `replay` needs.
fn write_history(mut record: RunRecord, scenario: &Scenario, path: &Path) -> Result<(), String> {
    record.header.toml = scenario.to_toml();
    let written = File::create(path)
        .map_err(HistoryError::from)
        .and_then(|file| {
            let mut file = BufWriter::new(file);
            record.write(&mut file)?;
            Ok(file.flush()?)
        });
    written.map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes a file, or says why not.
fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text)
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

fn code_of(verdict: onlyonce_chaos::ledger::Verdict) -> u8 {
    use onlyonce_chaos::ledger::Verdict;
    match verdict {
        Verdict::Valid => 0,
        Verdict::Violated => exit::BROKEN,
        Verdict::Unknown => exit::UNKNOWN,
    }
}

/// Ends with this code, after the text was written; a text that cannot be written is told.
fn ended(code: u8, text: &str) -> ExitCode {
    match output::print(text) {
        Ok(()) => ExitCode::from(code),
        Err(error) => output::fail(
            exit::UNKNOWN,
            &format!("standard output cannot be written: {error}"),
        ),
    }
}
