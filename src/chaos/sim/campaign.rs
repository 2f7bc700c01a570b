//! Many seeds, side by side, told in sums: the memory does not grow with their number.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use onlyonce_chaos::Seed;
use onlyonce_chaos::executor::HarnessError;
use onlyonce_chaos::history::Happened;
use onlyonce_chaos::ledger::{Report, Verdict, Violation, judge};
use onlyonce_chaos::scenario::Scenario;
use parking_lot::Mutex;

use super::{SimExecutor, SimRun};

/// What many runs came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many runs.
    pub seeds: u64,
    /// How many calls they were told to make.
    pub calls: u64,
    /// Of how many the verdict is `valid`, `violated`, `unknown`; of the last, those are `unanswered`
    /// whose calls all ended without an answer, and that nothing else is wrong with.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// How often each fault struck.
    pub struck: BTreeMap<String, u64>,
    /// How often calls ended how.
    pub endings: BTreeMap<&'static str, u64>,
    /// How many operations had more than one effect.
    pub duplicated: u64,
    /// The first runs that are not valid, with what is wrong.
    pub bad: Vec<(u64, String)>,
    /// In how many runs every fault of the plan struck.
    pub all_struck: u64,
    /// How many seeds were run twice.
    pub twice: u64,
    /// Those of them whose second run went another way.
    pub unlike: Vec<u64>,
}

/// One judged run.
pub struct Judged {
    /// The run.
    pub run: SimRun,
    /// What the checker says of it.
    pub report: Report,
}

/// Runs a scenario once and judges it.
///
/// # Errors
///
/// When the simulation itself fails.
pub fn judged(scenario: &Scenario, seed: u64) -> Result<Judged, HarnessError> {
    let run = SimExecutor.simulate(scenario, Seed::new(seed))?;
    let report = judge(&run.record);
    Ok(Judged { run, report })
}

impl Judged {
    /// What the checker says of the run.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.report.verdict()
    }

    /// The name of the first thing that is wrong.
    #[must_use]
    pub fn first_wrong(&self) -> Option<&str> {
        self.report.violations().first().map(Violation::name)
    }
}

impl std::fmt::Display for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.report)
    }
}

/// Runs every seed of `seeds` in the scenario that `scenario` gives it, on `jobs` threads, and the first
/// and one in `twice_every` of them again. `tell` hears how many are done; what it answers says whether to go on.
///
/// # Errors
///
/// The first failure of the simulation itself.
pub fn run(
    seeds: Range<u64>,
    scenario: &(dyn Fn(u64) -> Scenario + Sync),
    jobs: usize,
    twice_every: Option<u64>,
    tell: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Tally, HarnessError> {
    run_from(seeds, scenario, &|seed| seed, jobs, twice_every, tell)
}

/// The same, of runs that have numbers and seeds.
///
/// # Errors
///
/// The first failure of the simulation itself.
pub fn run_from(
    seeds: Range<u64>,
    scenario: &(dyn Fn(u64) -> Scenario + Sync),
    seed_of: &(dyn Fn(u64) -> u64 + Sync),
    jobs: usize,
    twice_every: Option<u64>,
    tell: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Tally, HarnessError> {
    let first = seeds.start;
    let (next, done) = (AtomicU64::new(first), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let tally = Mutex::new(Tally::default());
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let scenario = scenario(seed);
                    let again = twice_every.is_some_and(|every| seed % every == 0 || seed == first);
                    if let Err(error) = one(&scenario, (seed, seed_of(seed)), again, &tally) {
                        failure.lock().get_or_insert(error);
                        stop.store(true, Ordering::Relaxed);
                    }
                    if !tell(done.fetch_add(1, Ordering::Relaxed) + 1) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Some(error) => Err(error),
        None => Ok(tally.into_inner()),
    }
}

fn one(
    scenario: &Scenario,
    (number, seed): (u64, u64),
    again: bool,
    tally: &Mutex<Tally>,
) -> Result<(), HarnessError> {
    let judgement = judged(scenario, seed)?;
    let Judged { run, report } = &judgement;
    let unlike = match again {
        true => {
            let again = judged(scenario, seed)?.run.record;
            again.end() != run.record.end()
        }
        false => false,
    };
    let mut tally = tally.lock();
    tally.seeds += 1;
    tally.calls += scenario.calls;
    tally.twice += u64::from(again);
    tally.all_struck += u64::from(run.record.fired.len() == scenario.faults.len());
    if unlike {
        tally.unlike.push(number);
    }
    let verdict = judgement.verdict();
    let is_unanswered = report.is_only_unanswered();
    let name = match is_unanswered {
        true => UNANSWERED,
        false => name_of(verdict),
    };
    *tally.verdicts.entry(name).or_default() += 1;
    tally.duplicated += report.figures().duplicated;
    for (name, fired) in &run.record.fired {
        *tally.struck.entry(name.clone()).or_default() += fired.struck;
    }
    for event in &run.record.events {
        if let Happened::Ended { ending } = &event.what {
            *tally.endings.entry(ending.name()).or_default() += 1;
        }
    }
    if verdict != Verdict::Valid && !is_unanswered && tally.bad.len() < BAD_MAX {
        tally.bad.push((number, judgement.to_string()));
    }
    Ok(())
}

/// The word for a run that is unknown because no call of it was answered, and for nothing else.
pub const UNANSWERED: &str = "unanswered";

/// The word for a verdict.
#[must_use]
pub const fn name_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Violated => "violated",
        Verdict::Unknown => "unknown",
    }
}

impl std::fmt::Debug for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judged")
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

const BAD_MAX: usize = 20;
