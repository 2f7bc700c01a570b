//! What is on disk at the end.

use bytes::Bytes;

use super::history::OperationKey;

/// One effect, as it was found: recorded in the same durable commit as what it did, or in a sink
/// that the harness owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    pub(super) key: OperationKey,
    pub(super) payload: Bytes,
    pub(super) answer: Bytes,
}

/// All effects of a run, in commit order.
///
/// Collect them after the last fault, when no attempt can be under way any more: an effect that
/// comes later is one that the checker never sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    pub(super) effects: Vec<Effect>,
    pub(super) incomplete: bool,
}

// === impl Effect ===

impl Effect {
    /// What was done for this key, with the answer that was stored along with it.
    #[must_use]
    pub fn new(
        key: impl Into<OperationKey>,
        payload: impl Into<Bytes>,
        answer: impl Into<Bytes>,
    ) -> Self {
        Self {
            key: key.into(),
            payload: payload.into(),
            answer: answer.into(),
        }
    }
}

// === impl Effects ===

impl Effects {
    /// Nothing has happened.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            effects: Vec::new(),
            incomplete: false,
        }
    }

    /// Adds the effect that was committed after those before it.
    pub fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Says that the final read did not reach the end.
    ///
    /// Then the absence of an effect proves nothing: `lost-acked` is not reported, and a run
    /// without other violations is [`Verdict::Unknown`](super::Verdict::Unknown).
    #[must_use]
    pub fn incomplete(mut self) -> Self {
        self.incomplete = true;
        self
    }

    /// How many effects there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.effects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }
}

impl Extend<Effect> for Effects {
    fn extend<I: IntoIterator<Item = Effect>>(&mut self, effects: I) {
        self.effects.extend(effects);
    }
}

impl FromIterator<Effect> for Effects {
    fn from_iter<I: IntoIterator<Item = Effect>>(effects: I) -> Self {
        Self {
            effects: effects.into_iter().collect(),
            incomplete: false,
        }
    }
}
