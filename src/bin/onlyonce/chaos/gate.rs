//! `chaos gate`: everything at once in simulated time, from many seeds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use onlyonce::chaos::sim::campaign::{self, Tally};
use onlyonce::chaos::sim::plans;
use onlyonce_chaos::scenario::Mode;

use super::super::{exit, output};
use super::ended;

#[derive(Args)]
pub(crate) struct GateArguments {
    /// How many seeds. The memory does not grow with them: 10,000 of 100 calls are a million
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    seeds: u64,
    /// The first one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=SEED_MAX))]
    from: u64,
    /// How many calls a run makes
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    calls: u64,
    /// How many runs go on side by side
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Writes down the run of one seed (`--from SEED --seeds 1`) in full, as JSON lines
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

pub(super) fn run(arguments: &GateArguments) -> ExitCode {
    let (calls, jobs) = (arguments.calls, usize::from(arguments.jobs));
    if let Some(path) = &arguments.history {
        if arguments.seeds != 1 {
            let why = "--history is of one seed: name it with --from SEED --seeds 1";
            return output::fail(exit::MISUSED, why);
        }
        let scenario = plans::of_seed(arguments.from, calls);
        let judged = match campaign::judged(&scenario, arguments.from) {
            Ok(judged) => judged,
            Err(error) => return output::fail(exit::UNKNOWN, &error),
        };
        let record = judged.run.record.clone();
        if let Err(error) = super::write_history(record, &scenario, path) {
            return output::fail(exit::UNKNOWN, &error);
        }
        return ended(super::code_of(judged.verdict()), &format!("{judged}\n"));
    }
    let seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
    let tell = |done: u64| {
        if done.is_multiple_of(1_000) {
            output::tell(&format!("{done} seeds"));
        }
        true
    };
    let scenario = |seed| plans::of_seed(seed, calls);
    let tally = match campaign::run(seeds, &scenario, jobs, Some(REPEATED), &tell) {
        Ok(tally) => tally,
        Err(error) => return output::fail(exit::UNKNOWN, &error),
    };
    // The same without dedupe must go wrong, or all of this proves nothing.
    let naive = |_| plans::everything(Mode::Claimed, calls).naive();
    let control = match campaign::run(1..21, &naive, jobs, None, &|_| true) {
        Ok(control) => control,
        Err(error) => return output::fail(exit::UNKNOWN, &error),
    };
    let count = |name| tally.verdicts.get(name).copied().unwrap_or(0);
    // A fault that never struck has proven nothing.
    let never: Vec<String> = (arguments.from
        ..arguments.from.saturating_add(arguments.seeds.min(10)))
        .flat_map(|seed| plans::of_seed(seed, calls).faults)
        .map(|fault| fault.name)
        .filter(|name| !tally.struck.contains_key(name))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let code = if count("violated") > 0 {
        exit::BROKEN
    } else if count("unknown") > 0
        || count(campaign::UNANSWERED) > 0
        || !tally.unlike.is_empty()
        || control.duplicated == 0
        || !never.is_empty()
    {
        exit::UNKNOWN
    } else {
        0
    };
    ended(code, &text(&tally, &control, &never))
}

fn text(tally: &Tally, control: &Tally, never: &[String]) -> String {
    let mut text = format!(
        "{} seeds, {} calls: {:?}\n{} seeds were run twice, {} went another way{}\n",
        tally.seeds,
        tally.calls,
        tally.verdicts,
        tally.twice,
        tally.unlike.len(),
        tally
            .unlike
            .first()
            .map_or(String::new(), |seed| format!(", the first of them {seed}")),
    );
    text.push_str(&format!("calls ended: {:?}\n", tally.endings));
    for (fault, struck) in &tally.struck {
        text.push_str(&format!("{struck:>10} {fault}\n"));
    }
    for name in never {
        text.push_str(&format!("     never {name}\n"));
    }
    for (seed, what) in &tally.bad {
        text.push_str(&format!("seed {seed}: {what}\n"));
    }
    text.push_str(&format!(
        "naive control: {} operations of {} calls had more than one effect\n",
        control.duplicated, control.calls
    ));
    text
}

/// So that counting on from it never runs over.
const SEED_MAX: u64 = u64::MAX / 2;

/// One run in so many is made twice: with ten kinds of runs by their numbers, every kind comes to its turn.
const REPEATED: u64 = 97;
