//! A whole run.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::lines::{HistoryError, Line, Lines};
use crate::goals::Goals;
use crate::seed::{Seed, digest};

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
// Exhaustive: executors build it, from `RunHeader::new` with what they add.
pub struct RunHeader {
    /// The scenario's name.
    pub scenario: String,
    /// Which executor carried it out.
    pub executor: String,
    /// From which seed.
    pub seed: u64,
    /// The scenario itself, as the text of its file: whoever has the history can run it again. Empty
    /// where that was not written down.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub toml: String,
    /// Which version of this crate wrote it.
    pub version: String,
    /// Whether the scenario ran as the naive control, in which duplicates are wanted.
    #[serde(default)]
    pub naive: bool,
    /// How long after [`FaultsEnded`](super::Happened::FaultsEnded) a call may stay open.
    #[serde(default)]
    pub resolve_within_ms: Option<u64>,
    /// What was on the accounts in the beginning. One that is not here began with nothing.
    #[serde(default)]
    pub opening: BTreeMap<String, i64>,
}

/// How often a fault struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
// Exhaustive: executors build it.
pub struct Fired {
    /// How often it struck and did something. What an executor knows to have done nothing, a power
    /// cut that took nothing for example, is not counted: see [`in_vain`](super::in_vain).
    pub struck: u64,
    /// How many calls felt it, each once: those whose message it struck; of what strikes a server or
    /// a disk, those that had an attempt under way which came to nothing, or late. Packets name no
    /// call: of those it is the calls that were sent more than once, at most as many as packets.
    pub affected: u64,
}

/// Something that a service must never do, which the executor has seen and no event shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
// Exhaustive: executors build it.
pub struct Defect {
    /// Its name, such as `damaged-store`: none of an invariant's.
    pub name: String,
    /// What was seen, in words.
    pub text: String,
}

/// What was read at the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
// Exhaustive: executors build it.
pub struct RunEnd {
    /// What is on the accounts; nothing where the service has none.
    #[serde(default)]
    pub accounts: Option<BTreeMap<String, i64>>,
    /// Whether the final read of effects and accounts reached the end. Where it did not, the
    /// absence of an effect proves nothing.
    pub complete: bool,
    /// How often each fault struck, by name; one that never did is absent.
    #[serde(default)]
    pub fired: BTreeMap<String, Fired>,
    /// Which situations arose, how often.
    #[serde(default)]
    pub goals: Goals,
    /// What is wrong and in no event: each is a violation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defects: Vec<Defect>,
    /// What the events come to: equal for two runs that went the same way.
    #[serde(with = "sixteen_digits")]
    pub trace_hash: u64,
}

/// A whole run: what was run, what happened, what was read at the end.
#[derive(Clone, Debug, Default, PartialEq)]
// Exhaustive: executors build it.
pub struct RunRecord {
    /// What was run.
    pub header: RunHeader,
    /// What happened, in the order in which it was seen.
    pub events: Vec<Event>,
    /// What is on the accounts; nothing where the service has none.
    pub accounts: Option<BTreeMap<String, i64>>,
    /// Whether the final read reached the end.
    pub complete: bool,
    /// How often each fault struck, by name.
    pub fired: BTreeMap<String, Fired>,
    /// Which situations arose, how often.
    pub goals: Goals,
    /// What is wrong and in no event.
    pub defects: Vec<Defect>,
    /// What the events come to. [`RunRecord::seal`] sets it.
    pub trace_hash: u64,
}

/// Sums events up: the same events in the same order give the same number.
///
/// Times count: a simulation must repeat them as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceHash(u64);

// === impl RunHeader ===

impl RunHeader {
    /// A run of this scenario by this executor from this seed.
    #[must_use]
    pub fn new(
        scenario: impl Into<String>,
        executor: impl Into<String>,
        seed: impl Into<Seed>,
    ) -> Self {
        Self {
            scenario: scenario.into(),
            executor: executor.into(),
            seed: seed.into().value(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Self::default()
        }
    }
}

// === impl RunRecord ===

impl RunRecord {
    /// A run in which nothing has happened, and whose end was not read.
    #[must_use]
    pub fn new(header: RunHeader) -> Self {
        Self {
            header,
            ..Self::default()
        }
    }

    /// Sets [`RunRecord::trace_hash`] from the events.
    #[must_use]
    pub fn seal(mut self) -> Self {
        let mut hash = TraceHash::default();
        for event in &self.events {
            hash.add(event);
        }
        self.trace_hash = hash.value();
        self
    }

    /// What stands in the last line.
    #[must_use]
    pub fn end(&self) -> RunEnd {
        RunEnd {
            accounts: self.accounts.clone(),
            complete: self.complete,
            fired: self.fired.clone(),
            goals: self.goals.clone(),
            defects: self.defects.clone(),
            trace_hash: self.trace_hash,
        }
    }

    /// Writes it as lines of JSON.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, to: &mut impl Write) -> Result<(), HistoryError> {
        let mut line = |line: &Line| -> Result<(), HistoryError> {
            serde_json::to_writer(&mut *to, line).map_err(std::io::Error::from)?;
            to.write_all(b"\n").map_err(HistoryError::from)
        };
        line(&Line::Run(self.header.clone()))?;
        for event in &self.events {
            line(&Line::Event(event.clone()))?;
        }
        line(&Line::End(self.end()))
    }

    /// Reads it back. A history that stops before its last line is one whose end was not read.
    ///
    /// It holds the whole run in memory; [`Lines`] does not.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or a line is wrong: with the line's number.
    pub fn read(from: impl BufRead) -> Result<Self, HistoryError> {
        let mut lines = Lines::new(from);
        let mut record = Self::default();
        while let Some(line) = lines.next().transpose()? {
            match line {
                Line::Run(header) => record.header = header,
                Line::Event(event) => record.events.push(event),
                Line::End(end) => {
                    record.accounts = end.accounts;
                    record.complete = end.complete;
                    record.fired = end.fired;
                    record.goals = end.goals;
                    record.defects = end.defects;
                    record.trace_hash = end.trace_hash;
                }
            }
        }
        Ok(record)
    }
}

// === impl TraceHash ===

impl TraceHash {
    /// Adds the event that came next.
    pub fn add(&mut self, event: &Event) {
        // OK because an event has neither maps with other keys than text nor a writer that fails.
        let line = serde_json::to_vec(event).expect("an event can always be written");
        self.0 = Seed::new(self.0).draw(&[digest(&line)]).bits();
    }

    /// What they come to.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

/// A number of 64 bits as text: readers of JSON in other languages would round it.
mod sixteen_digits {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::borrow::Cow;

    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{number:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}
