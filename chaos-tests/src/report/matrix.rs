//! What was survived: every fault of the scenario by every executor.

use std::fmt::Write;

use super::markup::{count, escaped};
use crate::campaign::{Campaign, Part};
use crate::fault::Fault;

pub(super) fn section(page: &mut String, campaign: &Campaign) {
    if campaign.scenario.faults.is_empty() {
        return;
    }
    page.push_str(
        "<h2>What was survived</h2>\n<p class=\"note\">Each fault of the scenario by each executor: how \
         often it struck and did something, how many calls felt it because it met a message or an attempt of \
         theirs, and in how many of the runs that felt it every promise \
         was kept. A run that could not be judged in full is told apart: it counts as neither.</p>\n<div class=\"card wide\"><table>\n<tr><th>Fault</th>",
    );
    for part in &campaign.parts {
        let _ = write!(page, "<th>{}</th>", escaped(&part.executor));
    }
    page.push_str("</tr>\n");
    for fault in &campaign.scenario.faults {
        let _ = write!(
            page,
            "<tr><td><b>{}</b><span class=\"small\">{}</span></td>",
            escaped(&fault.name),
            escaped(&in_words(fault))
        );
        for part in &campaign.parts {
            let _ = write!(page, "<td>{}</td>", cell(part, fault));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
}

/// What the fault does, where and when.
pub(super) fn in_words(fault: &Fault) -> String {
    let mut words = format!("{} on the {}", fault.what, fault.place);
    let when = &fault.when;
    if let Some(phase) = when.phase {
        let _ = write!(words, ", {phase}");
    }
    if let Some(share) = when.share {
        let _ = write!(words, ", {:.3}", share * 100.0);
        let kept = words.trim_end_matches('0').trim_end_matches('.').len();
        words.truncate(kept);
        words.push_str(" %");
    }
    if let Some(call) = when.call {
        let _ = write!(words, ", call {call}");
    }
    if let Some(attempt) = when.attempt {
        let _ = write!(words, ", attempt {attempt}");
    }
    if let Some(first) = when.first_attempts {
        let _ = write!(words, ", the first {first} attempts");
    }
    if let Some(bytes) = when.after_bytes {
        let _ = write!(words, ", after {bytes} bytes");
    }
    match (when.from_ms, when.until_ms) {
        (Some(from), Some(until)) => {
            let _ = write!(words, ", {from} to {until} ms");
        }
        (Some(from), None) => {
            let _ = write!(words, ", from {from} ms on");
        }
        (None, Some(until)) => {
            let _ = write!(words, ", until {until} ms");
        }
        (None, None) => {}
    }
    words
}

fn cell(part: &Part, fault: &Fault) -> String {
    let not_run = part
        .not_run
        .as_ref()
        .or_else(|| part.faults_not_run.get(&fault.name));
    if let Some(reason) = not_run {
        return format!(
            "<span class=\"tag none\">not run</span><span class=\"small\">{}</span>",
            escaped(reason.reason())
        );
    }
    let fired = part.fired.get(&fault.name).copied().unwrap_or_default();
    let felt = part.felt.get(&fault.name).copied().unwrap_or_default();
    let survived = part.survived.get(&fault.name).copied().unwrap_or_default();
    let unjudged = part.unjudged.get(&fault.name).copied().unwrap_or_default();
    let (class, word) = match felt.saturating_sub(survived) {
        _ if felt == 0 => ("open", "never struck"),
        0 => ("good", "survived"),
        left if left == unjudged => ("open", "unknown"),
        _ => ("bad", "not survived"),
    };
    let unknown = match unjudged {
        0 => String::new(),
        runs => format!(", {} unknown", count(runs)),
    };
    let in_vain = match part.in_vain.get(&fault.name) {
        Some(times) => format!("; {} times in vain", count(*times)),
        None => String::new(),
    };
    format!(
        "<span class=\"tag {class}\">{word}</span><span class=\"small\">struck {} times, felt by {} \
         calls; {} of {} runs{unknown}{in_vain}</span>",
        count(fired.struck),
        count(fired.affected),
        count(survived),
        count(felt),
    )
}
