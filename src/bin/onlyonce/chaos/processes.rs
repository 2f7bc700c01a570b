//! What executors start in processes of their own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use onlyonce::chaos::{ChaosClientsOptions, ChaosServerOptions, run_clients, run_server};
use onlyonce_chaos::fault::Fault;
use onlyonce_chaos::scenario::{Mode, Workload};

use crate::{exit, output};

#[derive(Args)]
pub(crate) struct ServerArguments {
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long, value_parser = mode)]
    mode: Mode,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    began_us: u64,
    /// All faults of the scenario, as JSON
    #[arg(long, value_parser = faults)]
    faults: Faults,
}

#[derive(Args)]
pub(crate) struct ClientsArguments {
    #[arg(long)]
    address: String,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    began_us: u64,
    #[arg(long, value_parser = workload)]
    workload: Workload,
    #[arg(long)]
    calls: u64,
    #[arg(long)]
    clients: u32,
    #[arg(long)]
    attempt_ms: u64,
    #[arg(long)]
    deadline_ms: u64,
    #[arg(long)]
    naive: bool,
    /// Where they keep what they know
    #[arg(long)]
    folder: Option<PathBuf>,
}

pub(crate) async fn serve(arguments: ServerArguments) -> ExitCode {
    let options = ChaosServerOptions {
        folder: arguments.folder,
        listen: arguments.listen,
        mode: arguments.mode,
        seed: arguments.seed,
        began_us: arguments.began_us,
        faults: arguments.faults.0,
    };
    end(run_server(options).await)
}

pub(crate) async fn call(arguments: ClientsArguments) -> ExitCode {
    let options = ChaosClientsOptions {
        address: arguments.address,
        seed: arguments.seed,
        began_us: arguments.began_us,
        workload: arguments.workload,
        calls: arguments.calls,
        clients: arguments.clients,
        attempt_ms: arguments.attempt_ms,
        deadline_ms: arguments.deadline_ms,
        naive: arguments.naive,
        folder: arguments.folder,
    };
    end(run_clients(options).await)
}

fn end(ended: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(exit::UNKNOWN, &*error),
    }
}

/// Else clap takes a `Vec` for many arguments.
#[derive(Clone)]
struct Faults(Vec<Fault>);

fn faults(text: &str) -> Result<Faults, serde_json::Error> {
    serde_json::from_str(text).map(Faults)
}

fn mode(text: &str) -> Result<Mode, String> {
    let modes = [Mode::Claimed, Mode::Transactional, Mode::Naive];
    let found = modes.into_iter().find(|mode| mode.name() == text);
    found.ok_or_else(|| "no such mode".to_owned())
}

fn workload(text: &str) -> Result<Workload, String> {
    let found = Workload::ALL
        .into_iter()
        .find(|workload| workload.name() == text);
    found.ok_or_else(|| "no such workload".to_owned())
}
