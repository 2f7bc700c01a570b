//! Runs a campaign on some threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::Value;

use super::part::{Campaign, Control, Differing, Failure, Finding, Part};
use super::story::{Story, Timeline};
use crate::executor::{Executor, HarnessError, NotRun};
use crate::fault::{Phase, What};
use crate::goals::situations;
use crate::history::{Happened, RunRecord, was_in_vain};
use crate::ledger::{Report, Verdict, judge};
use crate::scenario::{Scenario, Workload};
use crate::seed::Seed;

/// Which seeds, on how many threads.
#[derive(Clone, Debug)]
// Exhaustive: programs build it.
pub struct Options {
    /// The first seed.
    pub seeds_from: u64,
    /// The last seed, which is run as well.
    pub seeds_to: u64,
    /// How many runs go on side by side, at least one.
    pub jobs: usize,
    /// Whether the naive control is run as well.
    pub control: bool,
}

/// Runs a scenario by each of these executors from all seeds, and judges every run.
///
/// `progress` is told the executor's name and how many of its runs have ended, from any thread;
/// once it says `false`, no further run begins.
pub fn run(
    scenario: &Scenario,
    executors: &[&dyn Executor],
    options: &Options,
    progress: &(dyn Fn(&str, u64) -> bool + Sync),
) -> Campaign {
    let part = |executor: &&dyn Executor| run_part(scenario, *executor, options, progress);
    Campaign {
        scenario: scenario.clone(),
        seeds_from: options.seeds_from,
        seeds_to: options.seeds_to,
        parts: executors.iter().map(part).collect(),
    }
}

/// Runs one seed again and holds it against what is in a record: `None` where both went the same
/// way, and the same was read of them at the end.
///
/// # Errors
///
/// When the run cannot be carried out.
pub fn replay(
    scenario: &Scenario,
    executor: &dyn Executor,
    record: &RunRecord,
) -> Result<Option<Differing>, HarnessError> {
    let (scenario, _) = possible(scenario, executor)?;
    let again = executor.run(&scenario, Seed::new(record.header.seed))?;
    Ok(differing(record, &again))
}

/// The scenario with those of its faults that the executor can do, and the others with the reason.
///
/// # Errors
///
/// When it cannot run the scenario at all, or none of its faults.
pub fn possible(
    scenario: &Scenario,
    executor: &dyn Executor,
) -> Result<(Scenario, BTreeMap<String, NotRun>), NotRun> {
    executor.can(scenario)?;
    let mut not_run = BTreeMap::new();
    let mut possible = scenario.clone();
    possible
        .faults
        .retain(|fault| match executor.can_fault(scenario, fault) {
            Ok(()) => true,
            Err(reason) => {
                not_run.insert(fault.name.clone(), reason);
                false
            }
        });
    if possible.faults.is_empty() && !not_run.is_empty() {
        return Err(NotRun::because("it can do none of the faults"));
    }
    Ok((possible, not_run))
}

fn run_part(
    scenario: &Scenario,
    executor: &dyn Executor,
    options: &Options,
    progress: &(dyn Fn(&str, u64) -> bool + Sync),
) -> Part {
    let mut part = Part {
        executor: executor.name().to_owned(),
        ..Part::default()
    };
    let scenario = match possible(scenario, executor) {
        Ok((possible, not_run)) => {
            part.faults_not_run = not_run;
            possible
        }
        Err(reason) => {
            part.not_run = Some(reason);
            return part;
        }
    };
    part.could_double = could_double(&scenario);
    for goal in &scenario.goals {
        let can = situations::can_arise(&scenario, goal);
        if let Err(reason) = can.and_then(|()| executor.can_reach(&scenario, goal)) {
            part.goals_not_asked.insert(goal.clone(), reason);
        }
    }
    if options.control && scenario.control {
        part.control = control(&scenario, executor, options);
    }
    let (next, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let count = options
        .seeds_to
        .saturating_sub(options.seeds_from)
        .saturating_add(1);
    let going = AtomicBool::new(true);
    let total = Mutex::new(part);
    std::thread::scope(|threads| {
        for _ in 0..options.jobs.max(1) {
            threads.spawn(|| {
                while going.load(Ordering::Relaxed) {
                    let ordinal = next.fetch_add(1, Ordering::Relaxed);
                    if ordinal >= count {
                        break;
                    }
                    let seed = options.seeds_from + ordinal;
                    let ran = executor.run(&scenario, Seed::new(seed));
                    let repeat = executor.repeats() && ordinal % REPEATED_EVERY == 0;
                    let again = repeat.then(|| executor.run(&scenario, Seed::new(seed)));
                    total.lock().take(seed, ran, again);
                    let done = ended.fetch_add(1, Ordering::Relaxed) + 1;
                    if !progress(executor.name(), done) {
                        going.store(false, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    total.into_inner()
}

/// Whether a service without dedupe could do something twice: a client comes again with what it has
/// asked for, or a request comes twice.
///
/// Where that is not plain, it could. What strikes only a disk or a clock could not: who does nothing
/// about duplicates has no record there.
fn could_double(scenario: &Scenario) -> bool {
    let comes_again = matches!(
        scenario.workload,
        Workload::HotKey | Workload::Outbox | Workload::RollingRestarts
    );
    comes_again
        || scenario.faults.iter().any(|fault| {
            let request = fault.when.phase == Some(Phase::RequestSent);
            match fault.what {
                What::ClockJump { .. } | What::DiskFull | What::SyncFails => false,
                What::Drop => !request,
                _ => true,
            }
        })
}

fn control(scenario: &Scenario, executor: &dyn Executor, options: &Options) -> Control {
    let naive = scenario.clone().naive();
    if let Err(reason) = executor.can(&naive) {
        return Control::NotRun(reason);
    }
    let loses = executor.control_loses(&naive);
    let doubles = !loses || {
        let mut others = scenario.clone();
        others.faults.retain(|fault| fault.what != What::PowerCut);
        could_double(&others)
    };
    let (mut runs, mut operations, mut duplicated, mut lost) = (0, 0, 0, 0);
    let seeds = options.seeds_from..=options.seeds_to.max(options.seeds_from + CONTROL_RUNS_MAX);
    for seed in seeds.take(CONTROL_RUNS_MAX as usize) {
        match executor.run(&naive, Seed::new(seed)) {
            Ok(record) => {
                let report = judge(&record);
                runs += 1;
                operations += report.figures().operations;
                duplicated += report.figures().duplicated;
                lost += report.figures().lost;
            }
            Err(error) => return Control::NotRun(NotRun::because(error.to_string())),
        }
        // Enough to be no accident.
        if (!doubles || duplicated >= ENOUGH) && (!loses || lost >= ENOUGH) {
            break;
        }
    }
    let mut missing = Vec::new();
    if doubles && duplicated == 0 {
        missing.push("duplicates");
    }
    if loses && lost == 0 {
        missing.push("lost answers");
    }
    Control::Ran {
        runs,
        operations,
        duplicated,
        lost,
        missing,
    }
}

/// The first event in which two runs differ, or what was read of them at the end.
fn differing(one: &RunRecord, other: &RunRecord) -> Option<Differing> {
    let same = one
        .events
        .iter()
        .zip(&other.events)
        .take_while(|(one, other)| one == other);
    let at = same.count();
    if one.events.len() == at && other.events.len() == at {
        return differing_end(one, other);
    }
    let line = |record: &RunRecord| match record.events.get(at) {
        Some(event) => serde_json::to_string(event).unwrap_or_else(|error| error.to_string()),
        None => "the run is over".to_owned(),
    };
    Some(Differing {
        seed: one.header.seed,
        event: at as u64 + 1,
        one: line(one),
        other: line(other),
    })
}

/// Where two runs of the same events differ in what was read at the end. That is the line behind the
/// last event.
fn differing_end(one: &RunRecord, other: &RunRecord) -> Option<Differing> {
    let end = |record: &RunRecord| serde_json::to_value(record.end()).unwrap_or_default();
    let (place, one_has, other_has) = first_unlike("the end", &end(one), &end(other))?;
    Some(Differing {
        seed: one.header.seed,
        event: one.events.len() as u64 + 1,
        one: format!("{place}: {one_has}"),
        other: format!("{place}: {other_has}"),
    })
}

/// The first place in which two values differ, with what each has there.
fn first_unlike(place: &str, one: &Value, other: &Value) -> Option<(String, String, String)> {
    if one == other {
        return None;
    }
    if let (Value::Object(one), Value::Object(other)) = (one, other) {
        let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
        let value = |of: &serde_json::Map<String, Value>, name| of.get(name).cloned();
        return names.into_iter().find_map(|name| {
            let of = |of| value(of, name).unwrap_or_default();
            first_unlike(&format!("{place}, {name}"), &of(one), &of(other))
        });
    }
    Some((place.to_owned(), one.to_string(), other.to_string()))
}

// === impl Part ===

impl Part {
    fn take(
        &mut self,
        seed: u64,
        ran: Result<RunRecord, HarnessError>,
        again: Option<Result<RunRecord, HarnessError>>,
    ) {
        let record = match ran {
            Ok(record) => record,
            Err(error) => return self.fail(seed, &error),
        };
        match again {
            Some(Ok(again)) => {
                self.repeated += 1;
                self.differing.extend(differing(&record, &again));
            }
            Some(Err(error)) => self.fail(seed, &error),
            None => {}
        }
        let report = judge(&record);
        self.runs += 1;
        self.figures.merge(report.figures());
        for (name, fired) in &record.fired {
            let sum = self.fired.entry(name.clone()).or_default();
            sum.struck += fired.struck;
            sum.affected += fired.affected;
            if fired.struck > 0 {
                *self.felt.entry(name.clone()).or_default() += 1;
                let is = |verdict| u64::from(report.verdict() == verdict);
                *self.survived.entry(name.clone()).or_default() += is(Verdict::Valid);
                *self.unjudged.entry(name.clone()).or_default() += is(Verdict::Unknown);
            }
        }
        for event in &record.events {
            if let Happened::Fault { name, what, .. } = &event.what
                && was_in_vain(what)
            {
                *self.in_vain.entry(name.clone()).or_default() += 1;
            }
        }
        // What the history shows by itself is counted here, whether the executor did or not.
        let mut goals = record.goals.clone();
        for (name, times) in situations::seen_in(&record).iter() {
            goals.add(name, times.saturating_sub(goals.count(name)));
        }
        self.goals.merge(&goals);
        self.time(&record);
        // Additions, so that the order in which runs end does not count.
        let hash = Seed::new(record.trace_hash).draw(&[seed]).bits();
        self.trace_hash = self.trace_hash.wrapping_add(hash);
        match report.verdict() {
            Verdict::Valid => {}
            Verdict::Unknown => {
                self.unknown += 1;
                self.doubts.push((seed, report.doubts().to_vec()));
                self.doubts.sort();
                self.doubts.truncate(KEPT_MAX);
            }
            Verdict::Violated => self.find(&record, &report),
        }
        let kept_violated = !self.findings.is_empty();
        let first_violated = self
            .findings
            .first()
            .is_some_and(|first| first.seed == seed);
        let earlier = self
            .timeline
            .as_ref()
            .is_none_or(|(first, _)| seed < *first);
        if first_violated || (!kept_violated && earlier) {
            self.timeline = Some((seed, Timeline::of(&record)));
        }
    }

    fn find(&mut self, record: &RunRecord, report: &Report) {
        self.violated += 1;
        let seed = record.header.seed;
        let full = self.findings.len() == KEPT_MAX;
        if full && self.findings.last().is_some_and(|last| last.seed < seed) {
            return;
        }
        let all = report.violations();
        let text =
            |violation: &crate::ledger::Violation| format!("{} {violation}", violation.invariant());
        let mut keys: Vec<String> = all
            .iter()
            .filter_map(|violation| violation.key())
            .map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned())
            .collect();
        keys.dedup();
        keys.truncate(STORIES_MAX);
        self.findings.push(Finding {
            seed,
            trace_hash: record.trace_hash,
            violations: all.iter().take(KEPT_MAX).map(text).collect(),
            more: all.len().saturating_sub(KEPT_MAX) as u64,
            stories: keys.iter().map(|key| Story::of(record, key)).collect(),
        });
        self.findings.sort_by_key(|finding| finding.seed);
        self.findings.truncate(KEPT_MAX);
    }

    fn time(&mut self, record: &RunRecord) {
        let mut invoked = BTreeMap::new();
        for event in &record.events {
            match &event.what {
                Happened::Invoked { .. } => {
                    invoked.entry(event.call).or_insert(event.at_us);
                }
                Happened::Ended { .. } => {
                    if let Some(at_us) = invoked.insert(event.call, u64::MAX)
                        && at_us != u64::MAX
                    {
                        self.latencies.add(event.at_us.saturating_sub(at_us));
                    }
                }
                _ => {}
            }
        }
    }

    fn fail(&mut self, seed: u64, error: &HarnessError) {
        self.failed += 1;
        let why = error.to_string();
        self.failures.push(Failure { seed, why });
        self.failures.sort_by_key(|failure| failure.seed);
        self.failures.truncate(KEPT_MAX);
    }
}

/// Every hundredth seed is run twice, and the first one.
const REPEATED_EVERY: u64 = 100;

/// Of each kind as many as somebody reads; all are counted.
const KEPT_MAX: usize = 10;

/// So many lives of keys for each violated run.
const STORIES_MAX: usize = 2;

/// The control is over when it has shown enough, at the latest after so many runs.
const CONTROL_RUNS_MAX: u64 = 10;
const ENOUGH: u64 = 5;
