//! Both columns side by side: as a table for people, as one document for programs.

use std::fmt::Write;

use onlyonce_chaos::ledger::Verdict;
use serde::Serialize;

use super::column::Column;

/// What a run of the demo came to.
#[derive(Clone, Debug)]
pub struct DemoReport {
    pub(super) seed: u64,
    pub(super) naive: Column,
    pub(super) onlyonce: Column,
}

#[derive(Serialize)]
struct Document {
    seed: u64,
    naive: NaiveFigures,
    onlyonce: Figures,
}

#[derive(Serialize)]
struct NaiveFigures {
    calls: u64,
    dsevr: f64,
    lost: u64,
    money_conserved: bool,
    accounts_wrong: usize,
}

#[derive(Serialize)]
struct Figures {
    calls: u64,
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
    faults: u64,
    p50_ms: f64,
    p99_ms: f64,
    calls_per_s: f64,
    violations: Vec<String>,
}

// === impl DemoReport ===

impl DemoReport {
    /// Whether every promise held: no effect happened twice, no acknowledged one is missing, every
    /// answer equals its effect, and every call is answered or named in doubt.
    #[must_use]
    pub fn promises_held(&self) -> bool {
        let figures = self.onlyonce.report.figures();
        self.onlyonce.report.verdict() == Verdict::Valid && figures.unknown == 0
    }

    /// One JSON document.
    #[must_use]
    pub fn to_json(&self) -> String {
        let (naive, ours) = (&self.naive, &self.onlyonce);
        let document = Document {
            seed: self.seed,
            naive: NaiveFigures {
                calls: naive.calls,
                dsevr: naive.report.figures().dsevr(),
                lost: lost(naive),
                money_conserved: conserved(naive),
                accounts_wrong: wrong(naive),
            },
            onlyonce: Figures {
                calls: ours.calls,
                dsevr: ours.report.figures().dsevr(),
                lost: lost(ours),
                unknown: unknown(ours),
                in_doubt: in_doubt(ours),
                resumed: ours.resumed,
                money_conserved: conserved(ours),
                accounts_wrong: wrong(ours),
                attempts_per_call: attempts_per_call(ours),
                replayed: ours.replayed,
                server_restarts: ours.server_restarts,
                faults: ours.faults,
                p50_ms: ours.p50_ms,
                p99_ms: ours.p99_ms,
                calls_per_s: ours.calls_per_s,
                violations: ours
                    .report
                    .violations()
                    .iter()
                    .map(|violation| violation.name().to_owned())
                    .collect(),
            },
        };
        // OK because numbers, booleans and texts always serialize.
        serde_json::to_string(&document).expect("figures are plain JSON")
    }

    /// A table of both columns.
    #[must_use]
    pub fn to_table(&self) -> String {
        let (naive, ours) = (&self.naive, &self.onlyonce);
        let percent = |column: &Column| format!("{:.2} %", column.report.figures().dsevr() * 100.0);
        let yes = |held: bool| if held { "yes" } else { "NO" }.to_owned();
        let rows = [
            ("calls", naive.calls.to_string(), ours.calls.to_string()),
            (
                "effect happened twice or more (DSEVR)",
                percent(naive),
                percent(ours),
            ),
            (
                "acknowledged, but not on disk",
                lost(naive).to_string(),
                lost(ours).to_string(),
            ),
            (
                "outcome unknown",
                unknown(naive).to_string(),
                unknown(ours).to_string(),
            ),
            ("named in doubt", "-".to_owned(), in_doubt(ours).to_string()),
            (
                "left open, resumed with the same key",
                "-".to_owned(),
                ours.resumed.to_string(),
            ),
            (
                "total money conserved",
                yes(conserved(naive)),
                yes(conserved(ours)),
            ),
            (
                "accounts with a wrong balance",
                wrong(naive).to_string(),
                wrong(ours).to_string(),
            ),
            (
                "attempts per call",
                format!("{:.2}", attempts_per_call(naive)),
                format!("{:.2}", attempts_per_call(ours)),
            ),
            (
                "answers replayed",
                "-".to_owned(),
                ours.replayed.to_string(),
            ),
            (
                "network faults",
                naive.faults.to_string(),
                ours.faults.to_string(),
            ),
            (
                "server killed with -9, restarted",
                naive.server_restarts.to_string(),
                ours.server_restarts.to_string(),
            ),
            (
                "latency p50, ms",
                format!("{:.1}", naive.p50_ms),
                format!("{:.1}", ours.p50_ms),
            ),
            (
                "latency p99, ms",
                format!("{:.1}", naive.p99_ms),
                format!("{:.1}", ours.p99_ms),
            ),
            (
                "calls a second",
                format!("{:.0}", naive.calls_per_s),
                format!("{:.0}", ours.calls_per_s),
            ),
        ];
        let mut table = String::new();
        // OK because writing into a `String` cannot fail.
        let _ = writeln!(table, "{:<40} {:>12} {:>12}", "", "naive", "onlyonce");
        for (what, naive, ours) in rows {
            let _ = writeln!(table, "{what:<40} {naive:>12} {ours:>12}");
        }
        for violation in ours.report.violations() {
            let _ = writeln!(table, "BROKEN: {}", violation.name());
        }
        table
    }
}

fn lost(column: &Column) -> u64 {
    column.report.figures().lost
}

fn unknown(column: &Column) -> u64 {
    column.report.figures().unknown
}

fn in_doubt(column: &Column) -> u64 {
    column.report.figures().in_doubt
}

fn conserved(column: &Column) -> bool {
    column
        .report
        .money()
        .is_some_and(onlyonce_chaos::ledger::Money::conserved)
}

fn wrong(column: &Column) -> usize {
    column
        .report
        .money()
        .map_or(0, |money| money.differences().len())
}

fn attempts_per_call(column: &Column) -> f64 {
    column.attempts as f64 / column.calls.max(1) as f64
}
