//! How long somebody waits.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::options::Wait;

/// How long a duplicate waits for the execution of another.
pub(super) fn patience(wait: Wait, deadline: Option<Instant>) -> Duration {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    match wait {
        Wait::No => Duration::ZERO,
        Wait::UntilDeadline => left.unwrap_or(WAIT_WITHOUT_DEADLINE),
        Wait::UpTo(limit) => left.map_or(limit, |left| left.min(limit)),
    }
}

/// When `duration` has passed; a time that nobody lives to see where it is longer.
pub(crate) fn far(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration)
        .unwrap_or_else(|| now + A_LIFETIME)
}

/// What `future` comes to, or `None` when it has not by then. A tie is won by the future.
///
/// For what is mostly ready at once: only what is not gets a timer, which is larger than most of
/// what is waited for here.
#[expect(
    clippy::manual_async_fn,
    reason = "an async function has room for each of its arguments twice"
)]
pub(crate) fn by<F: Future + Unpin>(
    until: Instant,
    mut future: F,
) -> impl Future<Output = Option<F::Output>> {
    async move {
        let first = poll_fn(|context| Poll::Ready(Pin::new(&mut future).poll(context))).await;
        match first {
            Poll::Ready(output) => Some(output),
            Poll::Pending => Box::pin(timeout_at(until, future)).await.ok(),
        }
    }
}

/// Clocks reach this far everywhere.
const A_LIFETIME: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// A duplicate without deadline does not wait for ever: a call's default deadline is 30 s.
const WAIT_WITHOUT_DEADLINE: Duration = Duration::from_secs(30);
