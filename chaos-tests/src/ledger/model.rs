//! The checker held against one that is slow and obvious, over runs of all kinds.

use std::collections::BTreeSet;

use super::judge;
use crate::history::{Ending, Event, Happened, OTHER_STORE, RunHeader, RunRecord, Seen};
use crate::seed::Seed;

type Found = BTreeSet<(String, String)>;

#[test]
fn the_judge_finds_what_a_slow_and_obvious_one_finds() {
    let mut broken = BTreeSet::new();
    let mut valid = 0;
    for seed in (0..6_000).map(Seed::new) {
        let record = run(seed);
        let expected = slowly(&record);
        let report = judge(&record);
        let found: Found = report
            .violations()
            .iter()
            .map(|one| {
                (
                    one.name().to_owned(),
                    one.key().map_or_else(String::new, ToString::to_string),
                )
            })
            .collect();
        assert_eq!(found, expected, "seed {seed}\n{record:#?}");
        assert_eq!(
            found.len(),
            report.violations().len(),
            "seed {seed}: told twice"
        );
        valid += u64::from(found.is_empty());
        broken.extend(found.into_iter().map(|(name, _)| name));
    }
    // Otherwise the two agree about nothing.
    assert_eq!(broken.len(), 10, "{broken:?}");
    assert!(valid > 100, "{valid}");
}

/// A few calls with few keys, payloads and answers, so that everything meets everything.
fn run(seed: Seed) -> RunRecord {
    let wild = seed.draw(&[0]).happens(0.7);
    let mut record = RunRecord::new(RunHeader {
        resolve_within_ms: seed.draw(&[1]).happens(0.7).then_some(0),
        ..RunHeader::new("drawn", "test", seed)
    });
    record.complete = seed.draw(&[2]).happens(0.8);
    let calls = seed.draw(&[3]).within(1..=5);
    let mut next_index = 0;
    for call in 1..=calls {
        let draw = |about: u64| seed.draw(&[4, call, about]);
        let pick = |about: u64, names: [&str; 3]| {
            names[draw(about).within(0..=if wild { 2 } else { 0 }) as usize].to_owned()
        };
        let key = if draw(0).happens(0.4) {
            pick(1, ["k", "l", "m"])
        } else {
            format!("key {call}")
        };
        let payload = pick(2, ["p", "p", "q"]).into_bytes();
        let answer = pick(3, ["ok", "ok", "OK"]).into_bytes();
        let begin = draw(4).within(0..=20);
        let mut push = |at_us: u64, what| {
            record.events.push(Event {
                at_us,
                call,
                attempt: 1,
                what,
            });
        };
        push(
            begin,
            Happened::Invoked {
                client: 1,
                key: key.clone(),
                payload: payload.clone(),
            },
        );
        if !wild || draw(5).happens(0.9) {
            push(begin, Happened::Sent);
        }
        if wild && draw(10).happens(0.3) {
            record.events.push(Event {
                at_us: begin + draw(11).within(1..=14),
                call,
                attempt: 2,
                what: Happened::Sent,
            });
        }
        let mut push = |at_us: u64, what| {
            record.events.push(Event {
                at_us,
                call,
                attempt: 1,
                what,
            });
        };
        let effects = draw(6).within(0..=if wild { 2 } else { 1 });
        for effect in 0..effects {
            next_index += 1;
            let stray = wild && draw(20 + effect).happens(0.2);
            let effect_key = if stray {
                pick(30 + effect, ["k", "n", "o"])
            } else {
                key.clone()
            };
            let at_us = begin
                + 1
                + if wild {
                    draw(40 + effect).within(0..=9)
                } else {
                    effect
                };
            let seen = if draw(50 + effect).happens(0.5) {
                Seen::AtCommit
            } else {
                Seen::AtTheEnd
            };
            push(
                at_us,
                Happened::Effect {
                    index: if wild { 100 - next_index } else { next_index },
                    key: effect_key,
                    payload: if wild && draw(60).happens(0.1) {
                        b"r".to_vec()
                    } else {
                        payload.clone()
                    },
                    answer: answer.clone(),
                    legs: vec![("a".into(), 1)],
                    seen,
                },
            );
        }
        if wild && draw(7).happens(0.2) {
            push(begin + 5, Happened::Acknowledged);
        }
        if wild && draw(8).happens(0.2) {
            push(begin + 5, Happened::Swept { key: key.clone() });
        }
        if wild && draw(12).happens(0.2) {
            let client_is_back = Happened::Invoked {
                client: 1,
                key: key.clone(),
                payload: payload.clone(),
            };
            push(begin + draw(13).within(1..=14), client_is_back);
        }
        if wild && draw(14).happens(0.2) {
            push(begin + draw(15).within(1..=14), Happened::Unrecorded);
        }
        for ending in 0..draw(9).within(u64::from(!wild)..=3) {
            let ending_at = begin + 4 + draw(70 + ending).within(0..=9);
            let ending = match draw(80 + ending).within(0..=if wild { 4 } else { 1 }) {
                0 if effects > 0 || wild => Ending::Answered(answer.clone()),
                0 | 1 => Ending::InDoubt,
                2 => Ending::Unknown,
                3 => Ending::Refused,
                _ => Ending::Declined(b"no".to_vec()),
            };
            push(ending_at, Happened::Ended { ending });
        }
    }
    if seed.draw(&[7]).happens(0.4) {
        // The server comes back with it, or a client is told so.
        record.events.push(Event {
            at_us: seed.draw(&[8]).within(0..=30),
            call: seed.draw(&[9]).within(0..=1),
            attempt: 0,
            what: Happened::Lifecycle {
                who: "server".into(),
                event: OTHER_STORE.into(),
            },
        });
    }
    // In the order of time, as runs are; what comes at one time stays in its order.
    record.events.sort_by_key(|event| event.at_us);
    if record.header.resolve_within_ms.is_some() {
        let at = seed.draw(&[5]).within(0..=record.events.len() as u64) as usize;
        let at_us = record.events.get(at).map_or(100, |event| event.at_us);
        let what = Happened::FaultsEnded;
        record.events.insert(
            at,
            Event {
                at_us,
                call: 0,
                attempt: 0,
                what,
            },
        );
    }
    let effects = record
        .events
        .iter()
        .filter(|event| matches!(event.what, Happened::Effect { .. }));
    let sum = effects.count() as i64;
    let sum = sum + i64::from(wild && seed.draw(&[6]).happens(0.1));
    record.accounts = Some([("a".to_owned(), sum)].into());
    record
}

/// All ten questions as they are put in words, each over all events of each key.
fn slowly(record: &RunRecord) -> Found {
    let mut found = Found::new();
    let keys: BTreeSet<&str> = record
        .events
        .iter()
        .filter_map(|event| match &event.what {
            Happened::Invoked { key, .. } | Happened::Effect { key, .. } => Some(key.as_str()),
            _ => None,
        })
        .collect();
    let all: Vec<Told<'_>> = keys.iter().map(|key| Told::new(record, key)).collect();
    for told in &all {
        told.judge(record, &all, &mut found);
    }
    let sum = all.iter().flat_map(|told| &told.effects).count() as i64;
    let expected = [("a".to_owned(), sum)].into();
    let none = sum == 0
        && record
            .accounts
            .as_ref()
            .is_some_and(|accounts| accounts["a"] == 0);
    if record.complete && !none && record.accounts != Some(expected) {
        found.insert(("fold-mismatch".to_owned(), String::new()));
    }
    found
}

struct Told<'a> {
    key: &'a str,
    calls: Vec<CallTold<'a>>,
    effects: Vec<EffectTold<'a>>,
    forgotten_us: Vec<u64>,
}

struct CallTold<'a> {
    ordinal: u64,
    payload: &'a [u8],
    sent: bool,
    invoked_us: u64,
    endings: Vec<EndingTold<'a>>,
}

#[derive(Clone, Copy)]
struct EndingTold<'a> {
    /// Its place among the events.
    at: usize,
    at_us: u64,
    ending: &'a Ending,
    /// When the client last began, came back or had an ending before this one.
    asked_us: u64,
    /// Whether no answer of the call was said not to be recorded since the last one.
    recorded: bool,
}

struct EffectTold<'a> {
    index: u64,
    payload: &'a [u8],
    answer: &'a [u8],
    at_us: Option<u64>,
}

impl<'a> Told<'a> {
    fn new(record: &'a RunRecord, key: &'a str) -> Self {
        let mut told = Self {
            key,
            calls: Vec::new(),
            effects: Vec::new(),
            forgotten_us: Vec::new(),
        };
        for event in &record.events {
            let of_call = || {
                record
                    .events
                    .iter()
                    .enumerate()
                    .filter(|(_, other)| other.call == event.call)
            };
            match &event.what {
                Happened::Invoked {
                    key: own, payload, ..
                } if own == key && told.calls.iter().all(|call| call.ordinal != event.call) => {
                    told.calls.push(CallTold {
                        ordinal: event.call,
                        payload,
                        sent: of_call().any(|(_, other)| other.what == Happened::Sent),
                        invoked_us: event.at_us,
                        endings: of_call()
                            .filter_map(|(at, other)| match &other.what {
                                Happened::Ended { ending } => {
                                    Some(EndingTold::new(record, event.call, at, ending))
                                }
                                _ => None,
                            })
                            .collect(),
                    });
                    told.forgotten_us.extend(
                        of_call()
                            .filter(|(_, other)| other.what == Happened::Acknowledged)
                            .map(|(_, other)| other.at_us),
                    );
                }
                Happened::Effect {
                    key: own,
                    index,
                    payload,
                    answer,
                    seen,
                    ..
                } if own == key => told.effects.push(EffectTold {
                    index: *index,
                    payload,
                    answer,
                    at_us: (*seen == Seen::AtCommit).then_some(event.at_us),
                }),
                Happened::Swept { key: own } if own == key => told.forgotten_us.push(event.at_us),
                _ => {}
            }
        }
        told.effects.sort_by_key(|effect| effect.index);
        told
    }

    fn endings(&self) -> impl Iterator<Item = (&CallTold<'a>, u64, &'a Ending)> {
        let of = |call| move |told: &EndingTold<'a>| (call, told.at_us, told.ending);
        self.calls
            .iter()
            .flat_map(move |call| call.endings.iter().map(of(call)))
    }

    fn answered_us(&self) -> Option<u64> {
        let answered = self
            .endings()
            .filter(|(_, _, ending)| matches!(ending, Ending::Answered(_)));
        answered.map(|(_, at_us, _)| at_us).min()
    }

    fn judge(&self, record: &RunRecord, all: &[Self], found: &mut Found) {
        let mut is = |name: &str, broken: bool| {
            if broken {
                found.insert((name.to_owned(), self.key.to_owned()));
            }
        };
        let answered = self.answered_us().is_some();
        is("double-apply", self.effects.len() > 1);
        is(
            "lost-acked",
            record.complete && answered && self.effects.is_empty(),
        );
        is(
            "reply-divergence",
            self.diverges() || self.answer_taken_back(record),
        );
        is(
            "false-negative",
            self.calls.iter().any(|call| self.denied(call)),
        );
        let phantom = !self.effects.is_empty() && !self.calls.iter().any(|call| call.sent);
        is("phantom", phantom);
        if phantom {
            return;
        }
        is("payload-swap", self.swapped());
        is("order", self.out_of_order(all));
        is(
            "zombie",
            self.effects.iter().any(|effect| {
                effect.at_us.is_some_and(|at_us| {
                    self.forgotten_us.iter().any(|&forgotten| at_us > forgotten)
                })
            }),
        );
        is("stuck", self.calls.iter().any(|call| stuck(record, call)));
    }

    fn definitive(&self) -> Vec<(&CallTold<'a>, &'a Ending)> {
        let all = self.endings().map(|(call, _, ending)| (call, ending));
        all.filter(|(_, ending)| matches!(ending, Ending::Answered(_) | Ending::Declined(_)))
            .collect()
    }

    fn diverges(&self) -> bool {
        let definitive = self.definitive();
        let differ = definitive
            .iter()
            .any(|(_, one)| definitive.iter().any(|(_, other)| one != other));
        let foreign = definitive.iter().any(|(_, ending)| match ending {
            Ending::Answered(answer) => {
                !self.effects.is_empty()
                    && self.effects.iter().all(|effect| effect.answer != answer)
            }
            _ => false,
        });
        differ || foreign
    }

    fn answer_taken_back(&self, record: &RunRecord) -> bool {
        let gone = |from_us: u64, until_us: u64| {
            record.events.iter().any(|event| {
                is_another_store(event)
                    && event.call == 0
                    && from_us <= event.at_us
                    && event.at_us <= until_us
            })
        };
        self.calls.iter().any(|call| {
            let denials = call.endings.iter().filter(|told| told.denies());
            denials.into_iter().any(|denial| {
                let mut answers: Vec<(bool, u64)> = Vec::new();
                for other in self.calls.iter().filter(|one| one.payload == call.payload) {
                    for answer in other.endings.iter().filter(|told| told.answers()) {
                        let own = other.ordinal == call.ordinal && answer.at < denial.at;
                        answers.push((own, answer.at_us));
                    }
                }
                let of_the_key = *denial.ending == Ending::InDoubt;
                let asked_after = answers
                    .iter()
                    .any(|&(own, at_us)| own || (of_the_key && at_us < denial.asked_us));
                let first_us = answers.iter().map(|&(_, at_us)| at_us).min().unwrap_or(0);
                let forgotten = self.forgotten_us.iter().any(|&us| us <= denial.at_us);
                asked_after && !forgotten && !gone(first_us, denial.at_us)
            })
        })
    }

    fn denied(&self, call: &CallTold<'_>) -> bool {
        let told = |call: &CallTold<'_>, wanted: fn(&Ending) -> bool| {
            call.endings.iter().any(|told| wanted(told.ending))
        };
        let refused = |call: &CallTold<'_>| told(call, |ending| *ending == Ending::Refused);
        let applied = self
            .effects
            .iter()
            .any(|effect| effect.payload == call.payload);
        let explained = |effect: &EffectTold<'_>| {
            self.calls.iter().any(|other| {
                other.sent
                    && !refused(other)
                    && other.payload == call.payload
                    && effect.at_us.is_none_or(|at_us| other.invoked_us <= at_us)
            })
        };
        let mut own = self.effects.iter();
        let unexplained = own.any(|effect| effect.payload == call.payload && !explained(effect));
        let answered = told(call, |ending| matches!(ending, Ending::Answered(_)));
        let declined = told(call, |ending| matches!(ending, Ending::Declined(_)));
        (declined && applied) || (refused(call) && (answered || unexplained))
    }

    fn swapped(&self) -> bool {
        let definitive = self.definitive();
        let owner = match self.effects.first() {
            Some(effect) => effect.payload,
            None => match definitive.first() {
                Some((call, _)) => call.payload,
                None => return false,
            },
        };
        let foreign = |payload| {
            !self
                .calls
                .iter()
                .any(|call| call.sent && call.payload == payload)
        };
        self.effects.iter().any(|effect| foreign(effect.payload))
            || definitive.iter().any(|(call, _)| call.payload != owner)
    }

    fn out_of_order(&self, all: &[Self]) -> bool {
        let invoked = self.calls.iter().map(|call| call.invoked_us).min();
        let (Some(effect), Some(invoked_us)) = (self.effects.first(), invoked) else {
            return false;
        };
        let early = effect.at_us.is_some_and(|at_us| at_us < invoked_us);
        let late = effect
            .at_us
            .zip(self.answered_us())
            .is_some_and(|(at_us, answered_us)| at_us > answered_us);
        let overtook = all.iter().any(|other| {
            let later = other
                .effects
                .first()
                .is_some_and(|first| first.index > effect.index);
            later
                && other
                    .answered_us()
                    .is_some_and(|answered_us| answered_us < invoked_us)
        });
        early || late || overtook
    }
}

fn stuck(record: &RunRecord, call: &CallTold<'_>) -> bool {
    let ended = record
        .events
        .iter()
        .position(|event| event.what == Happened::FaultsEnded);
    let (Some(ended), Some(within_ms)) = (ended, record.header.resolve_within_ms) else {
        return false;
    };
    let limit_us = record.events[ended].at_us.max(call.invoked_us) + within_ms * 1_000;
    let resolved = |until_us: u64| {
        call.endings
            .iter()
            .any(|told| *told.ending != Ending::Unknown && told.at_us <= until_us)
    };
    let last = call.endings.last();
    let gave_up = last.is_some_and(|last| {
        let later = || {
            let later = record.events[last.at + 1..].iter();
            later.filter(|event| event.call == call.ordinal)
        };
        let quiet = !later().any(|event| is_a_second_attempt(event) || is_invoked(event));
        let never_came_back = !later().any(is_invoked);
        let of_call = record.events[..last.at].iter();
        let nobody_knows = of_call
            .filter(|event| event.call == call.ordinal)
            .skip_while(|event| !is_invoked(event))
            .any(is_another_store);
        let for_good = (last.at < ended && quiet) || (nobody_knows && never_came_back);
        *last.ending == Ending::Unknown && for_good
    });
    let watched_us = record.events.iter().map(|event| event.at_us).max();
    let seen_to_the_limit = record.complete || watched_us.is_some_and(|at_us| at_us > limit_us);
    let ever = resolved(u64::MAX);
    !gave_up && !resolved(limit_us) && (ever || seen_to_the_limit)
}

fn is_a_second_attempt(event: &Event) -> bool {
    event.what == Happened::Sent && event.attempt == 2
}

fn is_invoked(event: &Event) -> bool {
    matches!(event.what, Happened::Invoked { .. })
}

fn is_another_store(event: &Event) -> bool {
    matches!(&event.what, Happened::Lifecycle { event, .. } if event == OTHER_STORE)
}

// === impl EndingTold ===

impl<'a> EndingTold<'a> {
    fn new(record: &'a RunRecord, call: u64, at: usize, ending: &'a Ending) -> Self {
        let before = || {
            record.events[..at]
                .iter()
                .filter(|event| event.call == call)
        };
        let asked = before().rfind(|event| {
            matches!(
                event.what,
                Happened::Invoked { .. } | Happened::Ended { .. }
            )
        });
        let mut recorded = true;
        for event in before() {
            match &event.what {
                Happened::Unrecorded => recorded = false,
                Happened::Ended {
                    ending: Ending::Answered(_) | Ending::Declined(_),
                } => recorded = true,
                _ => {}
            }
        }
        Self {
            at,
            at_us: record.events[at].at_us,
            ending,
            asked_us: asked.map_or(0, |event| event.at_us),
            recorded,
        }
    }

    fn denies(&self) -> bool {
        matches!(self.ending, Ending::InDoubt | Ending::Refused)
    }

    /// Whether it is an answer that was recorded.
    fn answers(&self) -> bool {
        self.recorded && matches!(self.ending, Ending::Answered(_) | Ending::Declined(_))
    }
}
