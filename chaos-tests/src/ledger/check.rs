//! The same checker for whoever has operations and effects instead of events.

use super::effects::Effects;
use super::history::{Ending, History};
use super::judge::{Judge, Told};
use super::report::Report;
use super::rows::Effect;
use super::sum::sum;
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
    let rows = judge.rows_mut();
    for (ordinal, operation) in (1..).zip(&history.operations) {
        rows.invoke(
            ordinal,
            operation.key.as_bytes(),
            sum(&operation.payload),
            0,
        );
        let Some(call) = rows.call_mut(ordinal) else {
            continue;
        };
        call.attempts = operation.attempts;
        for ending in &operation.endings {
            rows.end(ordinal, 0, Told::of_operation(ending), true);
        }
    }
    for (index, effect) in (1..).zip(&effects.effects) {
        let row = Effect::new(&effect.payload, &effect.answer, index, None);
        rows.effect(0, effect.key.as_bytes(), row);
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
