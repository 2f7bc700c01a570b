//! Which attempt of which call meets which fault: pure data, and the function that decides.

use std::fmt;
use std::time::Duration;

use crate::seed::{Seed, digest};

/// What an attempt is about. The faults are drawn from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Exhaustive: closures build it, and decisions are drawn from exactly these.
pub struct Subject {
    /// The same number for all attempts of one call, another one for other calls.
    pub key: u64,
    /// Which try it is, from 1.
    pub attempt: u32,
}

/// What happens to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The answer waits for `base` plus up to `jitter`; the effect has happened by then.
    AnswerDelayed {
        /// What it waits at least.
        base: Duration,
        /// What is added at most, drawn for each attempt.
        jitter: Duration,
    },
    /// The service runs to its end, and its answer is thrown away.
    AnswerLost,
    /// The request waits for `base` plus up to `jitter` before the service sees it.
    RequestDelayed {
        /// What it waits at least.
        base: Duration,
        /// What is added at most, drawn for each attempt.
        jitter: Duration,
    },
    /// The service is never called.
    RequestLost,
}

/// The name of a [`Fault`] without its numbers, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// [`Fault::AnswerDelayed`].
    AnswerDelayed,
    /// [`Fault::AnswerLost`].
    AnswerLost,
    /// [`Fault::RequestDelayed`].
    RequestDelayed,
    /// [`Fault::RequestLost`].
    RequestLost,
}

/// One fault: on which attempts, of which key, how likely.
///
/// [`Rule::new`] is about every attempt of every key, for certain; the other methods narrow that.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a rule does nothing until it is in a plan"]
pub struct Rule {
    fault: Fault,
    attempts: Attempts,
    key: Option<u64>,
    probability: f64,
}

/// Rules of a [`FaultLayer`](super::FaultLayer). The empty plan, [`Plan::none`], does nothing.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "a plan does nothing until a layer has it"]
pub struct Plan {
    rules: Vec<Rule>,
}

/// What will happen to one attempt: a pure function of plan, seed and [`Subject`].
///
/// Delays come first on either side, so that what is delayed and lost is lost late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Script {
    /// What the request waits for. Delays of several rules add up.
    pub request_delay: Option<Duration>,
    /// Whether the service is never called.
    pub request_lost: bool,
    /// What the answer waits for. Delays of several rules add up.
    pub answer_delay: Option<Duration>,
    /// Whether the answer is thrown away.
    pub answer_lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempts {
    Every,
    First(u32),
    Nth(u32),
}

// === impl Subject ===

impl Subject {
    /// The subject of a key that is text or bytes.
    #[must_use]
    pub fn of_key(key: impl AsRef<[u8]>, attempt: u32) -> Self {
        Self {
            key: digest(key.as_ref()),
            attempt,
        }
    }
}

// === impl Fault ===

impl Fault {
    /// The fault's name without its numbers.
    #[must_use]
    pub const fn kind(self) -> FaultKind {
        match self {
            Self::AnswerDelayed { .. } => FaultKind::AnswerDelayed,
            Self::AnswerLost => FaultKind::AnswerLost,
            Self::RequestDelayed { .. } => FaultKind::RequestDelayed,
            Self::RequestLost => FaultKind::RequestLost,
        }
    }
}

// === impl FaultKind ===

impl FaultKind {
    /// The name for reports, such as `answer-lost`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AnswerDelayed => "answer-delayed",
            Self::AnswerLost => "answer-lost",
            Self::RequestDelayed => "request-delayed",
            Self::RequestLost => "request-lost",
        }
    }

    /// The phase in which it strikes. Numbers that never change: decisions are drawn from them.
    const fn phase(self) -> u64 {
        match self {
            Self::RequestDelayed => 1,
            Self::RequestLost => 2,
            Self::AnswerDelayed => 3,
            Self::AnswerLost => 4,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// === impl Rule ===

impl Rule {
    /// This fault on every attempt of every key.
    pub const fn new(fault: Fault) -> Self {
        Self {
            fault,
            attempts: Attempts::Every,
            key: None,
            probability: 1.0,
        }
    }

    /// Only the attempt with this number. The first one is 1; 0 is none.
    pub const fn nth(mut self, attempt: u32) -> Self {
        self.attempts = Attempts::Nth(attempt);
        self
    }

    /// Only the first `count` attempts of a call: "fail twice, then let it through".
    pub const fn first(mut self, count: u32) -> Self {
        self.attempts = Attempts::First(count);
        self
    }

    /// Only attempts of the call with this [`Subject::key`].
    pub const fn key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Only a share of the attempts, from 0 (none) to 1 (all). Not-a-number is none.
    ///
    /// An attempt that the rule hits at one probability is hit at every higher one.
    pub const fn probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// The name under which this rule draws: neither its place in the plan nor its numbers.
    fn id(&self) -> [u64; 5] {
        let (kind, count) = match self.attempts {
            Attempts::Every => (0, 0),
            Attempts::First(count) => (1, u64::from(count)),
            Attempts::Nth(attempt) => (2, u64::from(attempt)),
        };
        let (has_key, key) = self.key.map_or((0, 0), |key| (1, key));
        [self.fault.kind().phase(), kind, count, has_key, key]
    }

    fn fires(&self, seed: Seed, subject: Subject) -> bool {
        let attempt_meant = match self.attempts {
            Attempts::Every => true,
            Attempts::First(count) => subject.attempt <= count,
            Attempts::Nth(attempt) => subject.attempt == attempt,
        };
        attempt_meant
            && self.key.is_none_or(|key| key == subject.key)
            && seed.draw(&[FIRES]).happens(self.probability)
    }
}

// === impl Plan ===

impl Plan {
    /// No faults.
    pub const fn none() -> Self {
        Self { rules: Vec::new() }
    }

    /// This plan and one more rule. A rule that is added changes nothing for the others.
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// What happens to this attempt under this seed.
    #[must_use]
    pub fn script(&self, seed: Seed, subject: Subject) -> Script {
        let mut script = Script::default();
        for (index, rule) in self.rules.iter().enumerate() {
            // Twins would otherwise always fire together.
            let twins = self.rules[..index]
                .iter()
                .filter(|other| other.id() == rule.id())
                .count();
            let seed = seed.derive(&rule.id()).derive(&[
                twins as u64,
                subject.key,
                u64::from(subject.attempt),
            ]);
            if rule.fires(seed, subject) {
                script.add(rule.fault, seed);
            }
        }
        script
    }
}

impl FromIterator<Rule> for Plan {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        Self {
            rules: rules.into_iter().collect(),
        }
    }
}

// === impl Script ===

impl Script {
    fn add(&mut self, fault: Fault, seed: Seed) {
        match fault {
            Fault::AnswerDelayed { base, jitter } => {
                let earlier = self.answer_delay.unwrap_or_default();
                self.answer_delay = Some(earlier.saturating_add(jittered(seed, base, jitter)));
            }
            Fault::AnswerLost => self.answer_lost = true,
            Fault::RequestDelayed { base, jitter } => {
                let earlier = self.request_delay.unwrap_or_default();
                self.request_delay = Some(earlier.saturating_add(jittered(seed, base, jitter)));
            }
            Fault::RequestLost => self.request_lost = true,
        }
    }
}

fn jittered(seed: Seed, base: Duration, jitter: Duration) -> Duration {
    base.saturating_add(seed.draw(&[JITTER]).duration(jitter))
}

// Which decision of a rule is drawn.
const FIRES: u64 = 1;
const JITTER: u64 = 2;
