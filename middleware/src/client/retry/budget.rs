//! How many retries a destination is sent, whatever the calls would like.
//!
//! The rule: retries are a share of the calls that succeed, plus a small reserve a second. When
//! the destination is gone there are no successes, so what is left is the reserve: at 1,000 calls a
//! second a total outage raises the load by 1 %, where three attempts without a budget treble it.
//!
//! Why not a limit per call: three attempts are three times the load for everybody at once, which
//! is what keeps an overloaded destination down.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What one retry costs. Everything is counted in thousandths of a retry, in integers, so that no
/// share is rounded (a ratio kept as a fraction of integers turns 0.6 into 1).
const RETRY_MILLIS: u64 = 1000;

/// How long what a call earned can be spent: long enough to ride over a pause between calls, short
/// enough that yesterday's successes do not pay for today's outage.
const WINDOW_SECS: usize = 10;

/// How many seconds of the reserve can be saved up. More would all be spent at the start of an
/// outage; less would refuse the one retry of a program that makes few calls.
const RESERVE_SECS: u64 = 1;

/// The retries that calls to one destination may make. Clones share it.
///
/// Checked and spent in one step; it fills again with time and with successful calls.
///
/// Use one for each destination: a dead one would eat what the others have earned.
#[derive(Clone)]
pub struct RetryBudget {
    shared: Option<Arc<Shared>>,
}

/// The numbers of a [`RetryBudget`]. A literal has to name them all; that is why it may be written
/// as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudgetOptions {
    /// Which calls earn.
    pub earned_by: EarnedBy,
    /// How many retries 1,000 of those calls earn. What is earned can be spent for 10 s. 200
    /// (default).
    pub retries_per_1000_calls: u32,
    /// How many retries a second there are without earning them. One second's worth can be saved
    /// up, and is there from the start. 10 (default).
    pub reserve_per_second: u32,
}

/// Which calls earn retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarnedBy {
    /// Every call, when it begins: a constant share of the load, also in a total outage.
    EveryCall,
    /// A call that was answered (default): in a total outage only the reserve is left.
    SuccessfulCalls,
}

/// A retry taken from a [`RetryBudget`]: put back when it is dropped, unless it was sent.
#[must_use = "dropping it puts the retry back into the budget"]
pub struct Withdrawal {
    shared: Option<Arc<Shared>>,
    earned: u64,
    reserve: u64,
    sent: bool,
}

struct Shared {
    options: RetryBudgetOptions,
    purse: Mutex<Purse>,
}

/// What can be spent, in thousandths of a retry.
struct Purse {
    started: Instant,
    /// What was earned in each of the last seconds; a second's place is its number modulo the
    /// length.
    earned: [u64; WINDOW_SECS],
    /// The second that `earned` was last brought up to, since `started`.
    second: u64,
    reserve: u64,
    /// Up to when `reserve` has been filled, in milliseconds since `started`: one retry a second is
    /// one thousandth a millisecond.
    reserve_filled_millis: u64,
}

// === impl RetryBudget ===

impl RetryBudget {
    /// A budget of these numbers.
    #[must_use]
    pub fn new(options: RetryBudgetOptions) -> Self {
        Self {
            shared: Some(Arc::new(Shared {
                options,
                purse: Mutex::new(Purse::new(&options, Instant::now())),
            })),
        }
    }

    /// One retry to ten calls, whatever becomes of them, and no reserve: the share that the book
    /// *Site Reliability Engineering* gives. A destination that is called seldom waits for its
    /// first retry until ten calls were made within 10 s.
    #[must_use]
    pub fn sre() -> Self {
        Self::new(RetryBudgetOptions {
            earned_by: EarnedBy::EveryCall,
            retries_per_1000_calls: 100,
            reserve_per_second: 0,
        })
    }

    /// No bound: in an outage every call makes all its attempts. Has to be written out, because
    /// it is what keeps an overloaded destination down.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self { shared: None }
    }

    /// Notes that a call begins.
    pub fn call_began(&self) {
        self.earn(EarnedBy::EveryCall);
    }

    /// Notes that a call was answered.
    pub fn call_succeeded(&self) {
        self.earn(EarnedBy::SuccessfulCalls);
    }

    /// Takes one retry, or answers `None` when there is none left.
    #[must_use]
    pub fn withdraw(&self) -> Option<Withdrawal> {
        let Some(shared) = &self.shared else {
            return Some(Withdrawal::free());
        };
        let mut purse = shared.purse.lock();
        purse.advance(&shared.options, Instant::now());
        let (earned, reserve) = purse.take(RETRY_MILLIS)?;
        Some(Withdrawal {
            shared: Some(Arc::clone(shared)),
            earned,
            reserve,
            sent: false,
        })
    }

    fn earn(&self, by: EarnedBy) {
        let Some(shared) = &self.shared else { return };
        if shared.options.earned_by != by {
            return;
        }
        let mut purse = shared.purse.lock();
        purse.advance(&shared.options, Instant::now());
        purse.earn(u64::from(shared.options.retries_per_1000_calls));
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new(RetryBudgetOptions::default())
    }
}

impl Default for RetryBudgetOptions {
    fn default() -> Self {
        Self {
            earned_by: EarnedBy::SuccessfulCalls,
            retries_per_1000_calls: 200,
            reserve_per_second: 10,
        }
    }
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shared {
            Some(shared) => f.debug_tuple("RetryBudget").field(&shared.options).finish(),
            None => f.write_str("RetryBudget::unlimited"),
        }
    }
}

// === impl Withdrawal ===

impl Withdrawal {
    fn free() -> Self {
        Self {
            shared: None,
            earned: 0,
            reserve: 0,
            sent: false,
        }
    }

    /// The retry is being handed to the transport: from here on it stays spent.
    pub fn mark_sent(&mut self) {
        self.sent = true;
    }

    /// The retry turned out never to have reached the wire: it is put back after all.
    pub fn mark_unsent(&mut self) {
        self.sent = false;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take().filter(|_| !self.sent) else {
            return;
        };
        let mut purse = shared.purse.lock();
        purse.advance(&shared.options, Instant::now());
        purse.earn(self.earned);
        purse.reserve = (purse.reserve + self.reserve).min(reserve_max(&shared.options));
    }
}

impl fmt::Debug for Withdrawal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Withdrawal")
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}

// === impl Purse ===

impl Purse {
    fn new(options: &RetryBudgetOptions, now: Instant) -> Self {
        Self {
            started: now,
            earned: [0; WINDOW_SECS],
            second: 0,
            reserve: reserve_max(options),
            reserve_filled_millis: 0,
        }
    }

    /// Forgets what was earned too long ago, and fills the reserve.
    fn advance(&mut self, options: &RetryBudgetOptions, now: Instant) {
        let since = now.saturating_duration_since(self.started);
        let passed = since.as_secs().saturating_sub(self.second);
        for step in 1..=passed.min(WINDOW_SECS as u64) {
            self.earned[place(self.second + step)] = 0;
        }
        self.second += passed;

        let millis = whole_millis(since);
        let filled = millis.saturating_sub(self.reserve_filled_millis);
        self.reserve_filled_millis += filled;
        let grown = filled.saturating_mul(u64::from(options.reserve_per_second));
        self.reserve = self.reserve.saturating_add(grown).min(reserve_max(options));
    }

    fn earn(&mut self, amount: u64) {
        let second = &mut self.earned[place(self.second)];
        *second = second.saturating_add(amount);
    }

    /// Takes `amount`, what was earned (oldest first, for it is forgotten soonest) before the
    /// reserve. Answers how much came from each, or `None`, having taken nothing, when there is less.
    fn take(&mut self, amount: u64) -> Option<(u64, u64)> {
        let earned = self
            .earned
            .iter()
            .fold(0u64, |sum, a| sum.saturating_add(*a));
        let from_earned = earned.min(amount);
        let from_reserve = amount - from_earned;
        self.reserve = self.reserve.checked_sub(from_reserve)?;

        let mut owed = from_earned;
        for step in 1..=WINDOW_SECS as u64 {
            let second = &mut self.earned[place(self.second + step)];
            let part = owed.min(*second);
            *second -= part;
            owed -= part;
        }
        Some((from_earned, from_reserve))
    }
}

fn place(second: u64) -> usize {
    (second % WINDOW_SECS as u64) as usize
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn reserve_max(options: &RetryBudgetOptions) -> u64 {
    u64::from(options.reserve_per_second) * RETRY_MILLIS * RESERVE_SECS
}
