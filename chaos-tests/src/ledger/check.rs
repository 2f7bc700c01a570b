//! The checker itself.

use std::collections::HashMap;

use bytes::Bytes;

use super::effects::{Effect, Effects};
use super::history::{Ending, History, Operation, OperationKey};
use super::report::{Figures, Report, Verdict, Violation};

/// Holds what clients were told against what is on disk.
///
/// Time and memory are linear in the input. The order of the violations depends on nothing but
/// the order of the input.
pub fn check(history: &History, effects: &Effects) -> Report {
    let entries = group(history, effects);
    let mut figures = Figures {
        calls: history.operations.len() as u64,
        operations: entries.len() as u64,
        effects: effects.effects.len() as u64,
        ..Figures::default()
    };
    for operation in &history.operations {
        figures.count(operation);
    }
    let absence_proves = !effects.incomplete;
    let mut violations = Vec::new();
    for entry in &entries {
        figures.duplicated += u64::from(entry.effects.len() > 1);
        figures.lost += u64::from(absence_proves && entry.lost());
        entry.judge(absence_proves, &mut violations);
    }
    let verdict = if !violations.is_empty() {
        Verdict::Violated
    } else if effects.incomplete || figures.open > 0 || history.is_empty() {
        // A run that did nothing proves nothing.
        Verdict::Unknown
    } else {
        Verdict::Valid
    };
    Report {
        verdict,
        violations,
        figures,
        money: None,
    }
}

/// Everything about one key.
#[derive(Debug)]
struct Entry<'a> {
    key: &'a OperationKey,
    operations: Vec<&'a Operation>,
    effects: Vec<&'a Effect>,
}

fn group<'a>(history: &'a History, effects: &'a Effects) -> Vec<Entry<'a>> {
    // Only looked up, never walked: what is reported stays in the order of the input.
    let mut places: HashMap<&OperationKey, usize> = HashMap::new();
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let mut place = |key: &'a OperationKey, entries: &mut Vec<Entry<'a>>| {
        *places.entry(key).or_insert_with(|| {
            entries.push(Entry {
                key,
                operations: Vec::new(),
                effects: Vec::new(),
            });
            entries.len() - 1
        })
    };
    for operation in &history.operations {
        let place = place(&operation.key, &mut entries);
        entries[place].operations.push(operation);
    }
    for effect in &effects.effects {
        let place = place(&effect.key, &mut entries);
        entries[place].effects.push(effect);
    }
    entries
}

// === impl Entry ===

impl Entry<'_> {
    fn judge(&self, absence_proves: bool, violations: &mut Vec<Violation>) {
        let key = || self.key.clone();
        if self.effects.len() > 1 {
            violations.push(Violation::DoubleApply {
                key: key(),
                effects: self.effects.len(),
            });
        }
        if absence_proves && self.lost() {
            violations.push(Violation::LostAcked { key: key() });
        }
        if self.replies_diverge() {
            violations.push(Violation::ReplyDivergence { key: key() });
        }
        if self
            .operations
            .iter()
            .any(|operation| self.denied_in_vain(operation))
        {
            violations.push(Violation::FalseNegative { key: key() });
        }
        if self.phantom() {
            // Its payload has nothing to be compared with.
            violations.push(Violation::Phantom { key: key() });
        } else if self.payloads_swapped() {
            violations.push(Violation::PayloadSwap { key: key() });
        }
    }

    fn lost(&self) -> bool {
        self.effects.is_empty()
            && self
                .operations
                .iter()
                .any(|operation| operation.is_answered())
    }

    fn replies_diverge(&self) -> bool {
        let mut answers = self
            .operations
            .iter()
            .flat_map(|operation| operation.definitive());
        let Some(first) = answers.next() else {
            return false;
        };
        if answers.any(|answer| answer != first) {
            return true;
        }
        let Definitive::Answered(answer) = first else {
            // That there is an effect all the same is a false negative.
            return false;
        };
        // With none at all the answer is lost, not another one. With several (which is told by
        // itself) it is one of theirs.
        !self.effects.is_empty() && self.effects.iter().all(|effect| effect.answer != answer)
    }

    /// Whether this operation was told that it has no effect, and it has.
    ///
    /// A twin that may have been executed explains the effect as well: then a refusal still speaks
    /// the truth about its own attempts. Not so an answer of the key as a whole.
    fn denied_in_vain(&self, operation: &Operation) -> bool {
        let has_effect = self
            .effects
            .iter()
            .any(|effect| effect.payload == operation.payload);
        if has_effect && operation.is_declined() {
            return true;
        }
        if !operation.is_refused() {
            return false;
        }
        operation.is_answered() || (has_effect && !self.has_other_cause(operation))
    }

    fn has_other_cause(&self, refused: &Operation) -> bool {
        self.operations.iter().any(|other| {
            other.attempts > 0 && other.payload == refused.payload && !other.is_refused()
        })
    }

    fn phantom(&self) -> bool {
        !self.effects.is_empty()
            && self
                .operations
                .iter()
                .all(|operation| operation.attempts == 0)
    }

    /// Whether payloads of this key were mixed up: an effect of a payload that nobody sent, or a
    /// definitive answer for a payload other than the one that owns the key.
    fn payloads_swapped(&self) -> bool {
        let sent = self
            .operations
            .iter()
            .filter(|operation| operation.attempts > 0);
        let foreign = self.effects.iter().any(|effect| {
            sent.clone()
                .all(|operation| operation.payload != effect.payload)
        });
        let settled = || {
            self.operations
                .iter()
                .filter(|operation| operation.definitive().next().is_some())
        };
        let Some(owner) = self
            .effects
            .first()
            .map(|effect| &effect.payload)
            .or_else(|| settled().next().map(|operation| &operation.payload))
        else {
            return false;
        };
        foreign || settled().any(|operation| operation.payload != *owner)
    }
}

/// An answer that settles the key for ever.
#[derive(PartialEq)]
enum Definitive<'a> {
    Answered(&'a Bytes),
    Declined(&'a Bytes),
}

// === impl Operation ===

impl Operation {
    fn definitive(&self) -> impl Iterator<Item = Definitive<'_>> {
        self.endings.iter().filter_map(|ending| match ending {
            Ending::Answered(answer) => Some(Definitive::Answered(answer)),
            Ending::Declined(answer) => Some(Definitive::Declined(answer)),
            Ending::InDoubt | Ending::Refused | Ending::Unknown => None,
        })
    }

    fn is_answered(&self) -> bool {
        self.endings
            .iter()
            .any(|ending| matches!(ending, Ending::Answered(_)))
    }

    fn is_declined(&self) -> bool {
        self.endings
            .iter()
            .any(|ending| matches!(ending, Ending::Declined(_)))
    }

    fn is_refused(&self) -> bool {
        self.endings.contains(&Ending::Refused)
    }
}

// === impl Figures ===

impl Figures {
    /// Counts a call once, by the most that its client got to know.
    fn count(&mut self, operation: &Operation) {
        self.attempts += u64::from(operation.attempts);
        let counter = if operation.is_answered() {
            &mut self.answered
        } else if operation.is_declined() {
            &mut self.declined
        } else if operation.is_refused() {
            &mut self.refused
        } else if operation.endings.contains(&Ending::InDoubt) {
            &mut self.in_doubt
        } else if operation.endings.is_empty() {
            &mut self.open
        } else {
            &mut self.unknown
        };
        *counter += 1;
    }
}
