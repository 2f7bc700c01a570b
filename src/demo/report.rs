//! What a run came to: its verdict, and one document for programs.

use onlyonce_chaos::ledger::{Money, Verdict};
use serde::Serialize;

use super::ClusterGuarantee;
use super::column::{Cluster, Column};
use super::goals::Coverage;
use super::table;

/// What a run of the demo came to.
#[derive(Clone, Debug)]
pub struct DemoReport {
    pub(super) seed: u64,
    pub(super) calls_asked: u64,
    pub(super) kills: u64,
    pub(super) naive: Column,
    pub(super) onlyonce: Column,
}

/// Whether a run kept the promises, and whether it met what it must to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// Exhaustive: whoever turns it into an exit code must not forget one.
pub enum DemoVerdict {
    /// An effect happened twice, an acknowledged one is missing, an answer is not its effect's, or
    /// a call is neither answered nor named in doubt.
    Broken,
    /// Nothing was broken, but the run met too little to prove anything.
    GoalMissed,
    /// Every promise held, over all that the run had to meet.
    Held,
}

#[derive(Serialize)]
struct Document {
    seed: u64,
    calls_asked: u64,
    naive: NaiveFigures,
    onlyonce: Figures,
    goals_missed: Vec<String>,
}

#[derive(Serialize)]
struct ClusterFigures {
    guarantee: &'static str,
    servers: u64,
    server_pauses: u64,
    database_restarts: u64,
    doubts_asked: u64,
    late_refused: u64,
}

#[derive(Serialize)]
struct NaiveFigures {
    calls: u64,
    answered: u64,
    declined: u64,
    dsevr: f64,
    lost: u64,
    money_conserved: bool,
    accounts_wrong: usize,
    server_restarts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterFigures>,
}

#[derive(Serialize)]
struct Figures {
    calls: u64,
    answered: u64,
    declined: u64,
    dsevr: f64,
    lost: u64,
    unknown: u64,
    in_doubt: u64,
    resumed: u64,
    money_conserved: bool,
    accounts_wrong: usize,
    attempts_per_call: f64,
    replayed: u64,
    server_restarts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterFigures>,
    faults: u64,
    p50_ms: f64,
    p99_ms: f64,
    calls_per_s: f64,
    violations: Vec<String>,
}

// === impl DemoReport ===

impl DemoReport {
    /// What the run proves. A broken promise outranks a missed goal.
    #[must_use]
    pub fn verdict(&self) -> DemoVerdict {
        let ours = &self.onlyonce;
        if ours.report.verdict() == Verdict::Violated || ours.unknown() > 0 {
            DemoVerdict::Broken
        } else if self.goals_missed().is_empty() {
            DemoVerdict::Held
        } else {
            DemoVerdict::GoalMissed
        }
    }

    /// One JSON document.
    #[must_use]
    pub fn to_json(&self) -> String {
        let (naive, ours) = (&self.naive, &self.onlyonce);
        let document = Document {
            seed: self.seed,
            calls_asked: self.calls_asked,
            naive: NaiveFigures {
                calls: naive.calls,
                answered: naive.report.figures().answered,
                declined: naive.report.figures().declined,
                dsevr: naive.report.figures().dsevr(),
                lost: naive.lost(),
                money_conserved: naive.conserved(),
                accounts_wrong: naive.accounts_wrong(),
                server_restarts: naive.server_restarts,
                cluster: naive.cluster.map(ClusterFigures::from),
            },
            onlyonce: Figures {
                calls: ours.calls,
                answered: ours.report.figures().answered,
                declined: ours.report.figures().declined,
                dsevr: ours.report.figures().dsevr(),
                lost: ours.lost(),
                unknown: ours.unknown(),
                in_doubt: ours.in_doubt(),
                resumed: ours.resumed,
                money_conserved: ours.conserved(),
                accounts_wrong: ours.accounts_wrong(),
                attempts_per_call: ours.attempts_per_call(),
                replayed: ours.replayed,
                server_restarts: ours.server_restarts,
                cluster: ours.cluster.map(ClusterFigures::from),
                faults: ours.faults,
                p50_ms: ours.p50_ms,
                p99_ms: ours.p99_ms,
                calls_per_s: ours.calls_per_s,
                violations: ours
                    .report
                    .violations()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            },
            goals_missed: self.goals_missed(),
        };
        // OK because numbers, booleans and texts always serialize.
        serde_json::to_string(&document).expect("figures are plain JSON")
    }

    /// A table of both columns, with what was broken or missed below it.
    #[must_use]
    pub fn to_table(&self) -> String {
        table::table(self)
    }

    /// The goals that were missed, in words.
    pub(super) fn goals_missed(&self) -> Vec<String> {
        let missed = self.coverage().missed().into_iter();
        let mut missed: Vec<_> = missed.map(|goal| goal.to_string()).collect();
        if self.onlyonce.report.verdict() == Verdict::Unknown {
            missed.push("the end of some calls was never recorded".to_owned());
        }
        missed
    }

    pub(super) fn coverage(&self) -> Coverage {
        let (naive, ours) = (&self.naive, &self.onlyonce);
        let figures = ours.report.figures();
        Coverage {
            calls: ours.calls,
            kills: self.kills,
            restarts: naive.server_restarts.min(ours.server_restarts),
            answered: figures.answered + figures.declined,
            // Where effect and answer are one commit no answer on the way may name a doubt either.
            in_doubt: ours
                .cluster
                .filter(|cluster| cluster.guarantee == ClusterGuarantee::Transactional)
                .map_or(figures.in_doubt, |cluster| {
                    cluster.ever_in_doubt.max(figures.in_doubt)
                }),
            // Where effect and answer are one commit, nothing is to be asked about.
            doubts_asked: ours
                .cluster
                .filter(|cluster| cluster.guarantee == ClusterGuarantee::Claimed)
                .map(|cluster| cluster.doubts_asked),
            duplicated: naive.report.figures().duplicated,
        }
    }
}

impl From<Cluster> for ClusterFigures {
    fn from(cluster: Cluster) -> Self {
        Self {
            guarantee: cluster.guarantee.name(),
            servers: cluster.servers,
            server_pauses: cluster.server_pauses,
            database_restarts: cluster.database_restarts,
            doubts_asked: cluster.doubts_asked,
            late_refused: cluster.late_refused,
        }
    }
}

// === impl Column ===

impl Column {
    pub(super) fn lost(&self) -> u64 {
        self.report.figures().lost
    }

    pub(super) fn unknown(&self) -> u64 {
        self.report.figures().unknown
    }

    pub(super) fn in_doubt(&self) -> u64 {
        self.report.figures().in_doubt
    }

    pub(super) fn conserved(&self) -> bool {
        self.report.money().is_some_and(Money::conserved)
    }

    pub(super) fn accounts_wrong(&self) -> usize {
        let money = self.report.money();
        money.map_or(0, |money| money.differences().len())
    }

    pub(super) fn attempts_per_call(&self) -> f64 {
        self.attempts as f64 / self.calls.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use onlyonce_chaos::ledger::{self, Effect, Effects, Ending, History, Operation};

    use super::*;

    #[test]
    fn a_server_that_is_in_doubt_of_every_call_proves_nothing() {
        let doubts = column(100, 0, |_| Ending::InDoubt);
        let report = report(naive(), doubts);
        assert_eq!(report.verdict(), DemoVerdict::GoalMissed);
        assert!(report.to_table().contains("GOAL MISSED: only 0 calls"));
        assert!(report.to_json().contains("only 0 calls were answered"));
    }

    #[test]
    fn a_run_in_which_calls_are_answered_or_declined_held() {
        let answered = column(2_000, 1_500, |n| match n < 1_500 {
            true => Ending::Answered("done".into()),
            false => Ending::Declined("no funds".into()),
        });
        let report = report(naive(), answered);
        assert_eq!(report.verdict(), DemoVerdict::Held);
        assert!(!report.to_table().contains("BROKEN"));
    }

    #[test]
    fn a_doubt_on_the_way_is_a_missed_goal_where_effect_and_answer_are_one_commit() {
        for (guarantee, verdict) in [
            (ClusterGuarantee::Claimed, DemoVerdict::Held),
            (ClusterGuarantee::Transactional, DemoVerdict::GoalMissed),
        ] {
            let mut answered = column(2_000, 2_000, |_| Ending::Answered("done".into()));
            answered.cluster = Some(Cluster {
                guarantee,
                servers: 3,
                server_pauses: 0,
                database_restarts: 0,
                doubts_asked: 1,
                ever_in_doubt: 1,
                late_refused: 0,
            });
            assert_eq!(report(naive(), answered).verdict(), verdict);
        }
    }

    #[test]
    fn a_run_that_went_on_until_something_happened_twice_says_so() {
        let answered = column(2_000, 2_000, |_| Ending::Answered("done".into()));
        let mut report = report(naive(), answered);
        assert!(!report.to_table().contains("went on"));
        report.calls_asked = 1_000;
        let table = report.to_table();
        assert!(table.contains("went on from 1000 to 2000 calls"), "{table}");
    }

    #[test]
    fn a_call_of_unknown_outcome_is_a_broken_promise_that_is_named() {
        let mut one_unknown = column(2_000, 2_000, |n| match n {
            17 => Ending::Unknown,
            _ => Ending::Answered("done".into()),
        });
        one_unknown.unknown = vec![17];
        let report = report(naive(), one_unknown);
        assert_eq!(report.verdict(), DemoVerdict::Broken);
        assert!(report.to_table().contains("BROKEN: unknown: 17 "));
    }

    #[test]
    fn a_broken_promise_names_its_operation() {
        // Operation 1999 was answered and has no effect.
        let lost = column(2_000, 1_999, |_| Ending::Answered("done".into()));
        let report = report(naive(), lost);
        assert_eq!(report.verdict(), DemoVerdict::Broken);
        assert!(report.to_table().contains("BROKEN: lost-acked: 1999\n"));
    }

    fn report(naive: Column, onlyonce: Column) -> DemoReport {
        DemoReport {
            seed: 1,
            calls_asked: 2_000,
            kills: 0,
            naive,
            onlyonce,
        }
    }

    /// Its last effect happened twice.
    fn naive() -> Column {
        let mut naive = column(2_000, 2_000, |_| Ending::Answered("done".into()));
        let mut effects = effects(2_000);
        effects.push(effect(1_999));
        naive.report = ledger::check(&history(2_000, |_| Ending::InDoubt), &effects);
        naive
    }

    fn column(calls: u64, effects_first: u64, ending: impl Fn(u64) -> Ending) -> Column {
        Column {
            report: ledger::check(&history(calls, ending), &effects(effects_first)),
            calls,
            unknown: Vec::new(),
            resumed: 0,
            attempts: calls,
            replayed: 0,
            server_restarts: 0,
            cluster: None,
            faults: 0,
            p50_ms: 1.0,
            p99_ms: 1.0,
            calls_per_s: 1.0,
        }
    }

    fn history(calls: u64, ending: impl Fn(u64) -> Ending) -> History {
        let operation = |n| Operation::new(n, "pay").attempts(1).ended(ending(n));
        (0..calls).map(operation).collect()
    }

    fn effects(first: u64) -> Effects {
        (0..first).map(effect).collect()
    }

    fn effect(operation: u64) -> Effect {
        Effect::new(operation, "pay", "done")
    }
}
