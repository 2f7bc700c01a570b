//! What the server's layers let be seen.

use std::task::{Context, Poll};

use metrics::{Key, Label, Level, Metadata, counter, gauge, histogram};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Span;
use tracing::instrument::{Instrument as _, Instrumented};

use super::names;

/// Puts each request into a span, `serve`, with its `outcome`. The counting is done by the dedupe
/// layer itself, which alone knows how a caller got its response.
///
/// Stands outermost, so that the span covers authentication and load shedding as well.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct ServeSpanLayer;

/// Puts each request into a span. See [`ServeSpanLayer`].
#[derive(Clone, Copy, Debug)]
pub struct ServeSpan<S> {
    inner: S,
}

/// A handler that is running, or a caller who waits for one: counted while it lives.
#[derive(Debug)]
pub(crate) struct Running {
    began: Instant,
}

/// A caller who waits for an execution in progress: counted while it lives.
#[derive(Debug)]
pub(crate) struct Waiting(());

// === impl ServeSpan ===

#[cfg(feature = "http")]
impl<S> ServeSpan<S> {
    /// What it puts requests through, without a span.
    pub(crate) fn into_inner(self) -> S {
        self.inner
    }
}

impl<S> Layer<S> for ServeSpanLayer {
    type Service = ServeSpan<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ServeSpan { inner }
    }
}

impl<S: Service<Req>, Req> Service<Req> for ServeSpan<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let span =
            tracing::info_span!(target: "onlyonce", "serve", outcome = tracing::field::Empty);
        let response = span.in_scope(|| self.inner.call(request));
        response.instrument(span)
    }
}

// === impl Running ===

impl Running {
    pub(crate) fn begin() -> Self {
        gauge!(names::SERVER_IN_FLIGHT.name).increment(1);
        Self {
            began: Instant::now(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        gauge!(names::SERVER_IN_FLIGHT.name).decrement(1);
        histogram!(names::SERVER_HANDLER_SECONDS.name).record(self.began.elapsed());
    }
}

// === impl Waiting ===

impl Waiting {
    pub(crate) fn begin() -> Self {
        gauge!(names::SERVER_WAITERS.name).increment(1);
        Self(())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        gauge!(names::SERVER_WAITERS.name).decrement(1);
    }
}

// === what the dedupe layer lets be seen ===

pub(crate) fn answered(outcome: &'static str) {
    // The key of a metric is made anew each time, unless it is one of these.
    let known = KNOWN.iter().find(|known| known.0 == outcome);
    match known {
        Some((_, key)) => {
            metrics::with_recorder(|recorder| recorder.register_counter(key, &METADATA))
                .increment(1);
        }
        None => counter!(names::SERVER_CALLS_TOTAL.name, "outcome" => outcome).increment(1),
    }
    Span::current().record("outcome", outcome);
}

pub(crate) fn reconciled(result: &'static str) {
    counter!(names::SERVER_RECONCILED_TOTAL.name, "result" => result).increment(1);
}

pub(crate) fn rerun() {
    counter!(names::SERVER_RERUNS_TOTAL.name).increment(1);
}

pub(crate) fn replayed() {
    counter!(names::SERVER_REPLAYS_TOTAL.name).increment(1);
}

pub(crate) fn step(result: &'static str) {
    counter!(names::SERVER_STEPS_TOTAL.name, "result" => result).increment(1);
}

pub(crate) fn transaction_lost(result: &'static str) {
    counter!(names::SERVER_TRANSACTION_CONFLICTS_TOTAL.name, "result" => result).increment(1);
}

pub(crate) fn unrecorded() {
    counter!(names::SERVER_UNRECORDED_TOTAL.name).increment(1);
}

/// How nearly all callers get their answers.
static KNOWN: [(&str, Key); 2] = [
    ("executed", outcome_key(&EXECUTED)),
    ("replayed", outcome_key(&REPLAYED)),
];

static EXECUTED: [Label; 1] = [Label::from_static_parts("outcome", "executed")];
static REPLAYED: [Label; 1] = [Label::from_static_parts("outcome", "replayed")];

const fn outcome_key(outcome: &'static [Label; 1]) -> Key {
    Key::from_static_parts(names::SERVER_CALLS_TOTAL.name, outcome)
}

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));
