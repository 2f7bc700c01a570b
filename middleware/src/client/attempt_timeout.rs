//! A bound on how long one attempt takes.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout};
use tower::ServiceExt as _;
use tower_layer::Layer;
use tower_service::Service;

use super::{AttemptError, Keyed};

/// A third of a call's default deadline, so that three attempts fit into it.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Ends an attempt after its timeout, or at the call's deadline if that is sooner.
///
/// The timeout covers the wait for the transport to become ready. An attempt that is ended in that
/// wait was not sent, and says so. An answer that arrives at the same instant as the timeout is
/// kept: throwing it away would be a needless retry.
///
/// Stands inside of [`RetryLayer`](super::RetryLayer) (outside, all attempts would share the time of
/// one) and around [`StampLayer`](super::StampLayer), which takes the request's call off.
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct AttemptTimeoutLayer {
    timeout: Duration,
}

/// Ends attempts that take too long. See [`AttemptTimeoutLayer`].
///
/// It is always ready, and stays usable when an attempt was ended: each attempt waits for a clone of
/// what it wraps in its own future.
///
/// # Errors
///
/// [`AttemptError::Elapsed`] when it ends an attempt; otherwise the transport's error, as
/// [`AttemptError::NotReady`] or [`AttemptError::Inner`].
///
/// # Cancellation
///
/// Ending an attempt drops the transport's future. The peer may go on executing it.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTimeout<S> {
    inner: S,
    timeout: Duration,
}

// === impl AttemptTimeoutLayer ===

impl AttemptTimeoutLayer {
    /// Ends attempts after 10 s.
    pub const fn new() -> Self {
        Self {
            timeout: TIMEOUT_DEFAULT,
        }
    }

    /// Ends attempts after `timeout`.
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl Default for AttemptTimeoutLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for AttemptTimeoutLayer {
    type Service = AttemptTimeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AttemptTimeout {
            inner,
            timeout: self.timeout,
        }
    }
}

// === impl AttemptTimeout ===

impl<S, Req> Service<Keyed<Req>> for AttemptTimeout<S>
where
    S: Service<Keyed<Req>> + Clone + Send + 'static,
    S::Response: Send,
    S::Error: Send,
    S::Future: Send,
    Req: Send + 'static,
{
    type Response = S::Response;
    type Error = AttemptError<S::Error>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, keyed: Keyed<Req>) -> Self::Future {
        let mut inner = self.inner.clone();
        let began = Instant::now();
        let left = keyed
            .deadline()
            .map_or(Duration::MAX, |at| at.saturating_duration_since(began));
        let bound = self.timeout.min(left);
        Box::pin(async move {
            // `timeout` asks for the result before it looks at the clock.
            match timeout(bound, inner.ready()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(AttemptError::NotReady(error)),
                Err(_) => return Err(AttemptError::Elapsed { sent: false }),
            }
            let bound = bound.saturating_sub(began.elapsed());
            match timeout(bound, inner.call(keyed)).await {
                Ok(result) => result.map_err(AttemptError::Inner),
                Err(_) => Err(AttemptError::Elapsed { sent: true }),
            }
        })
    }
}
