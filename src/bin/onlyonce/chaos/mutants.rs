//! `chaos mutants`: planted bugs, and how soon the simulation finds each.

use std::process::ExitCode;

use clap::Args;

#[cfg(not(feature = "mutants"))]
use super::super::{exit, output};

#[derive(Args)]
#[cfg_attr(
    not(feature = "mutants"),
    allow(dead_code, reason = "there is nothing to hunt")
)]
pub(crate) struct MutantsArguments {
    /// How many seeds at most for each bug
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seeds: u64,
    /// How many calls a run makes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    calls: u64,
    /// How many bugs are hunted side by side
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Makes each failing run small, in at most so many runs
    #[arg(long, value_name = "RUNS")]
    shrink: Option<u64>,
}

#[cfg(not(feature = "mutants"))]
pub(super) fn run(_: &MutantsArguments) -> ExitCode {
    let why = "no bugs are planted in this program: build it with `--features cli,mutants`";
    output::fail(exit::MISUSED, why)
}

#[cfg(feature = "mutants")]
pub(super) use self::hunting::run;

#[cfg(feature = "mutants")]
mod hunting {
    use onlyonce::chaos::sim::mutants::{Hunted, hunt};
    use onlyonce::chaos::sim::{campaign, plans};
    use onlyonce::storage::mutants::Mutant;

    use super::super::super::{exit, output};
    use super::super::ended;
    use super::*;

    pub(crate) fn run(arguments: &MutantsArguments) -> ExitCode {
        let MutantsArguments {
            seeds,
            calls,
            jobs,
            shrink,
        } = *arguments;
        let jobs = usize::from(jobs);
        let tell = |one: &Hunted| output::tell(one.mutant.name());
        let hunted = hunt(Mutant::ALL, seeds, calls, jobs, shrink, &tell);
        let seen = hunted
            .iter()
            .filter_map(|one| one.found.as_ref().map(|(seed, _)| *seed))
            .max();
        // The program without a bug, from all the seeds that were needed.
        let scenario = |seed| plans::of_seed(seed, calls);
        let right = campaign::run(1..seen.unwrap_or(0) + 1, &scenario, jobs, None, &|_| true);
        let right = match right {
            Ok(right) => right,
            Err(error) => return output::fail(exit::UNKNOWN, &error),
        };
        let survived = hunted.iter().any(|one| one.found.is_none());
        let alarms = right.verdicts.get("violated").copied().unwrap_or(0);
        let code = if survived || alarms > 0 || median_of(&hunted) > MEDIAN_MAX {
            exit::BROKEN
        } else if right.verdicts.keys().any(|verdict| *verdict != "valid") {
            exit::UNKNOWN
        } else {
            0
        };
        let mut text = table(&hunted);
        text.push_str(&format!(
            "the program without a bug, from the same seeds: {:?}\n",
            right.verdicts
        ));
        for (seed, what) in &right.bad {
            text.push_str(&format!("seed {seed}: {what}\n"));
        }
        ended(code, &text)
    }

    /// How many seeds half of them need; one that survives needs more than all.
    fn median_of(hunted: &[Hunted]) -> u64 {
        let found = hunted.iter().map(|one| one.found.as_ref());
        let mut seeds: Vec<u64> = found
            .map(|found| found.map_or(u64::MAX, |(seed, _)| *seed))
            .collect();
        seeds.sort_unstable();
        seeds.get(seeds.len() / 2).copied().unwrap_or(0)
    }

    /// Bugs that are found only now and then are found by luck.
    const MEDIAN_MAX: u64 = 10;

    fn table(hunted: &[Hunted]) -> String {
        let mut text = format!(
            "{:<26} {:>5}  {:<18} what is planted\n",
            "bug", "seeds", "found as"
        );
        let mut found = 0;
        let mut sizes = Vec::new();
        for one in hunted {
            let (count, name) = match &one.found {
                Some((seed, name)) => (seed.to_string(), name.as_str()),
                None => ("-".to_owned(), "SURVIVED"),
            };
            found += u32::from(one.found.is_some());
            text.push_str(&format!(
                "{:<26} {count:>5}  {name:<18} {}",
                one.mutant.name(),
                one.mutant.text()
            ));
            if let Some(shrunk) = &one.shrunk {
                let (faults, calls) = (shrunk.scenario.faults.len(), shrunk.scenario.calls);
                sizes.push((faults, calls));
                text.push_str(&format!(" ({faults} faults, {calls} calls)"));
            }
            text.push('\n');
        }
        let median = median_of(hunted);
        text.push_str(&format!(
            "{} of {} found, half of them within {median} seeds (at most {MEDIAN_MAX} are allowed)\n",
            found,
            hunted.len()
        ));
        if !sizes.is_empty() {
            let mut faults: Vec<usize> = sizes.iter().map(|(faults, _)| *faults).collect();
            let mut calls: Vec<u64> = sizes.iter().map(|(_, calls)| *calls).collect();
            faults.sort_unstable();
            calls.sort_unstable();
            text.push_str(&format!(
                "made small, half of them have at most {} faults and {} calls\n",
                faults[faults.len() / 2],
                calls[calls.len() / 2]
            ));
        }
        text
    }
}
