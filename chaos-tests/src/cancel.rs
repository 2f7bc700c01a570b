//! Drops a future at every point at which it waits.
//!
//! A future may end at any of its `.await`s: its caller goes away, a timeout or a `select!` drops
//! it, its runtime shuts down. What it had begun by then stays begun. [`CancelAt::sweep`] tries
//! them all, one after the other, without any annotation in the code that is tested: it drops the
//! future at its first suspension, then in a new run at its second, and so on until it ends by
//! itself. What must hold after each is the test's to say.
//!
//! A suspension is a poll that answers `Pending`. Where a real socket or another thread is waited
//! for, their number differs from run to run, and a wait that was already over is none: such a
//! sweep finds what it finds, and goes on until three runs in a row end by themselves. Where all
//! is in one task it is exhaustive.
//!
//! ```
//! use std::cell::Cell;
//!
//! use onlyonce_chaos::cancel::CancelAt;
//! use tokio::task::yield_now;
//!
//! # async fn example() {
//! // Both legs of a transfer, with a wait between the two.
//! async fn transfer(from: &Cell<i64>, to: &Cell<i64>) {
//!     from.set(from.get() - 10);
//!     yield_now().await;
//!     to.set(to.get() + 10);
//! }
//!
//! let mut torn = Vec::new();
//! let cancelled = CancelAt::sweep(async |cancel| {
//!     let (from, to) = (Cell::new(100), Cell::new(0));
//!     let ended = cancel.run(transfer(&from, &to)).await;
//!     if from.get() + to.get() != 100 {
//!         torn.push(cancel.suspension());
//!     }
//!     ended
//! })
//! .await;
//! // Before it began nothing was lost; at its first wait, the money is.
//! assert_eq!((cancelled, torn), (2, vec![1]));
//! # }
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example());
//! ```

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// At which suspension a future is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CancelAt(u64);

/// How a future that may be cancelled ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// Exhaustive: there is no third way.
#[must_use = "a sweep goes by it"]
pub enum Ended<T> {
    /// It was dropped.
    Cancelled,
    /// By itself, before it was to be dropped.
    Completed(T),
}

// === impl CancelAt ===

impl CancelAt {
    /// At the `nth` suspension, from 1. With 0 the future is dropped before its first poll, as one
    /// is that somebody makes and never awaits.
    #[must_use]
    pub const fn new(nth: u64) -> Self {
        Self(nth)
    }

    /// Which suspension it is.
    #[must_use]
    pub const fn suspension(self) -> u64 {
        self.0
    }

    /// Runs `future` until it ends, or drops it where it is to be dropped. It is gone when this
    /// returns.
    pub async fn run<F: Future>(self, future: F) -> Ended<F::Output> {
        let mut future = pin!(future);
        let mut left = self.0;
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(Ended::Cancelled);
            }
            match future.as_mut().poll(context) {
                Poll::Ready(output) => return Poll::Ready(Ended::Completed(output)),
                Poll::Pending => left -= 1,
            }
            // At once, and not when it is woken: what would wake it may never come.
            if left == 0 {
                return Poll::Ready(Ended::Cancelled);
            }
            Poll::Pending
        })
        .await
    }

    /// Runs `scenario` with a cancellation at 0, 1, 2 and so on. A scenario makes everything anew,
    /// runs one future [under](Self::run) what it is given, checks what must hold, and says how
    /// the future ended. Answers how many runs were cancelled.
    ///
    /// # Panics
    ///
    /// When a future has not ended after ten thousand suspensions: it never would.
    pub async fn sweep<T>(mut scenario: impl AsyncFnMut(Self) -> Ended<T>) -> u64 {
        let (mut cancelled, mut completed) = (0, 0);
        for nth in 0..SUSPENSIONS_MAX {
            match scenario(Self(nth)).await {
                Ended::Cancelled => {
                    cancelled += 1;
                    completed = 0;
                }
                Ended::Completed(_) => completed += 1,
            }
            if completed == COMPLETED_ROUNDS {
                return cancelled;
            }
        }
        panic!("the future does not end within {SUSPENSIONS_MAX} suspensions");
    }
}

// === impl Ended ===

impl<T> Ended<T> {
    /// What it came to, if it was not cancelled.
    pub fn completed(self) -> Option<T> {
        match self {
            Self::Cancelled => None,
            Self::Completed(output) => Some(output),
        }
    }
}

/// One could be luck: a wait for a socket that was ready, just this time.
const COMPLETED_ROUNDS: u32 = 3;

/// Far above what any call waits for.
const SUSPENSIONS_MAX: u64 = 10_000;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};

    use tokio::task::yield_now;

    use super::*;

    struct OnDrop<'a>(&'a Cell<u32>);

    impl Drop for OnDrop<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[tokio::test]
    async fn every_suspension_is_cancelled_once_and_what_came_before_it_is_done() {
        let mut done = Vec::new();
        let cancelled = CancelAt::sweep(async |cancel| {
            let steps = Cell::new(0);
            let ended = cancel
                .run(async {
                    for step in 1..=3 {
                        steps.set(step);
                        yield_now().await;
                    }
                })
                .await;
            done.push((cancel.suspension(), steps.get()));
            ended
        })
        .await;
        assert_eq!(cancelled, 4);
        assert_eq!(done[..4], [(0, 0), (1, 1), (2, 2), (3, 3)]);
        assert_eq!(done.len(), 4 + COMPLETED_ROUNDS as usize);
    }

    #[tokio::test]
    async fn a_cancelled_future_is_dropped_before_anything_else_happens() {
        let drops = Cell::new(0);
        for nth in [0, 1] {
            let guard = OnDrop(&drops);
            let future = async move {
                let _guard = guard;
                pending::<()>().await;
            };
            let ended = CancelAt::new(nth).run(future).await;
            assert_eq!(ended, Ended::Cancelled);
            assert_eq!(u64::from(drops.get()), nth + 1);
        }
    }

    #[tokio::test]
    async fn a_future_that_never_waits_is_cancelled_only_before_it_begins() {
        let cancelled = CancelAt::sweep(async |cancel| cancel.run(ready(())).await).await;
        assert_eq!(cancelled, 1);
        let ended = CancelAt::new(1).run(ready(7)).await;
        assert_eq!(ended.completed(), Some(7));
    }

    #[tokio::test]
    async fn a_run_that_was_lucky_once_does_not_end_the_sweep() {
        let mut run = 0;
        let cancelled = CancelAt::sweep(async |cancel| {
            run += 1;
            let waits = if run == 2 { 0 } else { 4 };
            cancel
                .run(async move {
                    for _ in 0..waits {
                        yield_now().await;
                    }
                })
                .await
        })
        .await;
        assert_eq!(cancelled, 4);
    }
}
