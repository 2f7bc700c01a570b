//! The checker: takes a run event by event, and judges it at the end.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use super::call::NEVER;
use super::cases::{self, Case, Limit};
use super::groups::{Groups, Key, beside};
use super::money::Money;
use super::report::{Figures, Report, Verdict};
use super::rows::Rows;
use super::sum::sum;
use super::taking::{Noted, Taken, Taking, Told, What, processors};
use crate::history::{Event, Happened, OTHER_STORE, RunEnd, RunHeader, RunRecord, Seen};

/// Judges a run while it goes on, or a history while it is read.
///
/// Events are not kept: a call with its effect takes about 110 bytes and the bytes of its key. Payloads and answers
/// are compared by a digest of 64 bits, keys byte by byte. Time is linear in the events. A long run takes a second
/// thread, which ends with [`finish`](Self::finish), or when this is dropped.
#[derive(Debug)]
#[must_use = "a judge that is not asked is no check"]
pub struct Judge {
    header: RunHeader,
    taking: Taking,
    sums: HashMap<String, i128, BuildHasherDefault<Spread>>,
    /// When the last event was.
    watched_us: u64,
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
            taking: Taking::default(),
            sums,
            watched_us: 0,
        }
    }

    /// Takes the next event.
    pub fn event(&mut self, event: &Event) {
        self.watched_us = self.watched_us.max(event.at_us);
        let attempt = event.attempt.max(1);
        let (what, key) = match &event.what {
            Happened::Invoked { key, payload, .. } => {
                let payload = sum(payload);
                (What::Invoked { payload }, key.as_bytes())
            }
            Happened::Sent => (What::Sent(attempt), NO_KEY),
            Happened::Received => (What::Received(attempt), NO_KEY),
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
                let what = What::Effect {
                    index: *index,
                    payload: sum(payload),
                    answer: sum(answer),
                    at_commit: *seen == Seen::AtCommit,
                };
                (what, key.as_bytes())
            }
            Happened::Unrecorded => (What::Unrecorded, NO_KEY),
            Happened::Ended { ending } => (What::Ended(Told::of(ending)), NO_KEY),
            Happened::Swept { key } => (What::Swept, key.as_bytes()),
            Happened::Acknowledged => (What::Acknowledged, NO_KEY),
            Happened::FaultsEnded => (What::FaultsEnded, NO_KEY),
            Happened::Lifecycle { event: became, .. } if became == OTHER_STORE => {
                (What::OtherStore, NO_KEY)
            }
            Happened::Fault { .. } | Happened::Replied | Happened::Lifecycle { .. } => return,
        };
        let (at_us, call) = (event.at_us, event.call);
        self.taking.take(Noted { at_us, call, what }, key);
    }

    /// Judges, now that everything is told.
    pub fn finish(self, end: &RunEnd) -> Report {
        let Taken {
            mut rows,
            faults_ended_us,
            mut doubts,
        } = self.taking.end();
        if !end.complete {
            doubts.push("the final read did not reach the end".into());
        }
        if rows.calls.is_empty() {
            // A run that did nothing proves nothing.
            doubts.push("no call was made".into());
        }
        if self.header.resolve_within_ms.is_some() && faults_ended_us.is_none() {
            doubts.push(NEVER_ENDED.into());
        }
        let threads = match rows.calls.len() {
            ..MANY_CALLS => 1,
            MANY_CALLS.. => processors().min(THREADS_MAX),
        };
        let groups = Groups::join(&mut rows, threads);
        let limit =
            faults_ended_us
                .zip(self.header.resolve_within_ms)
                .map(|(ended_us, within_ms)| Limit {
                    ended_us,
                    within_us: within_ms.saturating_mul(1_000),
                    // A history that stops early says nothing about what came after it; one that was told to
                    // its end has nothing after it.
                    watched_us: if end.complete { NEVER } else { self.watched_us },
                });
        let (out_of_order, sighting) = beside(
            threads > 1,
            || cases::out_of_order(&rows, &groups),
            || Sighting::of(&rows, &groups, limit),
        );
        if let Some(index) = out_of_order.twice {
            doubts.push(format!("two effects are said to be commit {index}"));
        }
        let Sighting {
            mut figures,
            mut suspects,
        } = sighting;
        suspects.extend(out_of_order.keys.iter().map(|&row| Key::Asked(row)));
        suspects.sort_unstable();
        suspects.dedup();
        let mut violations = Vec::new();
        let absence_proves = end.complete;
        for key in suspects {
            groups.with(&rows, key, |members, effects| {
                let case = Case {
                    rows: &rows,
                    members,
                    effects,
                };
                let effects = case.effects().count() as u64;
                figures.duplicated += u64::from(effects > 1);
                figures.lost += u64::from(absence_proves && case.lost());
                case.judge(absence_proves, limit, &out_of_order.keys, &mut violations);
            });
        }
        if figures.open > 0 && (limit.is_none() || !end.complete) {
            doubts.push(format!("{} calls have no end", figures.open));
        }
        let is_unanswered = figures.calls > 0 && figures.answered + figures.declined == 0;
        let nothing_else = violations.is_empty() && doubts.is_empty();
        if is_unanswered {
            // Whoever answers nobody tells nobody two things.
            doubts.push(NOTHING_ANSWERED.into());
        }
        let doubts = doubts.told();
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

    fn add(&mut self, account: &str, amount: i128) {
        if let Some(sum) = self.sums.get_mut(account) {
            *sum = sum.saturating_add(amount);
        } else {
            self.sums.insert(account.to_owned(), amount);
        }
    }

    /// For [`check`](super::check()), whose operations have no times.
    pub(super) fn take(&mut self, noted: Noted, key: &[u8]) {
        self.taking.take(noted, key);
    }
}

/// What a look at every key has shown.
struct Sighting {
    figures: Figures,
    /// The keys that are not plainly fine.
    suspects: Vec<Key>,
}

// === impl Sighting ===

impl Sighting {
    fn of(rows: &Rows, groups: &Groups, limit: Option<Limit>) -> Self {
        let mut figures = Figures {
            calls: rows.calls.len() as u64,
            effects: rows.effects.len() as u64,
            ..Figures::default()
        };
        let mut suspects = Vec::new();
        groups.each(rows, |key, members, effects| {
            let case = Case {
                rows,
                members,
                effects,
            };
            figures.operations += 1;
            for &row in members {
                rows.calls[row as usize].count(&mut figures);
            }
            if !case.is_plainly_fine(limit) {
                suspects.push(key);
            }
        });
        Self { figures, suspects }
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

/// Told of a run that has a limit for what is stuck, and no time from which on it counts.
const NEVER_ENDED: &str = "it is not said when the faults ended, so that no call can be stuck";

/// Of an event that is about no key, or about the key of its call.
const NO_KEY: &[u8] = &[];

/// From so many calls on it is worth threads to look at them.
const MANY_CALLS: usize = 100_000;

/// More than these wait for memory, and not for a processor.
const THREADS_MAX: usize = 4;
