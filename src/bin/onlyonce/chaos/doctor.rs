//! `chaos doctor`.

use std::process::ExitCode;

use clap::Args;
use onlyonce::chaos::doctor::{examine, to_json, to_text};
use onlyonce::chaos::{self, Executor};

use super::ended;

#[derive(Args)]
pub(crate) struct DoctorArguments {
    /// One JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &DoctorArguments) -> ExitCode {
    let executors = chaos::executors();
    let executors: Vec<&dyn Executor> = executors.iter().map(AsRef::as_ref).collect();
    let examined = examine(&executors);
    let text = match arguments.json {
        true => format!("{}\n", to_json(&examined)),
        false => to_text(&examined),
    };
    ended(0, &text)
}
