//! `chaos exhaust`: every single fault and every pair of them.

use std::process::ExitCode;

use clap::Args;
use onlyonce::chaos::sim::{campaign, exhaust};
use onlyonce_chaos::scenario::Mode;

use super::super::{exit, output};
use super::ended;

#[derive(Args)]
pub(crate) struct ExhaustArguments {
    /// How many faults at once: 1, or 1 and 2
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    faults: u8,
    /// The exchange of how many calls
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=2))]
    calls: u64,
    /// How many schedules at most, for each guarantee; what is left out is told
    #[arg(long)]
    schedules: Option<u64>,
    /// How many runs go on side by side
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
}

pub(super) fn run(arguments: &ExhaustArguments) -> ExitCode {
    let (calls, jobs) = (arguments.calls, usize::from(arguments.jobs));
    let atoms = exhaust::atoms(calls);
    let all = exhaust::schedules(atoms.len(), arguments.faults == 2);
    let wanted = all.min(arguments.schedules.unwrap_or(u64::MAX));
    let mut text = format!(
        "{} faults at the moments of {calls} calls; {all} schedules, each from seed 1\n",
        atoms.len()
    );
    let mut code = 0;
    let mut worse = |other: u8| {
        if code != exit::BROKEN && other != 0 {
            code = other;
        }
    };
    for mode in [Mode::Claimed, Mode::Transactional] {
        // The numbers of the schedules take the place of seeds; all are run from the same one.
        let scenario = |number| {
            let faults = exhaust::numbered(&atoms, number).unwrap_or_default();
            exhaust::schedule(mode, calls, faults)
        };
        let tally = match campaign::run_from(0..wanted, &scenario, &|_| 1, jobs, None, &|_| true) {
            Ok(tally) => tally,
            Err(error) => return output::fail(exit::UNKNOWN, &error),
        };
        text.push_str(&format!(
            "{}: {} of {all} schedules run, in {} every fault struck; {:?}; calls ended: {:?}\n",
            mode.name(),
            tally.seeds,
            tally.all_struck,
            tally.verdicts,
            tally.endings
        ));
        for (number, what) in &tally.bad {
            let faults = exhaust::numbered(&atoms, *number).unwrap_or_default();
            let names: Vec<&str> = faults.iter().map(|fault| fault.name.as_str()).collect();
            text.push_str(&format!("{}: {what}\n", names.join(" and ")));
        }
        if tally.verdicts.contains_key("violated") {
            worse(exit::BROKEN);
        }
        if tally.verdicts.contains_key("unknown") {
            worse(exit::UNKNOWN);
        }
    }
    ended(code, &text)
}
