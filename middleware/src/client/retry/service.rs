use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;
use tower_service::Service;
use tracing::Instrument as _;

use super::RetryLayer;
use super::attempt_times::ATTEMPT_MIN;
use super::budget::Withdrawal;
use super::evidence;
use super::policy::{Kept, Situation};
use crate::client::{
    Adapter, Advice, AttemptError, Call, CallError, Cost, Keyed, Last, Outcome, Stopped, Verdict,
};
use crate::nested;
use crate::observe::client as observe;

/// Makes attempts until one is answered. See [`RetryLayer`].
///
/// It is always ready: whether the transport is, is waited for by each attempt, in its own future.
///
/// # Errors
///
/// A [`CallError`] whenever there is no answer, with the call's ticket and what is known. A refusal
/// by the peer is answered as it came, unless an earlier attempt may have been executed.
///
/// # Cancellation
///
/// Dropping the future drops the attempt that is being made; the call may then have been executed.
/// Between attempts nothing is lost: a retry that was not sent yet is put back into the budget.
#[derive(Clone)]
pub struct Retry<S, A> {
    inner: S,
    layer: RetryLayer<A>,
}

/// How far a call has got.
struct Progress {
    began: Instant,
    deadline: Option<Instant>,
    /// The attempts that cost one.
    attempts: u32,
    /// The attempts that cost nothing but time.
    asks: u32,
}

// === impl Retry ===

impl<S, A> Retry<S, A> {
    pub(super) const fn new(inner: S, layer: RetryLayer<A>) -> Self {
        Self { inner, layer }
    }
}

impl<S, A, Req> Service<Keyed<Req>> for Retry<S, A>
where
    S: Service<Keyed<Req>, Response = A::Response, Error = AttemptError<A::Error>>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    A: Adapter<Req>,
    Req: Send + 'static,
{
    type Response = A::Response;
    type Error = CallError<A::Response, A::Error>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, keyed: Keyed<Req>) -> Self::Future {
        let mut layer = self.layer.clone();
        layer.policy = layer.policy.within(nested::caller_retries());
        Box::pin(layer.run(self.inner.clone(), keyed))
    }
}

impl<S: fmt::Debug, A> fmt::Debug for Retry<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

// === impl RetryLayer ===

impl<A> RetryLayer<A> {
    /// One call, from its first attempt to its end.
    async fn run<S, Req>(
        self,
        mut inner: S,
        first: Keyed<Req>,
    ) -> Result<A::Response, CallError<A::Response, A::Error>>
    where
        S: Service<Keyed<Req>, Response = A::Response, Error = AttemptError<A::Error>> + Clone,
        A: Adapter<Req>,
    {
        let call = Arc::clone(first.call());
        let mut progress = Progress::new(first.deadline());
        if progress.left().is_some_and(|left| left < ATTEMPT_MIN) {
            return Err(stopped(&call, Stopped::Deadline, Last::Nothing));
        }
        self.budget.call_began();
        let (mut next, mut paid) = (first, None);
        let mut schedule = None;

        loop {
            let kept = self.keep(&next, &progress);
            let (before, began) = (call.maybe_executed(), Instant::now());
            let result = attempt(&mut inner, next, paid).await;
            let verdict = evidence::read(result.as_ref(), |result| {
                self.adapter.classify(&call, result)
            });
            let after =
                evidence::maybe_executed(call.sent_before(), before, evidence::proof(verdict));
            call.settle_attempt(after);
            observe::attempt_ended(verdict);
            if verdict == Verdict::Accept {
                self.times.note(began.elapsed());
                self.budget.call_succeeded();
            }

            let (advice, result) = match conclude(&call, verdict, result) {
                ControlFlow::Break(end) => return end,
                ControlFlow::Continue(retry) => retry,
            };
            progress.count(advice.cost);
            let at = Situation {
                attempts: progress.attempts,
                asks: progress.asks,
                elapsed: progress.began.elapsed(),
                left: progress.left(),
                attempt_takes: self.times.median(),
                ask_pause_min: self.schedules.ask_pause_min(),
                peer_dedupes: call.store().is_some(),
            };
            let schedule = schedule.get_or_insert_with(|| self.schedules.make());
            let withdraw = || self.budget.withdraw();
            let again = match self.policy.decide(advice, &at, kept, schedule, withdraw) {
                Ok(again) => again,
                Err(why) => return Err(stopped(&call, why, last(result))),
            };
            drop(result);
            observe::retrying(advice.cost);
            sleep(again.floor + again.wait.draw()).await;
            (next, paid) = (again.request, again.paid);
        }
    }

    /// What to send after this attempt, should it come to that.
    fn keep<Req>(&self, attempt: &Keyed<Req>, progress: &Progress) -> Kept<Keyed<Req>>
    where
        A: Adapter<Req>,
    {
        let peer_dedupes = attempt.call().store().is_some();
        if !self.policy.keeps_request(progress.attempts, peer_dedupes) {
            return Kept::Taken;
        }
        let Some(copy) = self.adapter.try_clone(attempt.request()) else {
            observe::sent_once();
            return Kept::OneShot;
        };
        Kept::Copy(attempt.again(copy, attempt.attempt().saturating_add(1)))
    }
}

// === impl Progress ===

impl Progress {
    fn new(deadline: Option<Instant>) -> Self {
        Self {
            began: Instant::now(),
            deadline,
            attempts: 0,
            asks: 0,
        }
    }

    fn left(&self) -> Option<Duration> {
        let now = Instant::now();
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(now))
    }

    const fn count(&mut self, cost: Cost) {
        match cost {
            Cost::Attempt => self.attempts += 1,
            Cost::OnlyTime => self.asks += 1,
        }
    }
}

/// One attempt. The call counts as begun from the moment that the transport is ready to take it;
/// `paid` goes back into the budget if it never comes to that.
async fn attempt<S, Req, Res, Err>(
    inner: &mut S,
    keyed: Keyed<Req>,
    mut paid: Option<Withdrawal>,
) -> Result<Res, AttemptError<Err>>
where
    S: Service<Keyed<Req>, Response = Res, Error = AttemptError<Err>> + Clone,
{
    if let Err(error) = inner.ready().await {
        // A service that failed to become ready may not be asked again.
        *inner = inner.clone();
        return Err(match error {
            AttemptError::Elapsed { .. } => AttemptError::Elapsed { sent: false },
            AttemptError::Inner(error) | AttemptError::NotReady(error) => {
                AttemptError::NotReady(error)
            }
        });
    }
    keyed.call().begin_attempt();
    if let Some(paid) = &mut paid {
        paid.mark_sent();
    }
    let span = observe::attempt_span(keyed.attempt());
    let result = inner.call(keyed).instrument(span).await;
    if let (Some(paid), Err(AttemptError::Elapsed { sent: false } | AttemptError::NotReady(_))) =
        (&mut paid, &result)
    {
        paid.mark_unsent();
    }
    result
}

/// How the call ends by this verdict, unless it asks for another attempt.
#[expect(clippy::type_complexity, reason = "an attempt's result, twice")]
fn conclude<Res, Err>(
    call: &Call,
    verdict: Verdict,
    result: Result<Res, AttemptError<Err>>,
) -> ControlFlow<Result<Res, CallError<Res, Err>>, (Advice, Result<Res, AttemptError<Err>>)> {
    let end = match (verdict, result) {
        (Verdict::Retry(advice), result) => return ControlFlow::Continue((advice, result)),
        (Verdict::Accept, Ok(response)) => Ok(response),
        // It proves that the call was not executed, so it is as good as an answer.
        (Verdict::Refuse(_), Ok(response)) if !call.maybe_executed() => Ok(response),
        (Verdict::InDoubt, result) => Err(CallError {
            outcome: Outcome::InDoubt,
            ..stopped(call, Stopped::Final, last(result))
        }),
        (Verdict::Accept | Verdict::Refuse(_), result) => {
            Err(stopped(call, Stopped::Final, last(result)))
        }
    };
    ControlFlow::Break(end)
}

fn last<Res, Err>(result: Result<Res, AttemptError<Err>>) -> Last<Res, Err> {
    match result {
        Ok(response) => Last::Response(response),
        Err(AttemptError::Elapsed { .. }) => Last::Elapsed,
        Err(AttemptError::Inner(error) | AttemptError::NotReady(error)) => Last::Error(error),
    }
}

/// The error of a call that is not answered.
fn stopped<Res, Err>(call: &Call, why: Stopped, last: Last<Res, Err>) -> CallError<Res, Err> {
    observe::stopped(why);
    CallError::new(call, why, last)
}
