//! For terminals.

use std::fmt::Write;

use super::Context;
use super::html::{replay, shrink};
use crate::campaign::{Campaign, Control};

/// The campaign as a few lines of text, with whatever is not printable escaped.
#[must_use]
pub fn text(campaign: &Campaign, context: &Context) -> String {
    let mut out = format!(
        "{}: {}\n{}\n",
        plain(&campaign.scenario.name),
        campaign.verdict(),
        campaign.bound()
    );
    for reason in campaign.reasons() {
        let _ = writeln!(out, "unknown because {}", plain(&reason));
    }
    for part in &campaign.parts {
        let name = &part.executor;
        if let Some(reason) = &part.not_run {
            let _ = writeln!(out, "\n{name}: {}", plain(&reason.to_string()));
            continue;
        }
        let figures = &part.figures;
        let _ = writeln!(
            out,
            "\n{name}: {}, {} runs, {} calls, {} attempts, {} duplicated, {} lost, {} in doubt, {} unknown",
            part.verdict(),
            part.runs,
            figures.calls,
            figures.attempts,
            figures.duplicated,
            figures.lost,
            figures.in_doubt,
            figures.unknown,
        );
        match &part.control {
            Control::Ran {
                runs,
                operations,
                duplicated,
                lost,
                ..
            } => {
                let _ = writeln!(
                    out,
                    "  naive control: {duplicated} of {operations} keys duplicated, {lost} lost in {runs} runs"
                );
            }
            Control::NotRun(reason) => {
                let _ = writeln!(out, "  naive control: {}", plain(&reason.to_string()));
            }
            Control::NotAsked => {}
        }
        if part.repeated > 0 {
            let did = part.repeated.saturating_sub(part.differing.len() as u64);
            let _ = writeln!(
                out,
                "  repeated: {did} of {} seeds, trace {:016x}",
                part.repeated, part.trace_hash
            );
        }
        for fault in &campaign.scenario.faults {
            let fired = part.fired.get(&fault.name).copied().unwrap_or_default();
            let fault_name = plain(&fault.name);
            match part.faults_not_run.get(&fault.name) {
                Some(reason) => {
                    let _ = writeln!(out, "  {fault_name}: {}", plain(&reason.to_string()));
                }
                None => {
                    let survived = part.survived.get(&fault.name).copied().unwrap_or_default();
                    let felt = part.felt.get(&fault.name).copied().unwrap_or_default();
                    let unjudged = part.unjudged.get(&fault.name).copied().unwrap_or_default();
                    let _ = write!(
                        out,
                        "  {fault_name}: struck {}, felt by {} calls, survived in {survived} of {felt} runs",
                        fired.struck, fired.affected
                    );
                    if unjudged > 0 {
                        let _ = write!(out, ", unknown in {unjudged}");
                    }
                    if let Some(times) = part.in_vain.get(&fault.name) {
                        let _ = write!(out, "; {times} times in vain");
                    }
                    out.push('\n');
                }
            }
        }
        for finding in &part.findings {
            let _ = writeln!(out, "  seed {}:", finding.seed);
            for violation in &finding.violations {
                let _ = writeln!(out, "    {}", plain(violation));
            }
            if finding.more > 0 {
                let _ = writeln!(out, "    and {} more", finding.more);
            }
            let _ = writeln!(out, "    {}", replay(context, part, finding.seed));
            if let Some(shrink) = shrink(context, part, finding.seed) {
                let _ = writeln!(out, "    {shrink}");
            }
        }
        let shown = part.findings.len() as u64;
        if part.violated > shown {
            let _ = writeln!(out, "  and {} more violated runs", part.violated - shown);
        }
        for differing in &part.differing {
            let _ = writeln!(
                out,
                "  seed {} did not repeat at event {}:\n    {}\n    {}",
                differing.seed,
                differing.event,
                plain(&differing.one),
                plain(&differing.other)
            );
        }
        for failure in &part.failures {
            let _ = writeln!(
                out,
                "  seed {} failed: {}",
                failure.seed,
                plain(&failure.why)
            );
        }
        for (seed, doubts) in &part.doubts {
            let _ = writeln!(
                out,
                "  seed {seed}: unknown because {}",
                plain(&doubts.join("; "))
            );
        }
    }
    let goals = campaign.goals();
    if !campaign.scenario.goals.is_empty() {
        out.push_str("\nwanted:\n");
        for goal in &campaign.scenario.goals {
            let _ = writeln!(out, "  {}: {} times", plain(goal), goals.count(goal));
            for part in &campaign.parts {
                if let Some(reason) = part.goals_not_asked.get(goal) {
                    let _ = writeln!(
                        out,
                        "    not asked of {}: {}",
                        part.executor,
                        plain(reason.reason())
                    );
                }
            }
        }
    }
    out
}

/// Text without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let escape = char.is_control();
            let escaped = escape.then(|| char.escape_default());
            escaped
                .into_iter()
                .flatten()
                .chain((!escape).then_some(char))
        })
        .collect()
}
