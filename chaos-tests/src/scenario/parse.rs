//! From TOML, with the line and the field of whatever is wrong.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::{
    CALLS_MAX, CLIENTS_MAX, DEADLINE_MS_MAX, FAULTS_MAX, Mode, NAME_BYTES_MAX, SCENARIO_BYTES_MAX,
    Scenario, Workload,
};
use crate::fault::{Fault, Phase, Place, What, When};

/// Why a scenario is refused: where, and what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioError {
    line: usize,
    field: String,
    what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Spanned<String>,
    #[serde(default)]
    about: String,
    workload: Workload,
    #[serde(default = "calls_by_default")]
    calls: Spanned<u64>,
    #[serde(default = "clients_by_default")]
    clients: Spanned<u32>,
    #[serde(default)]
    mode: Mode,
    #[serde(default = "deadline_by_default")]
    deadline_ms: Spanned<u64>,
    #[serde(default = "attempt_by_default")]
    attempt_ms: Spanned<u64>,
    #[serde(default = "control_by_default")]
    control: bool,
    #[serde(default, rename = "fault")]
    faults: Vec<Spanned<WrittenFault>>,
    #[serde(default)]
    goals: Vec<Spanned<String>>,
}

/// [`Fault`] with the places of its fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFault {
    name: Spanned<String>,
    #[serde(rename = "where")]
    place: Place,
    when: Option<Spanned<When>>,
    what: Spanned<What>,
}

/// What is wrong with a field, before it is known on which line that is.
struct Wrong {
    span: Range<usize>,
    field: &'static str,
    what: String,
}

// === impl Scenario ===

impl Scenario {
    /// Reads a scenario. What is not said has a default: 100 calls of 4 clients, 30 s for a call,
    /// 1 s for an attempt, mode `claimed`, no faults, no goals.
    ///
    /// # Errors
    ///
    /// When it is not TOML, a field is unknown, missing or out of its bounds, or what it says cannot
    /// be: a fault of the disk on the wire, two faults of one name. The error has line and field.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        Self::parse_knowing(text, None)
    }

    /// The same for a program that has these named points in its code, at which it can be killed.
    ///
    /// # Errors
    ///
    /// As [`Scenario::parse`], and when a point that is named is none of `points`.
    pub fn parse_with_points(text: &str, points: &[&str]) -> Result<Self, ScenarioError> {
        Self::parse_knowing(text, Some(points))
    }

    fn parse_knowing(text: &str, points: Option<&[&str]>) -> Result<Self, ScenarioError> {
        if text.len() > SCENARIO_BYTES_MAX {
            return Err(ScenarioError {
                line: 1,
                field: "the scenario".into(),
                what: format!("is longer than {SCENARIO_BYTES_MAX} bytes"),
            });
        }
        let written: Written =
            toml::from_str(text).map_err(|error| ScenarioError::of_toml(text, &error))?;
        written.judge(points).map_err(|wrong| ScenarioError {
            line: line_of(text, wrong.span.start),
            field: wrong.field.into(),
            what: wrong.what,
        })
    }
}

// === impl Written ===

impl Written {
    fn judge(self, points: Option<&[&str]>) -> Result<Scenario, Wrong> {
        name("name", &self.name)?;
        within("calls", &self.calls, 1..=CALLS_MAX)?;
        within("clients", &self.clients, 1..=CLIENTS_MAX)?;
        within("deadline_ms", &self.deadline_ms, 1..=DEADLINE_MS_MAX)?;
        within(
            "attempt_ms",
            &self.attempt_ms,
            1..=*self.deadline_ms.get_ref(),
        )?;
        let mut goals = BTreeSet::new();
        for goal in &self.goals {
            name("goals", goal)?;
            if !goals.insert(goal.get_ref()) {
                return Err(Wrong::at(
                    goal,
                    "goals",
                    format!("`{}` is there twice", goal.get_ref()),
                ));
            }
        }
        let calls = *self.calls.get_ref();
        let mut names = BTreeSet::new();
        let mut faults = Vec::new();
        for fault in &self.faults {
            if faults.len() == FAULTS_MAX {
                return Err(Wrong::at(
                    fault,
                    "fault",
                    format!("more than {FAULTS_MAX} faults"),
                ));
            }
            let fault = fault.get_ref();
            if !names.insert(fault.name.get_ref()) {
                let twice = format!(
                    "another fault is called `{}`, and decisions are drawn from names",
                    fault.name.get_ref()
                );
                return Err(Wrong::at(&fault.name, "name", twice));
            }
            if let (Some(points), Some(when)) = (points, &fault.when) {
                known(when, points)?;
            }
            faults.push(fault.judge(calls)?);
        }
        Ok(Scenario {
            name: self.name.into_inner(),
            about: self.about,
            workload: self.workload,
            calls,
            clients: self.clients.into_inner(),
            mode: self.mode,
            deadline_ms: self.deadline_ms.into_inner(),
            attempt_ms: self.attempt_ms.into_inner(),
            control: self.control,
            faults,
            goals: self.goals.into_iter().map(Spanned::into_inner).collect(),
        })
    }
}

// === impl WrittenFault ===

impl WrittenFault {
    fn judge(&self, calls: u64) -> Result<Fault, Wrong> {
        name("name", &self.name)?;
        let what = *self.what.get_ref();
        if !what.fits(self.place) {
            let text = format!("`{what}` cannot happen to the {}", self.place);
            return Err(Wrong::at(&self.what, "what", text));
        }
        if let What::Delay { min_ms, max_ms } = what
            && min_ms > max_ms
        {
            let text = format!("the least delay, {min_ms} ms, is above the most, {max_ms} ms");
            return Err(Wrong::at(&self.what, "min_ms", text));
        }
        if let Some(too_long) = span_ms(what).filter(|&ms| ms > DEADLINE_MS_MAX) {
            let text = format!("{too_long} ms is longer than {DEADLINE_MS_MAX} ms");
            return Err(Wrong::at(&self.what, "what", text));
        }
        if let Some(when) = &self.when {
            judge_when(when, self.place, what, calls)?;
        }
        Ok(Fault {
            name: self.name.get_ref().clone(),
            place: self.place,
            when: self
                .when
                .as_ref()
                .map(|when| when.get_ref().clone())
                .unwrap_or_default(),
            what,
        })
    }
}

/// Whether the point that it names is one of these.
fn known(written: &Spanned<When>, points: &[&str]) -> Result<(), Wrong> {
    let Some(point) = written.get_ref().point.as_deref() else {
        return Ok(());
    };
    if points.contains(&point) {
        return Ok(());
    }
    // Those of the same part of the program; the parts where there is no such one.
    let part = |point: &str| point.split(':').next().unwrap_or_default().to_owned();
    let near: Vec<_> = points
        .iter()
        .filter(|known| part(known) == part(point))
        .map(|known| format!("`{known}`"))
        .collect();
    let parts: BTreeSet<_> = points.iter().map(|known| part(known)).collect();
    let parts: Vec<_> = parts.into_iter().collect();
    let what = match near.is_empty() {
        true => format!(
            "there is no point `{point}`; points begin with {}",
            parts.join(", ")
        ),
        false => format!(
            "there is no point `{point}`; those are near: {}",
            near.join(", ")
        ),
    };
    Err(Wrong::at(written, "point", what))
}

/// A point of the code goes with a crash of the server, and with nothing that is about an attempt.
fn judge_point(written: &Spanned<When>, place: Place, what: What) -> Result<(), Wrong> {
    let when = written.get_ref();
    let wrong = |field, what: &str| Err(Wrong::at(written, field, what.to_owned()));
    if when.point.is_none() {
        return match when.passing {
            Some(_) => wrong(
                "passing",
                "a passing is one of a `point`, and there is none",
            ),
            None => Ok(()),
        };
    }
    if place != Place::Server || !matches!(what, What::Crash { .. }) {
        return wrong(
            "point",
            "at a point of its code the server can crash, and nothing else",
        );
    }
    if when.passing == Some(0) {
        return wrong("passing", "the first passing is 1");
    }
    let alone = When {
        point: when.point.clone(),
        passing: when.passing,
        ..When::default()
    };
    match *when == alone {
        true => Ok(()),
        false => wrong(
            "point",
            "a point is of the code and not of an attempt: with it goes `passing`, and nothing else",
        ),
    }
}

fn judge_when(written: &Spanned<When>, place: Place, what: What, calls: u64) -> Result<(), Wrong> {
    let when = written.get_ref();
    let wrong = |field, what: String| Err(Wrong::at(written, field, what));
    judge_point(written, place, what)?;
    if let Some(share) = when.share
        && !(0.0..=1.0).contains(&share)
    {
        return wrong("share", format!("{share} is not a share from 0 to 1"));
    }
    // What opens a connection is of no call, and syncs have numbers of their own.
    let least = u64::from(place != Place::Wire);
    let most = match what {
        What::SyncFails | What::SyncSlow { .. } => u64::MAX,
        _ => calls,
    };
    if let Some(call) = when.call
        && !(least..=most).contains(&call)
    {
        return wrong(
            "call",
            format!("call {call} is not one of the calls 1 to {calls}"),
        );
    }
    if when.attempt == Some(0) {
        return wrong("attempt", "the first attempt is 1".into());
    }
    if when.first_attempts == Some(0) {
        return wrong("first_attempts", "the first 0 attempts are none".into());
    }
    if let (Some(attempt), Some(first)) = (when.attempt, when.first_attempts)
        && attempt > first
    {
        return wrong(
            "attempt",
            format!("attempt {attempt} is never one of the first {first}"),
        );
    }
    if let (Some(from), Some(until)) = (when.from_ms, when.until_ms)
        && from >= until
    {
        return wrong(
            "until_ms",
            format!("{until} is not after `from_ms`, {from}"),
        );
    }
    if when.after_bytes.is_some() && place != Place::Wire {
        return wrong(
            "after_bytes",
            format!("only the wire has bytes, not the {place}"),
        );
    }
    let phase_fits = match when.phase {
        None => true,
        Some(Phase::EffectDurable) => place != Place::Wire && place != Place::Client,
        Some(Phase::RequestReceived) => place != Place::Client,
        // Power can fail when an answer has left; a disk that only fails to write knows of no answers.
        Some(Phase::ReplySent) => place != Place::Disk || what == What::PowerCut,
        Some(Phase::RequestSent | Phase::ReplyReceived) => place != Place::Disk,
    };
    match when.phase {
        Some(phase) if !phase_fits => wrong(
            "phase",
            format!("`{what}` of the {place} cannot strike at {phase}"),
        ),
        _ => Ok(()),
    }
}

/// The longest time that it names.
fn span_ms(what: What) -> Option<u64> {
    match what {
        What::Duplicate { later_ms: ms }
        | What::Delay { max_ms: ms, .. }
        | What::Crash { back_after_ms: ms }
        | What::Pause { for_ms: ms }
        | What::SyncSlow { for_ms: ms } => Some(ms),
        What::Blackhole
        | What::ClockJump { .. }
        | What::Close
        | What::Corrupt
        | What::DiskFull
        | What::Drop
        | What::PacketLoss
        | What::Partition
        | What::PowerCut
        | What::Reset
        | What::SyncFails
        | What::Truncate => None,
    }
}

fn name(field: &'static str, name: &Spanned<String>) -> Result<(), Wrong> {
    let text = name.get_ref();
    if text.trim().is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        let what = format!("must be 1 to {NAME_BYTES_MAX} bytes on one line");
        return Err(Wrong::at(name, field, what));
    }
    Ok(())
}

fn within<T: Copy + PartialOrd + fmt::Display>(
    field: &'static str,
    number: &Spanned<T>,
    range: std::ops::RangeInclusive<T>,
) -> Result<(), Wrong> {
    let found = *number.get_ref();
    if range.contains(&found) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    Err(Wrong::at(
        number,
        field,
        format!("{found} is not from {least} to {most}"),
    ))
}

// === impl Wrong ===

impl Wrong {
    fn at<T>(value: &Spanned<T>, field: &'static str, what: String) -> Self {
        let span = value.span();
        Self { span, field, what }
    }
}

// === impl ScenarioError ===

impl ScenarioError {
    /// On which line, from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// Which field is wrong, missing or unknown.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    fn of_toml(text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        Self {
            line: line_of(text, span.start),
            field: field_of(text, span.start, error.message()),
            what: error.message().trim().replace('\n', ", "),
        }
    }
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, field, what } = self;
        write!(f, "line {line}: `{field}`: {what}")
    }
}

impl std::error::Error for ScenarioError {}

fn line_of(text: &str, at: usize) -> usize {
    let before = &text.as_bytes()[..at.min(text.len())];
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}

/// The key that a place is about: what the message names, else the key before
/// the nearest `=`, else the start of the line.
fn field_of(text: &str, at: usize, message: &str) -> String {
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.split('`').next());
    if let Some(named) = named {
        return named.to_owned();
    }
    let start = text.floor_char_boundary(at);
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let before = &text[line_start..start];
    let key = before.rsplit_once('=').map_or("", |(key, _)| key);
    let key = key.trim_end().rsplit(['{', ',', ' ', '\n']).next();
    match key.map(str::trim) {
        Some(key) if !key.is_empty() => key.to_owned(),
        _ => {
            let line = text[line_start..].lines().next().unwrap_or_default();
            let key = line.split('=').next().unwrap_or_default();
            let short: String = key.trim().chars().take(NAME_BYTES_MAX).collect();
            if short.is_empty() {
                "the scenario".into()
            } else {
                short
            }
        }
    }
}

fn calls_by_default() -> Spanned<u64> {
    Spanned::new(0..0, 100)
}

fn clients_by_default() -> Spanned<u32> {
    Spanned::new(0..0, 4)
}

fn deadline_by_default() -> Spanned<u64> {
    Spanned::new(0..0, 30_000)
}

fn attempt_by_default() -> Spanned<u64> {
    Spanned::new(0..0, 1_000)
}

const fn control_by_default() -> bool {
    true
}
