//! An execution that its caller drives, and a task of its own once the caller is gone.
//!
//! A task for each call costs a wake-up of somebody else, and the way back another. So the caller's
//! own task drives the execution while it is there. When its future is dropped, wherever it waits,
//! the execution goes on in a task that was spawned for it: it never stands still and is never
//! dropped half-way, unless its runtime is.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use onlyonce_storage::planted;
use tracing::Instrument;

use super::flight::Flight;
use super::scheduled::Runtime;

/// Drives an execution. Dropping it hands the execution over.
pub(super) struct Driven<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    /// `None` once it has ended.
    execution: Option<Pin<Box<F>>>,
    flight: Arc<Flight>,
    /// Where it is handed to: a caller may be dropped where no runtime is.
    runtime: Runtime,
}

/// The execution panicked outside of its handler.
pub(super) struct Lost;

// === impl Driven ===

impl<F> Driven<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    /// Nothing of it is done before it is first polled, and then it is done to its end.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub(super) fn new(execution: Pin<Box<F>>, flight: Arc<Flight>) -> Self {
        Self {
            execution: Some(execution),
            flight,
            runtime: Runtime::here(),
        }
    }
}

impl<F> Future for Driven<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    type Output = Result<F::Output, Lost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(execution) = &mut self.execution else {
            // OK because whoever awaits it asks until it has ended, and not again.
            unreachable!("an execution ends once");
        };
        let polled = catch_unwind(AssertUnwindSafe(|| execution.as_mut().poll(context)));
        let ended = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(_panic) => Err(Lost),
        };
        self.execution = None;
        Poll::Ready(ended)
    }
}

impl<F> Drop for Driven<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn drop(&mut self) {
        if let Some(execution) = self.execution.take()
            && !planted!(HandlerTiedToConnection)
        {
            // Before its next poll, which finds out by it that nobody waits.
            self.flight.leave();
            self.runtime.spawn(execution.in_current_span());
        }
    }
}
