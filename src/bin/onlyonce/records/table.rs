//! For people. What comes from a store is escaped, so that no key can move a cursor or look like
//! another line, and cut where it is long: the JSON document has all of it.

use std::fmt::Write as _;

use onlyonce::admin::{
    KeyView, Outcome, PageView, RecordView, StateView, StatsView, StepOutcome, SweptView,
};

use super::Word;

pub(super) fn page(page: &PageView) -> String {
    let mut rows = vec![["STATE", "FOR", "TOKEN", "SCOPE", "KEY", "WHY"].map(str::to_owned)];
    for record in &page.records {
        let since = record.in_doubt_since_ms.unwrap_or(record.claimed_at_ms);
        rows.push([
            state(record.state).to_owned(),
            ago(page.now_ms, since),
            record.token.clone(),
            scope(record.principal.as_deref(), record.operation.as_deref()),
            shown(&record.key),
            why(record),
        ]);
    }
    let mut text = columns(&rows);
    let count = page.records.len();
    let _ = match &page.next {
        None => writeln!(text, "{count} open"),
        Some(next) => writeln!(text, "{count} shown; there may be more: --after {next}"),
    };
    text
}

/// Why it is in doubt, and what it waits for.
fn why(record: &RecordView) -> String {
    let reason = record.reason.as_deref().map(shown).unwrap_or_default();
    let begun = record.steps.iter().find(|step| step.result_bytes.is_none());
    match begun {
        Some(step) if record.state == StateView::InDoubt => {
            format!(
                "{reason}; step {} is begun and not finished",
                shown(&step.name)
            )
        }
        _ if record.goes_on => format!("{reason}; goes on with its next attempt"),
        _ => reason,
    }
}

pub(super) fn key(view: &KeyView) -> String {
    let mut lines = vec![("state", state(view.state).to_owned())];
    if let Some(at) = view.sealed_at_ms {
        lines.push(("sealed", when(view.now_ms, at)));
    }
    if let Some(record) = &view.record {
        lines.extend(record_lines(record, view.now_ms));
    }
    lines.push(("store", view.store.clone()));
    fields(&lines)
}

fn record_lines(record: &RecordView, now: u64) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("key", shown(&record.key)),
        (
            "scope",
            scope(record.principal.as_deref(), record.operation.as_deref()),
        ),
        ("token", record.token.clone()),
        ("claimed", when(now, record.claimed_at_ms)),
    ];
    let times = [
        ("first sent", record.first_sent_ms),
        ("in doubt since", record.in_doubt_since_ms),
        ("lease until", record.lease_until_ms),
        ("completed", record.completed_at_ms),
        ("answer until", record.answer_until_ms),
    ];
    lines.extend(
        times
            .iter()
            .filter_map(|(name, time)| Some((*name, when(now, (*time)?)))),
    );
    if let Some(why) = &record.reason {
        lines.push(("why", shown(why)));
    }
    if let Some(by) = &record.resolved_by {
        lines.push(("resolved by", shown(by)));
    }
    lines.extend(record.steps.iter().map(|step| {
        let state = match step.result_bytes {
            Some(bytes) => format!("finished, {bytes} bytes"),
            None => "begun and not finished".to_owned(),
        };
        ("step", format!("{}: {state}", shown(&step.name)))
    }));
    if record.goes_on {
        lines.push(("goes on", "with its next attempt".to_owned()));
    }
    lines.push((
        "answer",
        match &record.answer {
            None => "none is kept".to_owned(),
            Some(answer) => format!("{} bytes in format {}", answer.bytes, answer.format),
        },
    ));
    lines
}

pub(super) fn stats(stats: &StatsView) -> String {
    let now = stats.now_ms;
    let health = match &stats.poisoned {
        None => "well".to_owned(),
        Some(why) => format!("acknowledges nothing more: {}", shown(why)),
    };
    let mut lines = vec![
        ("store", stats.store.clone()),
        ("health", health),
        ("opening", stats.incarnation.to_string()),
        ("in progress", stats.in_progress.to_string()),
        ("in doubt", stats.in_doubt.to_string()),
        ("settled", stats.settled.to_string()),
        ("answers kept", span(stats.retention_ms)),
        ("remembered", span(stats.horizon_ms)),
        ("forgotten until", when(now, stats.forgotten_until_ms)),
    ];
    if let Some(since) = stats.oldest_doubt_since_ms {
        lines.insert(5, ("oldest doubt", when(now, since)));
    }
    if let Some(bytes) = stats.disk_bytes {
        lines.push(("on the disk", size(bytes)));
    }
    if let Some(why) = &stats.clock_suspicion {
        lines.push(("sweeping", format!("pauses: {}", shown(why))));
    }
    let mut text = fields(&lines);
    if !stats.scopes.is_empty() {
        let mut rows = vec![["SCOPE", "IN DOUBT", "IN PROGRESS"].map(str::to_owned)];
        rows.extend(stats.scopes.iter().map(|most| {
            [
                scope(most.principal.as_deref(), most.operation.as_deref()),
                most.in_doubt.to_string(),
                most.in_progress.to_string(),
            ]
        }));
        let _ = write!(text, "\n{}", columns(&rows));
        let left_out = stats.scopes_open.saturating_sub(stats.scopes.len() as u64);
        if left_out > 0 {
            let _ = writeln!(text, "and {left_out} more with something open");
        }
    }
    if !stats.buckets.is_empty() {
        let mut rows =
            vec![["SETTLED FROM", "TO", "RECORDS", "BYTES", "ANSWERS"].map(str::to_owned)];
        rows.extend(stats.buckets.iter().map(|bucket| {
            [
                utc(bucket.start_ms),
                utc(bucket.end_ms),
                bucket.settled.to_string(),
                size(bucket.settled_bytes),
                size(bucket.answers_bytes),
            ]
        }));
        let _ = write!(text, "\n{}", columns(&rows));
    }
    text
}

pub(super) fn swept(swept: &SweptView) -> String {
    fields(&[
        ("store", swept.store.clone()),
        ("days of answers removed", swept.answers.to_string()),
        ("days of records removed", swept.tombstones.to_string()),
    ])
}

/// What is asked back before a doubt, or what is unknown of a step, is ended.
pub(super) fn question(word: &Word, record: &RecordView, by: &str) -> String {
    let by = shown(by);
    match word {
        Word::OfCall(Outcome::Applied { format, answer }) => format!(
            "Record that the effect happened, with an answer of {} bytes in format {format}, as \
             resolved by {by}?",
            answer.len()
        ),
        Word::OfCall(Outcome::NotApplied) => {
            let steps = record
                .steps
                .iter()
                .filter(|step| step.result_bytes.is_some());
            let finished = match steps.count() {
                0 => String::new(),
                1 => "1 of its steps is finished: the next call with this key executes it again. "
                    .to_owned(),
                count => format!(
                    "{count} of its steps are finished: the next call with this key executes them \
                     again. "
                ),
            };
            format!(
                "{finished}Say, as {by}, that the effect did not happen and cannot happen any more \
                 (its owner is dead)? The key can be used again afterwards, and who said so is not \
                 kept."
            )
        }
        Word::OfStep {
            step,
            outcome: StepOutcome::Done { result },
        } => format!(
            "Say, as {by}, that the step {} took effect, with a result of {} bytes? The call goes on \
             behind it.",
            shown(step),
            result.len()
        ),
        Word::OfStep {
            step,
            outcome: StepOutcome::NotExecuted,
        } => format!(
            "Say, as {by}, that the step {} was not executed and cannot be any more (its owner is \
             dead)? The call goes on with it.",
            shown(step)
        ),
    }
}

/// Visible ASCII, cut at 80 characters.
pub(super) fn shown(text: &str) -> String {
    let escaped: String = text
        .chars()
        .take(TEXT_MAX + 1)
        .flat_map(char::escape_default)
        .collect();
    if escaped.len() <= TEXT_MAX {
        return escaped;
    }
    format!("{}...", &escaped[..TEXT_MAX - 3])
}

fn scope(principal: Option<&str>, operation: Option<&str>) -> String {
    let principal = principal.map_or_else(|| "(global)".to_owned(), shown);
    match operation {
        None => principal,
        Some(operation) => format!("{principal} / {}", shown(operation)),
    }
}

const fn state(state: StateView) -> &'static str {
    match state {
        StateView::Absent => "absent",
        StateView::Completed => "completed",
        StateView::InDoubt => "in doubt",
        StateView::InProgress => "in progress",
        StateView::Sealed => "sealed",
        _ => "unknown",
    }
}

fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths);
        let line: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text
}

fn fields(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in lines {
        let _ = writeln!(text, "{name:width$}  {value}");
    }
    text
}

fn when(now: u64, time: u64) -> String {
    if time > now {
        return format!("{} (in {})", utc(time), span(time - now));
    }
    format!("{} ({} ago)", utc(time), span(now - time))
}

fn ago(now: u64, time: u64) -> String {
    span(now.saturating_sub(time))
}

fn span(millis: u64) -> String {
    match millis / 1_000 {
        0 => format!("{millis} ms"),
        seconds @ 1..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{} KiB", bytes / 1_024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

/// `2026-11-21T14:10:31Z`, by the calendar that repeats every 400 years.
fn utc(millis: u64) -> String {
    let seconds = millis / 1_000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Counted from the first of March of the year 0, so that a leap day ends its year.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

const TEXT_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_visible_ascii_and_bounded() {
        assert_eq!(shown("order-4711"), "order-4711");
        assert_eq!(shown("a\u{1b}[2Jb\n\u{202e}"), "a\\u{1b}[2Jb\\n\\u{202e}");
        for text in ["x".repeat(300), "\u{202e}".repeat(300), "é".repeat(80)] {
            let shown = shown(&text);
            assert_eq!(shown.len(), TEXT_MAX, "{shown}");
            assert!(shown.ends_with("..."), "{shown}");
        }
        assert_eq!(shown(&"x".repeat(80)).len(), 80);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399_000), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_868_799_000), "2000-02-29T23:59:59Z");
        assert_eq!(utc(1_700_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01T00:00:00Z");
    }
}
