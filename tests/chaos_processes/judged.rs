//! What a run came to, counted by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;

use onlyonce::chaos::Executor;
use onlyonce_chaos::Seed;
use onlyonce_chaos::history::{Ending, Happened, RunRecord};
use onlyonce_chaos::scenario::Scenario;

/// The program whose processes the executors start.
pub fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_onlyonce").into()
}

/// Says that a test was not run, past what captures the output of tests; and fails where `required`, a
/// variable of the environment, is 1: a gate must not pass without what it was to look at.
pub fn not_run(required: &str, what: &str, why: &impl std::fmt::Display) {
    // OK because a test without a place to say so has nobody to tell.
    let _ = writeln!(std::io::stderr(), "{what}: {why}");
    let required_here = std::env::var_os(required).is_some_and(|value| value == "1");
    assert!(!required_here, "{required} says that it must be run: {why}");
}

/// What matters of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    pub calls: u64,
    /// Calls whose last word is an answer, or that they were declined.
    pub resolved: u64,
    pub in_doubt: u64,
    pub unknown: u64,
    /// Keys with more than one effect.
    pub duplicated: u64,
    /// Calls that were answered, and have no effect or another one.
    pub wrong: u64,
    pub sent: u64,
    pub killed: u64,
}

/// Runs it, and counts.
pub fn run(executor: &dyn Executor, scenario: &Scenario, seed: u64) -> (Judged, RunRecord) {
    let record = executor.run(scenario, Seed::new(seed)).unwrap();
    assert!(record.complete);
    let judged = Judged::of(&record);
    println!(
        "{} seed {seed}: {judged:?} {:?} {:?}",
        scenario.name, record.fired, record.goals
    );
    (judged, record)
}

impl Judged {
    fn of(record: &RunRecord) -> Self {
        let mut judged = Self::default();
        let (mut keys, mut last) = (BTreeMap::new(), BTreeMap::new());
        let mut effects: BTreeMap<&str, BTreeSet<&[u8]>> = BTreeMap::new();
        let mut times: BTreeMap<&str, u64> = BTreeMap::new();
        for event in &record.events {
            match &event.what {
                Happened::Invoked { key, .. } => drop(keys.insert(event.call, key.as_str())),
                Happened::Ended { ending } => drop(last.insert(event.call, ending)),
                Happened::Effect { key, answer, .. } => {
                    effects.entry(key).or_default().insert(answer);
                    *times.entry(key).or_default() += 1;
                }
                Happened::Sent => judged.sent += 1,
                Happened::Lifecycle { event, .. } if event == "killed" => judged.killed += 1,
                _ => {}
            }
        }
        judged.calls = keys.len() as u64;
        judged.duplicated = times.values().filter(|&&times| times > 1).count() as u64;
        for (call, ending) in last {
            match ending {
                Ending::Answered(answer) => {
                    judged.resolved += 1;
                    let right = effects
                        .get(keys[&call])
                        .is_some_and(|e| e.contains(&answer[..]));
                    judged.wrong += u64::from(!right);
                }
                Ending::Declined(_) | Ending::Refused => {
                    judged.resolved += 1;
                    judged.wrong += u64::from(effects.contains_key(keys[&call]));
                }
                Ending::InDoubt => judged.in_doubt += 1,
                Ending::Unknown => judged.unknown += 1,
            }
        }
        judged
    }
}
