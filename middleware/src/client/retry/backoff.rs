//! How long to wait before another attempt.

use std::time::Duration;

use thiserror::Error;

use crate::jitter;

/// The window that a peer with too much to do is given at the least before the first retry. It
/// is the base that AWS's retry behaviour 2.1 takes for throttling errors.
const OVERLOADED_BASE: Duration = Duration::from_secs(1);

/// Exponential backoff with full jitter.
///
/// Retry `n` (from 1) waits a time drawn uniformly from zero to its window, which is
/// `min(cap, base * factor^(n - 1))`. The cap bounds the *window*: at the cap the delays still
/// spread over all of it, and none is above it. (Where the cap bounds the drawn delay, all clients
/// of a long outage come back together.)
///
/// ```
/// use std::time::Duration;
/// use onlyonce_middleware::client::{Backoff, BackoffOptions};
///
/// let backoff = Backoff::new(BackoffOptions {
///     base: Duration::from_millis(100),
///     factor: 3,
///     cap: Duration::from_secs(1),
/// })?;
/// assert_eq!(backoff.window(1), Duration::from_millis(100));
/// assert_eq!(backoff.window(2), Duration::from_millis(300));
/// assert_eq!(backoff.window(9), Duration::from_secs(1));
/// # Ok::<(), onlyonce_middleware::client::BackoffError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    options: BackoffOptions,
}

/// The three numbers of a [`Backoff`]. A literal has to name all three, so none can be mistaken for
/// another; that is why it may be written as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffOptions {
    /// The window before the first retry. At most `cap`, and not zero. 50 ms (default).
    pub base: Duration,
    /// By how much each window is longer than the one before. At least 1; 2 (default).
    pub factor: u32,
    /// No window is longer than this. 20 s (default).
    pub cap: Duration,
}

/// Numbers of which no [`Backoff`] can be made.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackoffError {
    /// Without a base every window is zero, and a retry follows its failure at once.
    #[error("backoff base is zero")]
    BaseZero,
    /// The first window would be longer than the longest.
    #[error("backoff cap {cap:?} is below its base {base:?}")]
    CapBelowBase {
        /// The base.
        base: Duration,
        /// The cap.
        cap: Duration,
    },
    /// The second window would be zero.
    #[error("backoff factor is zero")]
    FactorZero,
}

// === impl Backoff ===

impl Backoff {
    /// A backoff of these numbers.
    ///
    /// # Errors
    ///
    /// If the base or the factor is zero, or the cap is below the base.
    pub const fn new(options: BackoffOptions) -> Result<Self, BackoffError> {
        let BackoffOptions { base, factor, cap } = options;
        if base.is_zero() {
            return Err(BackoffError::BaseZero);
        }
        if factor == 0 {
            return Err(BackoffError::FactorZero);
        }
        if cap.as_nanos() < base.as_nanos() {
            return Err(BackoffError::CapBelowBase { base, cap });
        }
        Ok(Self { options })
    }

    /// The numbers it is made of.
    #[must_use]
    pub const fn options(&self) -> &BackoffOptions {
        &self.options
    }

    /// The longest that retry `retry` (from 1) waits.
    #[must_use]
    pub fn window(&self, retry: u32) -> Duration {
        self.window_from(self.options.base, retry)
    }

    /// The longest that retry `retry` (from 1) waits for a peer that has too much to do: as
    /// [`window`](Self::window), from a base of at least 1 s.
    #[must_use]
    pub fn window_when_overloaded(&self, retry: u32) -> Duration {
        self.window_from(self.options.base.max(OVERLOADED_BASE), retry)
    }

    /// How long retry `retry` (from 1) waits: drawn anew each time.
    #[must_use]
    pub fn delay(&self, retry: u32) -> Duration {
        jitter::up_to(self.window(retry))
    }

    fn window_from(&self, base: Duration, retry: u32) -> Duration {
        let growth = self.options.factor.saturating_pow(retry.saturating_sub(1));
        base.saturating_mul(growth).min(self.options.cap)
    }
}

impl Default for BackoffOptions {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(50),
            factor: 2,
            cap: Duration::from_secs(20),
        }
    }
}
