//! For programs: lines of JSON, and JUnit's XML.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Context;
use super::html::replay;
use super::markup::escaped;
use crate::campaign::{Campaign, Control, Part};

/// Lines of JSON: one for the campaign, then one for each executor.
#[must_use]
pub fn json(campaign: &Campaign, context: &Context) -> String {
    let missed = campaign.goals_missed().into_iter();
    let missed = missed.map(|one| json!({ "executor": one.executor, "goal": one.goal }));
    let missed: Vec<Value> = missed.collect();
    let never = campaign.never_struck().into_iter();
    let never = never.map(|one| json!({ "executor": one.executor, "fault": one.fault }));
    let never: Vec<Value> = never.collect();
    let whole = json!({
        "scenario": campaign.scenario.name,
        "verdict": campaign.verdict().to_string(),
        "runs": campaign.runs(),
        "violated": campaign.violated(),
        "bound": campaign.bound(),
        "reasons": campaign.reasons(),
        "goals": campaign.goals(),
        "goals_missed": missed,
        "never_struck": never,
        "seeds": [campaign.seeds_from, campaign.seeds_to],
    });
    let mut lines = format!("{whole}\n");
    for part in &campaign.parts {
        let _ = writeln!(lines, "{}", part_line(part, context));
    }
    lines
}

fn part_line(part: &Part, context: &Context) -> Value {
    let figures = &part.figures;
    let control = match &part.control {
        Control::NotAsked => Value::Null,
        Control::NotRun(reason) => json!({ "not_run": reason.reason() }),
        Control::Ran {
            runs,
            operations,
            duplicated,
            lost,
            missing,
        } => {
            json!({
                "runs": runs,
                "operations": operations,
                "duplicated": duplicated,
                "lost": lost,
                "missing": missing,
            })
        }
    };
    let not_run = part
        .faults_not_run
        .iter()
        .map(|(name, reason)| (name.clone(), reason.reason()));
    let not_asked = part
        .goals_not_asked
        .iter()
        .map(|(goal, reason)| (goal.clone(), reason.reason()));
    let findings: Vec<Value> = part
        .findings
        .iter()
        .map(|finding| {
            json!({
                "seed": finding.seed,
                "violations": finding.violations,
                "more": finding.more,
                "trace_hash": format!("{:016x}", finding.trace_hash),
                "replay": replay(context, part, finding.seed),
            })
        })
        .collect();
    json!({
        "executor": part.executor,
        "verdict": match part.not_run { Some(_) => "not run".to_owned(), None => part.verdict().to_string() },
        "not_run": part.not_run.as_ref().map(super::super::executor::NotRun::reason),
        "faults_not_run": not_run.collect::<std::collections::BTreeMap<_, _>>(),
        "runs": part.runs,
        "violated": part.violated,
        "unknown": part.unknown,
        "failed": part.failed,
        "calls": figures.calls,
        "attempts": figures.attempts,
        "operations": figures.operations,
        "effects": figures.effects,
        "duplicated": figures.duplicated,
        "lost": figures.lost,
        "in_doubt": figures.in_doubt,
        "fired": part.fired,
        "in_vain": part.in_vain,
        "goals_not_asked": not_asked.collect::<std::collections::BTreeMap<_, _>>(),
        "survived": part.survived,
        "unjudged": part.unjudged,
        "goals": part.goals,
        "repeated": part.repeated,
        "differing": part.differing.len(),
        "latency_us": { "p50": part.latencies.quantile(0.5), "p99": part.latencies.quantile(0.99) },
        "control": control,
        "trace_hash": format!("{:016x}", part.trace_hash),
        "findings": findings,
    })
}

/// JUnit's XML: a suite for the campaign, a case for each executor, for the wanted situations, and for each fault
/// that never struck.
/// What is unknown is an error, what was not run is skipped.
#[must_use]
pub fn junit(campaign: &Campaign, context: &Context) -> String {
    let suite = escaped(&campaign.scenario.name);
    let mut cases = String::new();
    let (mut failures, mut errors, mut skipped, mut tests) = (0, 0, 0, 0);
    for part in &campaign.parts {
        tests += 1;
        let _ = write!(
            cases,
            "  <testcase classname=\"{suite}\" name=\"{}\">",
            escaped(&part.executor)
        );
        if let Some(reason) = &part.not_run {
            skipped += 1;
            let _ = write!(cases, "<skipped message=\"{}\"/>", escaped(reason.reason()));
        } else if part.violated > 0 {
            failures += 1;
            let first = part.findings.first();
            let text = first.map_or(String::new(), |first| {
                format!(
                    "{}\n{}",
                    first.violations.join("\n"),
                    replay(context, part, first.seed)
                )
            });
            let message = format!("{} of {} runs are violated", part.violated, part.runs);
            let _ = write!(
                cases,
                "<failure message=\"{message}\">{}</failure>",
                escaped(&text)
            );
        } else if part.verdict() == crate::ledger::Verdict::Unknown {
            errors += 1;
            let reasons = campaign.reasons().join("; ");
            let _ = write!(cases, "<error message=\"{}\"/>", escaped(&reasons));
        }
        cases.push_str("</testcase>\n");
    }
    for goal in &campaign.scenario.goals {
        tests += 1;
        let _ = write!(
            cases,
            "  <testcase classname=\"{suite}\" name=\"{}\">",
            escaped(goal)
        );
        let missed = campaign.goals_missed().into_iter();
        let missed: Vec<&str> = missed
            .filter(|missed| missed.goal == goal)
            .map(|missed| missed.executor.unwrap_or("anybody"))
            .collect();
        if !missed.is_empty() {
            errors += 1;
            let by = escaped(&missed.join(", "));
            let _ = write!(cases, "<error message=\"it never arose by {by}\"/>");
        }
        cases.push_str("</testcase>\n");
    }
    if campaign.verdict() == crate::ledger::Verdict::Unknown && campaign.runs() == 0 {
        tests += 1;
        errors += 1;
        let reasons = campaign.reasons().join("; ");
        let _ = writeln!(
            cases,
            "  <testcase classname=\"{suite}\" name=\"anything was run\"><error message=\"{}\"/></testcase>",
            escaped(&reasons)
        );
    }
    for never in campaign.never_struck() {
        tests += 1;
        errors += 1;
        let _ = writeln!(
            cases,
            "  <testcase classname=\"{suite}\" name=\"{} strikes by {}\"><error message=\"it never struck\"/></testcase>",
            escaped(never.fault),
            escaped(never.executor)
        );
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{suite}\" tests=\"{tests}\" \
         failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\">\n{cases}</testsuite>\n"
    )
}
