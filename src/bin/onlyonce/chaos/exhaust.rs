//! `chaos exhaust`: every single fault and every pair of them.

use std::collections::BTreeSet;
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
    let seed = match exhaust::seed(calls) {
        Ok(seed) => seed,
        Err(error) => return output::fail(exit::UNKNOWN, &error),
    };
    let mut text = format!(
        "{} faults at the moments of {calls} calls; {all} schedules, each from seed {seed}\n",
        atoms.len()
    );
    let mut code = 0;
    let mut worse = |other: u8| {
        if code != exit::BROKEN && other != 0 {
            code = other;
        }
    };
    // The numbers of the schedules take the place of seeds; all are run from the same one.
    let run = |mode, schedules| {
        let scenario = |number| {
            let faults = exhaust::numbered(&atoms, number).unwrap_or_default();
            exhaust::schedule(mode, calls, faults)
        };
        campaign::run_from(0..schedules, &scenario, &|_| seed, jobs, None, &|_| true)
    };
    let mut struck = BTreeSet::new();
    for mode in [Mode::Claimed, Mode::Transactional] {
        let tally = match run(mode, wanted) {
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
        // One call may end in doubt or refused; most of them are answered all the same.
        if tally.verdicts.get("valid") <= tally.verdicts.get(campaign::UNANSWERED) {
            text.push_str("unknown because too few calls were answered\n");
            worse(exit::UNKNOWN);
        }
        struck.extend(tally.struck.into_keys());
    }
    // What strikes a second attempt strikes only behind what leads to one, so that it needs a pair.
    let never: Vec<&str> = atoms
        .iter()
        .map(|atom| atom.name.as_str())
        .filter(|name| !struck.contains(*name))
        .collect();
    if !never.is_empty() {
        text.push_str(&format!(
            "{} of {} faults struck in no schedule: {}\n",
            never.len(),
            atoms.len(),
            never.join(", ")
        ));
    }
    if wanted == all && arguments.faults == 2 && !never.is_empty() {
        worse(exit::UNKNOWN);
    }
    // The same faults, one at a time, against a service that executes whatever comes.
    let singles = exhaust::schedules(atoms.len(), false).min(wanted);
    let control = match run(Mode::Naive, singles) {
        Ok(control) => control,
        Err(error) => return output::fail(exit::UNKNOWN, &error),
    };
    let doubled = control.verdicts.get("violated").copied().unwrap_or(0);
    text.push_str(&format!(
        "naive control: {} operations had more than one effect, in {doubled} of {} schedules\n",
        control.duplicated, control.seeds
    ));
    if control.duplicated == 0 {
        text.push_str("unknown because the naive control shows no duplicates\n");
        worse(exit::UNKNOWN);
    }
    ended(code, &text)
}
