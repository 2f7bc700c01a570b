//! The checker: takes a run event by event, and judges it at the end.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use super::cases::{self, Case, Limit};
use super::money::Money;
use super::report::{Figures, Report, Verdict};
use super::rows::{Call, Effect, NEVER, Rows};
use super::sum::sum;
use crate::history::{Ending, Event, Happened, OTHER_STORE, RunEnd, RunHeader, RunRecord, Seen};

/// Judges a run while it goes on, or a history while it is read.
///
/// Events are not kept: a call with its effect takes about 110 bytes and the bytes of its key. Payloads and answers
/// are compared by a digest of 64 bits, keys byte by byte. Time is linear in the events.
#[derive(Debug)]
#[must_use = "a judge that is not asked is no check"]
pub struct Judge {
    header: RunHeader,
    rows: Rows,
    sums: HashMap<String, i128, BuildHasherDefault<Spread>>,
    faults_ended_us: Option<u64>,
    /// When the last event was.
    watched_us: u64,
    doubts: Doubts,
}

/// Why a run cannot be called valid although nothing is wrong in it.
#[derive(Debug, Default)]
struct Doubts {
    texts: Vec<String>,
    more: u64,
}

/// Judges a whole run.
pub fn judge(record: &RunRecord) -> Report {
    let mut judge = Judge::new(record.header.clone());
    for event in &record.events {
        judge.event(event);
    }
    judge.finish(&record.end())
}

// === impl Judge ===

impl Judge {
    /// A run of which nothing is known yet.
    pub fn new(header: RunHeader) -> Self {
        let sums = header
            .opening
            .iter()
            .map(|(account, &balance)| (account.clone(), balance.into()))
            .collect();
        Self {
            header,
            rows: Rows::default(),
            sums,
            faults_ended_us: None,
            watched_us: 0,
            doubts: Doubts::default(),
        }
    }

    /// Takes the next event.
    pub fn event(&mut self, event: &Event) {
        self.watched_us = self.watched_us.max(event.at_us);
        match &event.what {
            Happened::Invoked { key, payload, .. } => self.invoked(event, key, payload),
            Happened::Sent => self.call(event, |call| call.sent(event.attempt.max(1))),
            Happened::Received => {
                let attempt = event.attempt.max(1);
                self.call(event, |call| call.attempts = call.attempts.max(attempt));
            }
            Happened::Effect {
                index,
                key,
                payload,
                answer,
                legs,
                seen,
            } => {
                for (account, amount) in legs {
                    self.add(account, i128::from(*amount));
                }
                let at_us = (*seen == Seen::AtCommit).then_some(event.at_us);
                let effect = Effect::new(payload, answer, *index, at_us);
                self.rows.effect(event.call, key.as_bytes(), effect);
            }
            Happened::Unrecorded => self.call(event, |call| call.flags |= Call::UNRECORDED),
            Happened::Ended { ending } => {
                let faults_ended = self.faults_ended_us.is_some();
                let told = Told::of(ending);
                if !self.rows.end(event.call, event.at_us, told, faults_ended) {
                    self.too_early(event);
                }
            }
            Happened::Swept { key } => self.rows.swept(key.as_bytes(), event.at_us),
            Happened::Acknowledged => {
                if !self.rows.forget(event.call, event.at_us) {
                    self.too_early(event);
                }
            }
            Happened::FaultsEnded => {
                self.faults_ended_us.get_or_insert(event.at_us);
            }
            Happened::Lifecycle { event: became, .. } if became == OTHER_STORE => {
                self.rows.replaced(event.at_us);
            }
            Happened::Fault { .. } | Happened::Replied | Happened::Lifecycle { .. } => {}
        }
    }

    /// Judges, now that everything is told.
    pub fn finish(mut self, end: &RunEnd) -> Report {
        if !end.complete {
            self.doubts
                .push("the final read did not reach the end".into());
        }
        if self.rows.calls.is_empty() {
            // A run that did nothing proves nothing.
            self.doubts.push("no call was made".into());
        }
        if self.header.resolve_within_ms.is_some() && self.faults_ended_us.is_none() {
            self.doubts
                .push("it is not said when the faults ended, so that no call can be stuck".into());
        }
        let groups = self.rows.join();
        let mut figures = Figures {
            calls: self.rows.calls.len() as u64,
            effects: self.rows.effects.len() as u64,
            ..Figures::default()
        };
        let limit =
            self.faults_ended_us
                .zip(self.header.resolve_within_ms)
                .map(|(ended_us, within_ms)| Limit {
                    ended_us,
                    within_us: within_ms.saturating_mul(1_000),
                    // A history that stops early says nothing about what came after it; one that was told to
                    // its end has nothing after it.
                    watched_us: if end.complete { NEVER } else { self.watched_us },
                });
        let out_of_order = cases::out_of_order(&self.rows, &groups);
        if let Some(index) = out_of_order.twice {
            self.doubts
                .push(format!("two effects are said to be commit {index}"));
        }
        let mut violations = Vec::new();
        let absence_proves = end.complete;
        groups.each(&self.rows, |members, effects| {
            let case = Case {
                rows: &self.rows,
                members,
                effects,
            };
            figures.operations += 1;
            for &row in members {
                self.rows.calls[row as usize].count(&mut figures);
            }
            let in_order = out_of_order.keys.is_empty()
                || members.iter().all(|call| !out_of_order.keys.contains(call));
            if in_order && case.is_plainly_fine(limit) {
                return;
            }
            let effects = case.effects().count() as u64;
            figures.duplicated += u64::from(effects > 1);
            figures.lost += u64::from(absence_proves && case.lost());
            case.judge(absence_proves, limit, &out_of_order.keys, &mut violations);
        });
        if figures.open > 0 && (limit.is_none() || !end.complete) {
            self.doubts
                .push(format!("{} calls have no end", figures.open));
        }
        let is_unanswered = figures.calls > 0 && figures.answered + figures.declined == 0;
        let nothing_else = violations.is_empty() && self.doubts.texts.is_empty();
        if is_unanswered {
            // Whoever answers nobody tells nobody two things.
            self.doubts.push(NOTHING_ANSWERED.into());
        }
        let doubts = self.doubts.told();
        let verdict = if !violations.is_empty() {
            Verdict::Violated
        } else if doubts.is_empty() {
            Verdict::Valid
        } else {
            Verdict::Unknown
        };
        let report = Report {
            verdict,
            violations,
            figures,
            money: None,
            doubts,
            is_only_unanswered: is_unanswered && nothing_else,
        };
        let report = report.with_defects(&end.defects);
        match &end.accounts {
            Some(closing) if end.complete => {
                let sums: BTreeMap<&str, i128> = self
                    .sums
                    .iter()
                    .map(|(account, &sum)| (account.as_str(), sum))
                    .collect();
                report.with_money(Money::of_sums(&self.header.opening, &sums, closing))
            }
            _ => report,
        }
    }

    fn invoked(&mut self, event: &Event, key: &str, payload: &[u8]) {
        let payload = sum(payload);
        if let Some(call) = self.rows.call_mut(event.call) {
            // A client that comes back goes on with what it had.
            call.came_back(event.at_us);
            let same = call.payload == payload;
            if !same || self.rows.key_of(event.call) != Some(key.as_bytes()) {
                self.doubts.push(format!(
                    "call {} was invoked again with another key or payload",
                    event.call
                ));
            }
            return;
        }
        self.rows
            .invoke(event.call, key.as_bytes(), payload, event.at_us);
    }

    fn call(&mut self, event: &Event, change: impl FnOnce(&mut Call)) {
        match self.rows.call_mut(event.call) {
            Some(call) => change(call),
            None => self.too_early(event),
        }
    }

    fn too_early(&mut self, event: &Event) {
        let (call, what) = (event.call, event.what.name());
        self.doubts
            .push(format!("call {call} was {what} before it was invoked"));
    }

    fn add(&mut self, account: &str, amount: i128) {
        if let Some(sum) = self.sums.get_mut(account) {
            *sum = sum.saturating_add(amount);
        } else {
            self.sums.insert(account.to_owned(), amount);
        }
    }

    /// For [`check`](super::check()), whose operations have no times.
    pub(super) fn rows_mut(&mut self) -> &mut Rows {
        &mut self.rows
    }
}

/// An ending, with its answer as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Answered(u64),
    Declined(u64),
    Refused,
    InDoubt,
    Unknown,
}

// === impl Told ===

impl Told {
    fn of(ending: &Ending) -> Self {
        match ending {
            Ending::Answered(answer) => Self::Answered(sum(answer)),
            Ending::Declined(answer) => Self::Declined(sum(answer)),
            Ending::Refused => Self::Refused,
            Ending::InDoubt => Self::InDoubt,
            Ending::Unknown => Self::Unknown,
        }
    }
}

// === impl Doubts ===

impl Doubts {
    fn push(&mut self, text: String) {
        if self.texts.len() < DOUBTS_MAX {
            self.texts.push(text);
        } else {
            self.more += 1;
        }
    }

    fn told(&mut self) -> Vec<String> {
        let mut texts = std::mem::take(&mut self.texts);
        if self.more > 0 {
            texts.push(format!("and {} more", self.more));
        }
        texts
    }
}

/// The sum that bytes are compared by, for names of accounts.
#[derive(Default)]
struct Spread(u64);

// === impl Spread ===

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = sum(bytes);
    }

    fn write_u8(&mut self, _end_of_text: u8) {}
}

/// Told of a run in which no client got an answer.
const NOTHING_ANSWERED: &str = "no call was answered, so that nothing is shown about answers";

/// How many reasons are told one by one.
const DOUBTS_MAX: usize = 8;
