//! A bound on how long a call takes, whatever happens in it.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};
use tower::ServiceExt as _;
use tower_layer::Layer;
use tower_service::Service;

use super::{Call, CallError, Keyed, Last, Stopped};

/// What a person waits for. Three attempts of 10 s fit into it.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// Gives each call its deadline, and ends it there.
///
/// The deadline covers everything inside: the wait for readiness, all attempts, all pauses between
/// them. A deadline that the call has already stays if it is sooner. An answer that arrives at the
/// same instant is kept.
///
/// Stands inside of [`AttachKeyLayer`](super::AttachKeyLayer), which makes the call, and around
/// [`RetryLayer`](super::RetryLayer). Inside of that, each attempt would get a deadline of its own,
/// and the call none.
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct EnforceDeadlineLayer {
    timeout: Duration,
}

/// Ends calls at their deadline. See [`EnforceDeadlineLayer`].
///
/// It is always ready, and stays usable when a deadline has passed: each call waits for a clone of
/// what it wraps in its own future. So it puts no back pressure on its callers; a bound on
/// concurrent calls goes around it, or inside under the deadline.
///
/// # Errors
///
/// A [`CallError`] with [`Stopped::Deadline`] when the deadline passes: outcome unknown if any
/// attempt may have been executed, otherwise not executed. An error from inside is kept.
///
/// # Cancellation
///
/// At the deadline the future of what it wraps is dropped. The peer may go on executing the call.
#[derive(Clone, Copy, Debug)]
pub struct EnforceDeadline<S> {
    inner: S,
    timeout: Duration,
}

// === impl EnforceDeadlineLayer ===

impl EnforceDeadlineLayer {
    /// Ends calls after 30 s.
    pub const fn new() -> Self {
        Self {
            timeout: TIMEOUT_DEFAULT,
        }
    }

    /// Ends calls after `timeout`.
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl Default for EnforceDeadlineLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for EnforceDeadlineLayer {
    type Service = EnforceDeadline<S>;

    fn layer(&self, inner: S) -> Self::Service {
        EnforceDeadline {
            inner,
            timeout: self.timeout,
        }
    }
}

// === impl EnforceDeadline ===

impl<S, Req, Res, Err> Service<Keyed<Req>> for EnforceDeadline<S>
where
    S: Service<Keyed<Req>, Response = Res, Error = CallError<Res, Err>> + Clone + Send + 'static,
    S::Future: Send,
    Req: Send + 'static,
    Res: Send + 'static,
    Err: Send + 'static,
{
    type Response = Res;
    type Error = CallError<Res, Err>;
    type Future = BoxFuture<'static, Result<Res, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, keyed: Keyed<Req>) -> Self::Future {
        let keyed = match Instant::now().checked_add(self.timeout) {
            Some(deadline) => keyed.with_deadline(deadline),
            // Further away than a clock can tell is no deadline.
            None => keyed,
        };
        let inner = self.inner.clone();
        let call = Arc::clone(keyed.call());
        Box::pin(async move {
            let Some(deadline) = keyed.deadline() else {
                return inner.oneshot(keyed).await;
            };
            // `timeout_at` asks for the result before it looks at the clock.
            match timeout_at(deadline, inner.oneshot(keyed)).await {
                Ok(result) => result,
                Err(_) => Err(passed(&call)),
            }
        })
    }
}

fn passed<Res, Err>(call: &Call) -> CallError<Res, Err> {
    let last = if call.attempts() == 0 {
        Last::Nothing
    } else {
        Last::Elapsed
    };
    CallError::new(call, Stopped::Deadline, last)
}
