//! What the client's layers let be seen.

use std::num::NonZeroU32;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use metrics::{counter, gauge, histogram};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Instrument as _, Span};

use super::names;
use crate::client::{CallError, Cost, Outcome, Stopped, Verdict};

/// Counts and times calls, and puts each into a span, `call`, with its `outcome` and, where it was
/// not answered, its number of `attempts`.
///
/// Stands outermost: further inside it would not see what the layers around it do to the call. The
/// attempts are counted by the retry layer itself, each in a span `attempt` with its `number`, from
/// 1.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct ObserveLayer;

/// Counts and times calls. See [`ObserveLayer`].
///
/// # Cancellation
///
/// A call whose future is dropped before it ends is counted as `cancelled`.
#[derive(Clone, Copy, Debug)]
pub struct Observe<S> {
    inner: S,
}

/// A call that is going on. Counts it when dropped, so that a call that nobody waits for any more
/// is counted too.
struct Observed {
    began: Instant,
    outcome: &'static str,
}

// === impl ObserveLayer ===

impl ObserveLayer {
    /// Observes calls.
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observe { inner }
    }
}

// === impl Observe ===

impl<S, Req, Res, Err> Service<Req> for Observe<S>
where
    S: Service<Req, Response = Res, Error = CallError<Res, Err>>,
    S::Future: Send + 'static,
{
    type Response = Res;
    type Error = CallError<Res, Err>;
    type Future = BoxFuture<'static, Result<Res, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let span = call_span();
        let call = span.in_scope(|| self.inner.call(request));
        let observed = Observed::begin();
        let in_span = span.clone();
        Box::pin(
            async move {
                let mut observed = observed;
                let result = call.await;
                observed.end(&result, &span);
                result
            }
            .instrument(in_span),
        )
    }
}

// === impl Observed ===

impl Observed {
    fn begin() -> Self {
        gauge!(names::CLIENT_IN_FLIGHT.name).increment(1);
        Self {
            began: Instant::now(),
            outcome: "cancelled",
        }
    }

    fn end<Res, Err>(&mut self, result: &Result<Res, CallError<Res, Err>>, span: &Span) {
        self.outcome = match result {
            Ok(_) => "answered",
            Err(error) => {
                span.record("attempts", error.attempts);
                outcome_label(error.outcome)
            }
        };
        span.record("outcome", self.outcome);
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        gauge!(names::CLIENT_IN_FLIGHT.name).decrement(1);
        counter!(names::CLIENT_CALLS_TOTAL.name, "outcome" => self.outcome).increment(1);
        histogram!(names::CLIENT_CALL_SECONDS.name, "outcome" => self.outcome)
            .record(self.began.elapsed());
    }
}

// === what the retry layer lets be seen ===

pub(crate) fn attempt_span(number: NonZeroU32) -> Span {
    tracing::debug_span!(target: "onlyonce", "attempt", number = number.get())
}

pub(crate) fn attempt_ended(verdict: Verdict) {
    let result = match verdict {
        Verdict::Accept => "accepted",
        Verdict::InDoubt => "in_doubt",
        Verdict::Refuse(_) => "refused",
        Verdict::Retry(_) => "retryable",
    };
    counter!(names::CLIENT_ATTEMPTS_TOTAL.name, "result" => result).increment(1);
}

pub(crate) fn retrying(cost: Cost) {
    let cost = match cost {
        Cost::Attempt => "attempt",
        Cost::OnlyTime => "only_time",
    };
    counter!(names::CLIENT_RETRIES_TOTAL.name, "cost" => cost).increment(1);
}

pub(crate) fn sent_once() {
    counter!(names::CLIENT_SENT_ONCE_TOTAL.name).increment(1);
}

pub(crate) fn stopped(why: Stopped) {
    let reason = match why {
        Stopped::Attempts => "attempts",
        Stopped::Budget => "budget",
        Stopped::Deadline => "deadline",
        Stopped::Final => "final",
        Stopped::OneShot => "one_shot",
        Stopped::PeerNotKnownToDedupe => "peer_not_known_to_dedupe",
        Stopped::Pushback => "pushback",
        Stopped::Schedule => "schedule",
    };
    counter!(names::CLIENT_STOPPED_TOTAL.name, "reason" => reason).increment(1);
}

fn call_span() -> Span {
    tracing::info_span!(
        target: "onlyonce",
        "call",
        outcome = tracing::field::Empty,
        attempts = tracing::field::Empty,
    )
}

fn outcome_label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::InDoubt => "in_doubt",
        Outcome::NotExecuted => "not_executed",
        Outcome::Unknown => "unknown",
    }
}
