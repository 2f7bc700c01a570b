//! The words of the manual for what becomes of a call, and how each is seen.

use std::fmt;
use std::path::Path;

use onlyonce::storage::{KeyState, Scope, ScopedKey, SledStore, Store};

use super::scripts::method;
use crate::booked;
use crate::clients::key;
use crate::orders::Order;
use crate::till::Till;

/// What is found of a call when its store is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The answer is recorded, and the effect is there once.
    Answered,
    InDoubtEffectMade,
    InDoubtNoEffect,
    /// Nothing is recorded and no effect is there: the next attempt executes it.
    Runs,
    /// The key is impossible for ever.
    Sealed,
}

/// What the manual has words for: its own one, and the part of it before a comma where it leaves
/// open what is said behind that (*in doubt*).
pub trait Found: fmt::Display {
    /// Whether the word permits it, or one of several with *or* between.
    fn is_meant_by(&self, word: &str) -> bool {
        let found = self.to_string();
        let short = found.split(',').next();
        word.split(" or ")
            .any(|word| found == word || short == Some(word))
    }
}

// === impl Outcome ===

impl Outcome {
    /// Looks. Panics at what may never be: an effect of which the store knows nothing, two effects,
    /// an answer without its effect, a claim that is still held.
    pub async fn of(operation: u64, store: &SledStore, folder: &Path) -> Self {
        let order = Order { operation };
        let key = key(order);
        let scope = Scope::global().operation(method(order).name()).unwrap();
        let state = store.peek(ScopedKey::new(scope, key)).await.unwrap();
        match (state, effects(operation, store, folder).await) {
            (KeyState::Absent, 0) => Self::Runs,
            (KeyState::Completed(_), 1) => Self::Answered,
            (KeyState::InDoubt(_), 0) => Self::InDoubtNoEffect,
            (KeyState::InDoubt(_), 1) => Self::InDoubtEffectMade,
            (KeyState::Sealed { .. }, 0) => Self::Sealed,
            (state, effects) => panic!("operation {operation}: {state:?}, {effects} effects"),
        }
    }
}

impl Found for Outcome {}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered => "answered",
            Self::InDoubtEffectMade => "in doubt, effect made",
            Self::InDoubtNoEffect => "in doubt, no effect",
            Self::Runs => "runs",
            Self::Sealed => "sealed",
        })
    }
}

/// How often the effect of an operation is there, whichever handler made it.
pub async fn effects(operation: u64, store: &SledStore, folder: &Path) -> usize {
    let mut effects = Till::read(folder);
    effects.extend(booked::read_in(store).await);
    effects.iter().filter(|(of, _)| *of == operation).count()
}
