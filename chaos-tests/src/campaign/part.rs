//! What a campaign came to.

use std::collections::BTreeMap;

use super::latency::Latencies;
use super::story::{Story, Timeline};
use crate::executor::NotRun;
use crate::goals::Goals;
use crate::history::Fired;
use crate::ledger::{Figures, Verdict};
use crate::scenario::Scenario;

/// All runs of a scenario.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use = "a campaign that nobody reads proves nothing"]
pub struct Campaign {
    /// What was run.
    pub scenario: Scenario,
    /// From which seed on.
    pub seeds_from: u64,
    /// Up to which seed, that one included.
    pub seeds_to: u64,
    /// What each executor came to, in the order in which they were asked for.
    pub parts: Vec<Part>,
}

/// What one executor came to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Part {
    /// Its name.
    pub executor: String,
    /// Why it was not run at all.
    pub not_run: Option<NotRun>,
    /// Faults that it cannot do, with the reason.
    pub faults_not_run: BTreeMap<String, NotRun>,
    /// How many runs were judged.
    pub runs: u64,
    /// How many of them were violated.
    pub violated: u64,
    /// How many of them could not be judged in full.
    pub unknown: u64,
    /// All of them in numbers.
    pub figures: Figures,
    /// How often each fault struck.
    pub fired: BTreeMap<String, Fired>,
    /// How often each fault was let strike and did nothing; that is no strike.
    pub in_vain: BTreeMap<String, u64>,
    /// Wanted situations that cannot arise here, with the reason.
    pub goals_not_asked: BTreeMap<String, NotRun>,
    /// In how many runs each fault was felt and nothing was violated.
    pub survived: BTreeMap<String, u64>,
    /// In how many runs each fault was felt.
    pub felt: BTreeMap<String, u64>,
    /// In how many runs each fault was felt that could not be judged in full: they are neither
    /// survived nor violated.
    pub unjudged: BTreeMap<String, u64>,
    /// Which situations arose.
    pub goals: Goals,
    /// How long calls took until their first ending.
    pub latencies: Latencies,
    /// The violated runs with the lowest seeds.
    pub findings: Vec<Finding>,
    /// Runs that could not be judged in full, with the reasons; the lowest seeds.
    pub doubts: Vec<(u64, Vec<String>)>,
    /// Runs that could not be carried out.
    pub failures: Vec<Failure>,
    /// How many could not.
    pub failed: u64,
    /// How many seeds were run twice, by an executor that promises to repeat.
    pub repeated: u64,
    /// Which of them did not.
    pub differing: Vec<Differing>,
    /// What the naive control showed.
    pub control: Control,
    /// Whether what it ran could let a service without dedupe do something twice, so that a control
    /// is needed.
    pub could_double: bool,
    /// The trace hashes of all runs in one number, which does not depend on their order.
    pub trace_hash: u64,
    /// The first run over its time; the first violated one, if there is one.
    pub timeline: Option<(u64, Timeline)>,
}

/// A violated run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// Its seed.
    pub seed: u64,
    /// Its trace hash.
    pub trace_hash: u64,
    /// What was violated, as text, with the invariant in front.
    pub violations: Vec<String>,
    /// How many more there are.
    pub more: u64,
    /// The lives of the first keys that it is about.
    pub stories: Vec<Story>,
}

/// A run that could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// Why.
    pub why: String,
}

/// Two runs from one seed that went different ways.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Differing {
    /// The seed.
    pub seed: u64,
    /// The first event that differs, from 1; behind the last one stands what was read at the end.
    pub event: u64,
    /// That event in the one.
    pub one: String,
    /// And in the other.
    pub other: String,
}

/// A wanted situation that never arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missed<'a> {
    /// By which executor; `None` where none of those that ran could have brought it about.
    pub executor: Option<&'a str>,
    /// Which one.
    pub goal: &'a str,
}

/// A fault that struck in no run of an executor that was to let it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NeverStruck<'a> {
    /// Which executor.
    pub executor: &'a str,
    /// The fault's name.
    pub fault: &'a str,
    /// How often it was let strike in vain.
    pub in_vain: u64,
}

/// The naive control: the same faults against a service that does nothing about duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Control {
    /// It was not asked for, or nothing was run.
    #[default]
    NotAsked,
    /// It cannot be run.
    NotRun(NotRun),
    /// In so many runs so many keys had their effect more than once, or not at all.
    Ran {
        /// How many runs.
        runs: u64,
        /// How many keys in all.
        operations: u64,
        /// How many of them had their effect more than once.
        duplicated: u64,
        /// How many of them were answered, and have no effect in the end.
        lost: u64,
        /// What it had to show, and did not: `duplicates`, `lost answers`.
        missing: Vec<&'static str>,
    },
}

// === impl Campaign ===

impl Campaign {
    /// The verdict on all of it together.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let ran = self.parts.iter().filter(|part| part.not_run.is_none());
        let mut verdict = match ran.clone().count() {
            0 => Verdict::Unknown,
            _ => Verdict::Valid,
        };
        for part in ran {
            verdict = verdict.and(part.verdict());
        }
        match self.goals_missed().is_empty() && self.never_struck().is_empty() {
            true => verdict,
            false => verdict.and(Verdict::Unknown),
        }
    }

    /// The faults that an executor was to let strike, and that struck in none of its runs: they prove
    /// nothing there. One that it cannot do is not among them: it is told as not run.
    #[must_use]
    pub fn never_struck(&self) -> Vec<NeverStruck<'_>> {
        let mut never = Vec::new();
        for part in self.parts_with_runs() {
            for fault in &self.scenario.faults {
                let name = fault.name.as_str();
                let struck = part.fired.get(name).is_some_and(|fired| fired.struck > 0);
                if !struck && !part.faults_not_run.contains_key(name) {
                    never.push(NeverStruck {
                        executor: &part.executor,
                        fault: name,
                        in_vain: part.in_vain.get(name).copied().unwrap_or_default(),
                    });
                }
            }
        }
        never
    }

    /// The number that a process ends with: 0 valid, 1 violated, 3 unknown.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.verdict() {
            Verdict::Valid => 0,
            Verdict::Violated => 1,
            Verdict::Unknown => 3,
        }
    }

    /// Which situations arose in all runs together.
    #[must_use]
    pub fn goals(&self) -> Goals {
        let mut goals = Goals::default();
        for part in &self.parts {
            goals.merge(&part.goals);
        }
        goals
    }

    /// The wanted situations that never arose, of each executor that could have brought them about.
    /// What none of those that ran could is missed by the campaign.
    #[must_use]
    pub fn goals_missed(&self) -> Vec<Missed<'_>> {
        let mut missed = Vec::new();
        for goal in self.scenario.goals.iter().map(String::as_str) {
            let mut asked = false;
            for part in self.parts_with_runs() {
                if part.goals_not_asked.contains_key(goal) {
                    continue;
                }
                asked = true;
                if part.goals.count(goal) == 0 {
                    let executor = Some(part.executor.as_str());
                    missed.push(Missed { executor, goal });
                }
            }
            if !asked {
                let executor = None;
                missed.push(Missed { executor, goal });
            }
        }
        missed
    }

    fn parts_with_runs(&self) -> impl Iterator<Item = &Part> {
        let parts = self.parts.iter();
        parts.filter(|part| part.not_run.is_none() && part.runs > 0)
    }

    /// How many runs were judged.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.parts.iter().map(|part| part.runs).sum()
    }

    /// How many of them were violated.
    #[must_use]
    pub fn violated(&self) -> u64 {
        self.parts.iter().map(|part| part.violated).sum()
    }

    /// All runs in numbers.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        for part in &self.parts {
            figures.merge(&part.figures);
        }
        figures
    }

    /// Everything that keeps it from being valid without being a violation, in words.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.parts.iter().all(|part| part.not_run.is_some()) {
            reasons.push("no executor could run it".to_owned());
        }
        for Missed { executor, goal } in self.goals_missed() {
            reasons.push(match executor {
                Some(executor) => format!("{executor}: it never arose that {goal}"),
                None => format!("it never arose that {goal}: nobody who ran could bring it about"),
            });
        }
        for never in self.never_struck() {
            let NeverStruck {
                executor,
                fault,
                in_vain,
            } = never;
            reasons.push(match in_vain {
                0 => format!(
                    "{executor}: the fault `{fault}` never struck: more seeds, or a larger share"
                ),
                _ => format!(
                    "{executor}: the fault `{fault}` did nothing in {in_vain} tries: more seeds"
                ),
            });
        }
        for part in &self.parts {
            let name = &part.executor;
            if part.failed > 0 {
                reasons.push(format!(
                    "{name}: {} runs could not be carried out",
                    part.failed
                ));
            }
            if part.unknown > 0 {
                reasons.push(format!(
                    "{name}: {} runs could not be judged in full",
                    part.unknown
                ));
            }
            if !part.differing.is_empty() {
                reasons.push(format!(
                    "{name}: {} seeds did not repeat",
                    part.differing.len()
                ));
            }
            if let Control::Ran { missing, .. } = &part.control {
                for what in missing {
                    reasons.push(format!("{name}: the naive control shows no {what}"));
                }
            }
            if let (Control::NotRun(reason), true) = (&part.control, part.could_double) {
                reasons.push(format!("{name}: the naive control: {reason}"));
            }
        }
        reasons
    }

    /// What the runs say about one more, in words: with no violation in N, less than 3/N of all
    /// seeds are violated, with a confidence of 95 %. N is that of the executor that judged fewest in full.
    #[must_use]
    pub fn bound(&self) -> String {
        // The same seeds by another executor are no other seeds.
        let judged = self
            .parts_with_runs()
            .map(|part| part.runs.saturating_sub(part.unknown));
        let runs = judged.filter(|judged| *judged > 0).min().unwrap_or(0);
        match (runs, self.violated()) {
            (_, violated @ 1..) => format!("{violated} of {} runs are violated.", self.runs()),
            (0, _) => "No run was judged in full, so nothing is known.".to_owned(),
            (_, 0) => format!(
                "0 violations in {runs} seeds: fewer than {} of all seeds would show one (95 %).",
                share(3.0 / runs as f64)
            ),
        }
    }
}

// === impl Part ===

impl Part {
    /// The verdict on its runs.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let open = self.unknown > 0
            || self.failed > 0
            || self.runs == 0
            || !self.differing.is_empty()
            || self.control.is_silent()
            || self.could_double && matches!(self.control, Control::NotRun(_));
        if self.violated > 0 {
            Verdict::Violated
        } else if open {
            Verdict::Unknown
        } else {
            Verdict::Valid
        }
    }
}

// === impl Control ===

impl Control {
    /// Whether it was run and did not show what it had to: then the faults prove nothing either.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        matches!(self, Self::Ran { missing, .. } if !missing.is_empty())
    }
}

/// A share in percent, or as one in so many.
fn share(share: f64) -> String {
    if share >= 1.0 {
        return "any share".to_owned();
    }
    if share >= 0.01 {
        return format!("{:.1} %", share * 100.0);
    }
    format!("1 in {:.0}", 1.0 / share)
}
