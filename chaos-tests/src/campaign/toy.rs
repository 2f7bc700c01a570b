//! An executor for the tests of this crate: a service that is a function, and a wire that drops.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::executor::{Executor, HarnessError, NotRun};
use crate::fault::{Fault, Phase, Place, Subject};
use crate::history::{Ending, Event, Fired, Happened, RunHeader, RunRecord, Seen, in_vain};
use crate::scenario::{Mode, Scenario};
use crate::seed::Seed;
use crate::workload::{Books, Order, Plan, Reply};

#[derive(Debug, Default)]
pub(crate) struct Toy {
    /// It forgets what it has done.
    pub(crate) broken: bool,
    /// It is a little later each time that it runs.
    pub(crate) drifts: Option<AtomicU64>,
    /// It cannot run.
    pub(crate) fails: bool,
    /// It cannot run without dedupe.
    pub(crate) never_naive: bool,
    /// Its wire loses nothing: what is let strike does so in vain.
    pub(crate) numb: bool,
    /// What it is called, where there are several.
    pub(crate) name: Option<&'static str>,
    /// Its books cannot be read after odd seeds.
    pub(crate) unread: bool,
}

impl Executor for Toy {
    fn name(&self) -> &'static str {
        self.name.unwrap_or("toy")
    }

    fn can(&self, scenario: &Scenario) -> Result<(), NotRun> {
        match self.never_naive && scenario.mode == Mode::Naive {
            true => Err(NotRun::because("it always dedupes")),
            false => Ok(()),
        }
    }

    fn can_fault(&self, _: &Scenario, fault: &Fault) -> Result<(), NotRun> {
        match fault.place {
            Place::Wire => Ok(()),
            place => Err(NotRun::because(format!("it has no {place}"))),
        }
    }

    fn repeats(&self) -> bool {
        true
    }

    fn run(&self, scenario: &Scenario, seed: Seed) -> Result<RunRecord, HarnessError> {
        if self.fails {
            return Err(HarnessError::other("out of order"));
        }
        let plan = Plan::new(scenario, seed);
        let naive = scenario.mode == Mode::Naive;
        let mut record = RunRecord::new(RunHeader {
            naive,
            opening: plan.opening.clone(),
            ..RunHeader::new(&scenario.name, "toy", seed)
        });
        let mut books = Books::new(plan.opening.clone());
        let mut stored: BTreeMap<&str, (&[u8], Ending)> = BTreeMap::new();
        let mut now_us = self
            .drifts
            .as_ref()
            .map_or(0, |runs| runs.fetch_add(1, Ordering::Relaxed));
        let mut index = 0;
        for planned in &plan.calls {
            let (call, key, payload) = (planned.call, &planned.key, &planned.payload);
            let note = |record: &mut RunRecord, at_us: &mut u64, attempt, what| {
                *at_us += 1_000;
                let at_us = *at_us;
                record.events.push(Event {
                    at_us,
                    call,
                    attempt,
                    what,
                });
            };
            let invoked = Happened::Invoked {
                client: planned.client,
                key: key.clone(),
                payload: payload.clone(),
            };
            note(&mut record, &mut now_us, 0, invoked);
            let mut ending = Ending::Unknown;
            for attempt in 1..=20 {
                let at = Duration::from_micros(now_us);
                let would = |phase| {
                    let subject = Subject {
                        call,
                        attempt,
                        phase,
                        at,
                    };
                    scenario
                        .faults
                        .iter()
                        .find(|fault| fault.strikes(seed, subject).is_some())
                };
                let strikes = |phase| would(phase).filter(|_| !self.numb);
                note(&mut record, &mut now_us, attempt, Happened::Sent);
                let mut lost = None;
                let known = stored.get(key.as_str()).filter(|_| !naive && !self.broken);
                let told = match (strikes(Phase::RequestSent), known) {
                    (Some(fault), _) => {
                        lost = Some((fault, Phase::RequestSent));
                        None
                    }
                    (None, Some((first, _))) if first != payload => Some(Ending::Refused),
                    (None, Some((_, ending))) => Some(ending.clone()),
                    (None, None) => {
                        let order = Order::parse(payload).map_err(HarnessError::other)?;
                        let ending = match books.apply(&order) {
                            Reply::Applied { answer, legs } => {
                                index += 1;
                                let effect = Happened::Effect {
                                    index,
                                    key: key.clone(),
                                    payload: payload.clone(),
                                    answer: answer.clone(),
                                    legs,
                                    seen: Seen::AtCommit,
                                };
                                note(&mut record, &mut now_us, attempt, effect);
                                Ending::Answered(answer)
                            }
                            Reply::Declined { answer } => Ending::Declined(answer),
                        };
                        stored.insert(key, (payload, ending.clone()));
                        Some(ending)
                    }
                };
                if told.is_some()
                    && let Some(fault) = strikes(Phase::ReplySent)
                {
                    lost = Some((fault, Phase::ReplySent));
                }
                if let Some(fault) = would(Phase::ReplySent).filter(|_| self.numb) {
                    let (name, what) = (fault.name.clone(), in_vain(fault.what));
                    let phase = Phase::ReplySent;
                    let tried = Happened::Fault { name, what, phase };
                    note(&mut record, &mut now_us, attempt, tried);
                }
                if let Some((fault, phase)) = lost {
                    let (name, what) = (fault.name.clone(), fault.what.name().to_owned());
                    let fired: &mut Fired = record.fired.entry(name.clone()).or_default();
                    fired.struck += 1;
                    fired.affected += 1;
                    note(
                        &mut record,
                        &mut now_us,
                        attempt,
                        Happened::Fault { name, what, phase },
                    );
                } else if let Some(told) = told {
                    ending = told;
                    break;
                }
            }
            note(&mut record, &mut now_us, 0, Happened::Ended { ending });
        }
        record.accounts = Some(books.accounts().clone());
        record.complete = !(self.unread && seed.value() % 2 == 1);
        Ok(record.seal())
    }
}
