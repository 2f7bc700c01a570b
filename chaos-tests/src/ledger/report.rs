//! What the checker found.

use std::fmt;

use super::history::OperationKey;
use super::money::{AccountDifference, Money};
use crate::history::Defect;

/// Whether a run kept the promise.
///
/// Ordered by weight: where verdicts meet, the greater one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
// Exhaustive: whoever turns it into an exit code must not forget one.
pub enum Verdict {
    /// Everything was checked and nothing was wrong.
    Valid,
    /// Nothing was wrong as far as could be seen, but not everything could be seen.
    Unknown,
    /// The promise was broken.
    Violated,
}

/// One broken invariant. A key is named at most once for each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// The effect of a key happened more than once.
    DoubleApply {
        /// Whose effect.
        key: OperationKey,
        /// How often it happened.
        effects: usize,
    },
    /// A client was told that an operation has no effect, and the effect is there.
    FalseNegative {
        /// Whose effect.
        key: OperationKey,
    },
    /// The executor has seen what a service must never do, and what no event shows.
    Defect(Defect),
    /// An account is not what the effects make of it.
    FoldMismatch(AccountDifference),
    /// A client has an answer that promises an effect, and there is none.
    LostAcked {
        /// Whose effect.
        key: OperationKey,
    },
    /// An effect happened before it was asked for, after it was answered, or in front of one that
    /// was answered before this one was asked for.
    Order {
        /// Whose effect.
        key: OperationKey,
    },
    /// The effect, or a definitive answer, belongs to another payload than was asked for.
    PayloadSwap {
        /// Whose payload.
        key: OperationKey,
    },
    /// An effect that no attempt has asked for.
    Phantom {
        /// Whose effect.
        key: OperationKey,
    },
    /// Answers of a key differ among themselves or from what is stored with the effect, or one was
    /// given, and whoever asked after that was told that nobody knows.
    ReplyDivergence {
        /// Whose answers.
        key: OperationKey,
    },
    /// A call was still open too long after the faults had ended.
    Stuck {
        /// Whose call.
        key: OperationKey,
        /// The ordinal of the first such call of the key.
        call: u64,
        /// How many calls of the key are stuck, that one included.
        calls: usize,
    },
    /// An effect happened after the server was allowed to forget the key: the attempt should have
    /// been refused.
    Zombie {
        /// Whose effect.
        key: OperationKey,
    },
}

/// The run in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// Operations of the history; twins count each.
    pub calls: u64,
    /// Attempts that were sent.
    pub attempts: u64,
    /// Distinct keys, of the history and of the effects.
    pub operations: u64,
    /// Effects that were found.
    pub effects: u64,
    /// Keys whose effect happened more than once.
    pub duplicated: u64,
    /// Keys with an answer that promises an effect, and without the effect.
    pub lost: u64,
    /// Calls with an answer that promises the effect, whatever came before it.
    pub answered: u64,
    /// Calls with a definitive answer without an effect.
    pub declined: u64,
    /// Calls that were told that they were never executed.
    pub refused: u64,
    /// Calls that know no better than that the server does not know.
    pub in_doubt: u64,
    /// Calls that learned nothing.
    pub unknown: u64,
    /// Calls whose end was never recorded.
    pub open: u64,
}

/// What the checker found: a verdict, the violations behind it, and figures.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a report that nobody reads is no check"]
pub struct Report {
    pub(super) verdict: Verdict,
    pub(super) violations: Vec<Violation>,
    pub(super) figures: Figures,
    pub(super) money: Option<Money>,
    pub(super) doubts: Vec<String>,
    pub(super) is_only_unanswered: bool,
}

// === impl Verdict ===

impl Verdict {
    /// The verdict on two things together: violated outranks unknown, unknown outranks valid.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.max(other)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Valid => "valid",
            Self::Unknown => "unknown",
            Self::Violated => "violated",
        })
    }
}

// === impl Violation ===

impl Violation {
    /// The name of the kind, such as `double-apply`.
    #[must_use]
    pub const fn name(&self) -> &str {
        match self {
            Self::Defect(defect) => defect.name.as_str(),
            Self::DoubleApply { .. } => "double-apply",
            Self::FalseNegative { .. } => "false-negative",
            Self::FoldMismatch(_) => "fold-mismatch",
            Self::LostAcked { .. } => "lost-acked",
            Self::Order { .. } => "order",
            Self::PayloadSwap { .. } => "payload-swap",
            Self::Phantom { .. } => "phantom",
            Self::ReplyDivergence { .. } => "reply-divergence",
            Self::Stuck { .. } => "stuck",
            Self::Zombie { .. } => "zombie",
        }
    }

    /// Which of the ten invariants is broken, such as `I1`; `defect` for what is none of them.
    #[must_use]
    pub const fn invariant(&self) -> &'static str {
        match self {
            Self::DoubleApply { .. } => "I1",
            Self::LostAcked { .. } => "I2",
            Self::ReplyDivergence { .. } => "I3",
            Self::FalseNegative { .. } => "I4",
            Self::Phantom { .. } => "I5",
            Self::PayloadSwap { .. } => "I6",
            Self::FoldMismatch(_) => "I7",
            Self::Order { .. } => "I8",
            Self::Zombie { .. } => "I9",
            Self::Stuck { .. } => "I10",
            Self::Defect(_) => "defect",
        }
    }

    /// The key that it is about; an account's mismatch and a defect are about none.
    #[must_use]
    pub const fn key(&self) -> Option<&OperationKey> {
        match self {
            Self::DoubleApply { key, .. }
            | Self::FalseNegative { key }
            | Self::LostAcked { key }
            | Self::Order { key }
            | Self::PayloadSwap { key }
            | Self::Phantom { key }
            | Self::ReplyDivergence { key }
            | Self::Stuck { key, .. }
            | Self::Zombie { key } => Some(key),
            Self::Defect(_) | Self::FoldMismatch(_) => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::DoubleApply { key, effects } => write!(f, "{name}: {key} ({effects} effects)"),
            Self::Defect(defect) => write!(f, "{name}: {}", defect.text),
            Self::FoldMismatch(difference) => write!(f, "{name}: {difference}"),
            Self::FalseNegative { key }
            | Self::LostAcked { key }
            | Self::Order { key }
            | Self::PayloadSwap { key }
            | Self::Phantom { key }
            | Self::ReplyDivergence { key }
            | Self::Zombie { key } => write!(f, "{name}: {key}"),
            Self::Stuck { key, call, calls } => {
                write!(f, "{name}: call {call} of {key}")?;
                match calls.saturating_sub(1) {
                    0 => Ok(()),
                    more => write!(f, ", and {more} more of its calls"),
                }
            }
        }
    }
}

// === impl Figures ===

impl Figures {
    /// The duplicate side-effect violation rate: keys whose effect happened more than once, of all
    /// keys. From 0 to 1; 0 where there are no keys.
    #[must_use]
    pub fn dsevr(&self) -> f64 {
        if self.operations == 0 {
            return 0.0;
        }
        self.duplicated as f64 / self.operations as f64
    }

    /// Adds the numbers of another run, whose keys are other ones.
    pub const fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.attempts += other.attempts;
        self.operations += other.operations;
        self.effects += other.effects;
        self.duplicated += other.duplicated;
        self.lost += other.lost;
        self.answered += other.answered;
        self.declined += other.declined;
        self.refused += other.refused;
        self.in_doubt += other.in_doubt;
        self.unknown += other.unknown;
        self.open += other.open;
    }
}

// === impl Report ===

impl Report {
    /// Whether the promise was kept.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What was broken: by key in the order in which keys first appear, then defects, then by account.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The run in numbers.
    #[must_use]
    pub const fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Why the run could not be judged in full. With one of these it is not valid.
    #[must_use]
    pub fn doubts(&self) -> &[String] {
        &self.doubts
    }

    /// Whether nothing keeps the run from being valid but that no call of it was answered. Of a run of
    /// one call or two that may be right: whether it is too often shows a sum over many of them.
    #[must_use]
    pub const fn is_only_unanswered(&self) -> bool {
        self.is_only_unanswered
    }

    /// The money of the run, if it was checked.
    #[must_use]
    pub const fn money(&self) -> Option<&Money> {
        self.money.as_ref()
    }

    /// Adds what the check of the money found, to the violations and to the verdict.
    pub fn with_money(mut self, money: Money) -> Self {
        self.verdict = self.verdict.and(money.verdict());
        self.violations.extend(
            money
                .differences()
                .iter()
                .cloned()
                .map(Violation::FoldMismatch),
        );
        self.money = Some(money);
        self.is_only_unanswered &= self.verdict != Verdict::Violated;
        self
    }

    /// Adds what the executor has seen to the violations and to the verdict.
    pub(super) fn with_defects(mut self, defects: &[Defect]) -> Self {
        if !defects.is_empty() {
            self.verdict = Verdict::Violated;
            self.is_only_unanswered = false;
        }
        self.violations
            .extend(defects.iter().cloned().map(Violation::Defect));
        self
    }
}

/// The verdict, the figures in one line, and the first violations.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures {
            operations,
            duplicated,
            lost,
            in_doubt,
            unknown,
            open,
            ..
        } = self.figures;
        write!(
            f,
            "{}: {operations} operations, {duplicated} duplicated, {lost} lost, \
             {in_doubt} in doubt, {unknown} unknown, {open} open",
            self.verdict
        )?;
        for doubt in &self.doubts {
            write!(f, "\n  unknown because {doubt}")?;
        }
        for violation in self.violations.iter().take(VIOLATIONS_SHOWN) {
            write!(f, "\n  {violation}")?;
        }
        match self.violations.len().saturating_sub(VIOLATIONS_SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// As many as can be read on one screen; the rest is counted, never left out in silence.
const VIOLATIONS_SHOWN: usize = 20;
