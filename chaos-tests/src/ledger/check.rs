//! The same checker for whoever has operations and effects instead of events.

use super::effects::Effects;
use super::history::{Ending, History};
use super::judge::Judge;
use super::report::Report;
use super::sum::sum;
use super::taking::{Noted, Told, What};
use crate::history::{RunEnd, RunHeader};

/// Holds what clients were told against what is on disk.
///
/// Operations have no times, so that nothing is said about the order of commits, about what was
/// executed after its time, or about what took too long: [`judge`](super::judge()) does, from a
/// [`RunRecord`](crate::history::RunRecord).
///
/// Time and memory are linear in the input. The order of the violations depends on nothing but
/// the order of the input.
pub fn check(history: &History, effects: &Effects) -> Report {
    let mut judge = Judge::new(RunHeader::default());
    for (ordinal, operation) in (1..).zip(&history.operations) {
        let mut take = |call, what, key: &[u8]| {
            let at_us = 0;
            judge.take(Noted { at_us, call, what }, key);
        };
        let payload = sum(&operation.payload);
        take(ordinal, What::Invoked { payload }, operation.key.as_bytes());
        take(ordinal, What::Received(operation.attempts), &[]);
        for ending in &operation.endings {
            take(ordinal, What::Ended(Told::of_operation(ending)), &[]);
        }
    }
    for (index, effect) in (1..).zip(&effects.effects) {
        let what = What::Effect {
            index,
            payload: sum(&effect.payload),
            answer: sum(&effect.answer),
            at_commit: false,
        };
        let (at_us, call) = (0, 0);
        judge.take(Noted { at_us, call, what }, effect.key.as_bytes());
    }
    judge.finish(&RunEnd {
        complete: !effects.incomplete,
        ..RunEnd::default()
    })
}

// === impl Told ===

impl Told {
    fn of_operation(ending: &Ending) -> Self {
        match ending {
            Ending::Answered(answer) => Self::Answered(sum(answer)),
            Ending::Declined(answer) => Self::Declined(sum(answer)),
            Ending::Refused => Self::Refused,
            Ending::InDoubt => Self::InDoubt,
            Ending::Unknown => Self::Unknown,
        }
    }
}
