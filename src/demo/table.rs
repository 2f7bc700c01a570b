//! Both columns side by side, for people.

use std::fmt::Write;

use super::column::{Cluster, Column};
use super::report::DemoReport;

/// The table, what was broken, and which goals were missed.
pub(super) fn table(report: &DemoReport) -> String {
    let mut table = String::new();
    // OK because writing into a `String` cannot fail.
    let _ = writeln!(table, "{:<40} {:>12} {:>12}", "", "naive", "onlyonce");
    for (what, naive, ours) in rows(&report.naive, &report.onlyonce) {
        let _ = writeln!(table, "{what:<40} {naive:>12} {ours:>12}");
    }
    let _ = writeln!(table, "{TIMES}");
    for line in lines(report) {
        let _ = writeln!(table, "{line}");
    }
    table
}

fn rows(naive: &Column, ours: &Column) -> Vec<(&'static str, String, String)> {
    let both = |what, of: &dyn Fn(&Column) -> String| (what, of(naive), of(ours));
    let ours_only = |what, figure: u64| (what, "-".to_owned(), figure.to_string());
    let yes = |held: bool| if held { "yes" } else { "NO" }.to_owned();
    let rows = vec![
        both("calls", &|column| column.calls.to_string()),
        both("answered", &|column| {
            column.report.figures().answered.to_string()
        }),
        both("declined", &|column| {
            column.report.figures().declined.to_string()
        }),
        ours_only("named in doubt", ours.in_doubt()),
        both("outcome unknown", &|column| column.unknown().to_string()),
        both("effect happened twice or more (DSEVR)", &|column| {
            format!("{:.2} %", column.report.figures().dsevr() * 100.0)
        }),
        both("acknowledged, but not on disk", &|column| {
            column.lost().to_string()
        }),
        both("total money conserved", &|column| yes(column.conserved())),
        both("accounts with a wrong balance", &|column| {
            column.accounts_wrong().to_string()
        }),
        ours_only("left open, resumed with the same key", ours.resumed),
        both("attempts per call", &|column| {
            format!("{:.2}", column.attempts_per_call())
        }),
        ours_only("answers replayed", ours.replayed),
        both("network faults", &|column| column.faults.to_string()),
        both("server killed with -9, restarted", &|column| {
            column.server_restarts.to_string()
        }),
        both("latency p50, ms *", &|column| {
            format!("{:.1}", column.p50_ms)
        }),
        both("latency p99, ms *", &|column| {
            format!("{:.1}", column.p99_ms)
        }),
        both("calls a second *", &|column| {
            format!("{:.0}", column.calls_per_s)
        }),
    ];
    [rows, of_cluster(naive, ours)].concat()
}

/// What only several servers have.
fn of_cluster(naive: &Column, ours: &Column) -> Vec<(&'static str, String, String)> {
    let (Some(naive), Some(ours)) = (naive.cluster, ours.cluster) else {
        return Vec::new();
    };
    let both = |what, of: &dyn Fn(Cluster) -> u64| {
        let [naive, ours] = [naive, ours].map(|cluster| of(cluster).to_string());
        (what, naive, ours)
    };
    let ours_only = |what, figure: u64| (what, "-".to_owned(), figure.to_string());
    vec![
        (
            "guarantee",
            "-".to_owned(),
            ours.guarantee.name().to_owned(),
        ),
        both("servers on one database", &|cluster| cluster.servers),
        both("server paused for longer than a lease", &|cluster| {
            cluster.server_pauses
        }),
        both("database crashed, restarted", &|cluster| {
            cluster.database_restarts
        }),
        ours_only("in doubt on the way, the bank asked", ours.doubts_asked),
        ours_only("late orders that the bank refused", ours.late_refused),
    ]
}

/// What the figures mean for the exit code, in words.
fn lines(report: &DemoReport) -> Vec<String> {
    let ours = &report.onlyonce;
    let broken = ours.report.violations().iter().map(ToString::to_string);
    let unknown = ours
        .unknown
        .iter()
        .map(|operation| format!("unknown: {operation} (neither answered nor named in doubt)"));
    let broken: Vec<_> = broken.chain(unknown).collect();
    let more = broken.len().saturating_sub(BROKEN_SHOWN);
    let mut lines: Vec<_> = broken
        .into_iter()
        .take(BROKEN_SHOWN)
        .map(|what| format!("BROKEN: {what}"))
        .collect();
    if more > 0 {
        lines.push(format!("BROKEN: and {more} more"));
    }
    let missed = report.goals_missed().into_iter();
    lines.extend(missed.map(|goal| format!("GOAL MISSED: {goal}")));
    let (asked, made) = (report.calls_asked, ours.calls);
    if made > asked {
        lines.push(format!(
            "both columns went on from {asked} to {made} calls: in the naive one nothing had \
             happened twice by then"
        ));
    }
    let waived = report.coverage().waived().into_iter();
    lines.extend(waived.map(|goal| format!("not asked of a run this small: {goal}")));
    lines
}

const TIMES: &str = "* from a call's first attempt until it is answered or given up, network faults \
and restarts included; not the resuming afterwards";

/// As many as can be read on one screen; the rest is counted.
const BROKEN_SHOWN: usize = 20;
