//! Deadlines of calls and timeouts of attempts.

use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce_middleware::client::{
    AttachKeyLayer, AttemptError, AttemptTimeoutLayer, CallError, EnforceDeadlineLayer, Keyed,
    Last, Outcome, RetryBudget, Stopped, Ticket, Verdict,
};
use onlyonce_storage::IdempotencyKey;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _};

use crate::protocol::*;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn keyed() -> Keyed<Request> {
    Keyed::new(Request::new("pay"), Ticket::new(IdempotencyKey::unique()))
}

/// Ready after this time, counted from the first time it is asked; its clones share it.
struct ReadyLater<S> {
    inner: S,
    at: std::sync::Arc<Mutex<Option<Instant>>>,
    after: Duration,
    timer: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl<S: Clone> Clone for ReadyLater<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            at: self.at.clone(),
            after: self.after,
            timer: None,
        }
    }
}

impl<S> ReadyLater<S> {
    fn new(after: Duration, inner: S) -> Self {
        Self {
            inner,
            at: std::sync::Arc::default(),
            after,
            timer: None,
        }
    }
}

impl<S: Service<R>, R> Service<R> for ReadyLater<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), S::Error>> {
        let after = self.after;
        let at = *self.at.lock().get_or_insert_with(|| Instant::now() + after);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        std::task::ready!(timer.as_mut().poll(cx));
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.inner.call(request)
    }
}

// P6
#[tokio::test(start_paused = true)]
async fn the_deadline_counts_attempts_and_pauses_alike() {
    let peer = Peer::new([after(secs(4), lost())]);
    let retry = retry().assume_dedupe();
    let began = Instant::now();
    let error = peer
        .call_within(secs(10), &retry, Request::new("pay"))
        .await
        .unwrap_err();
    assert_eq!(began.elapsed(), secs(10));
    assert_eq!(error.outcome, Outcome::Unknown);
    assert_eq!(error.attempts, 3);

    let third = &peer.received()[2];
    let elapsed = peer.times()[2] - began;
    assert_eq!(
        third.stamped.as_ref().unwrap().left,
        Some(secs(10) - elapsed)
    );
}

// P15
#[tokio::test(start_paused = true)]
async fn the_deadline_covers_readiness_and_leaves_the_service_usable() {
    let peer = Peer::new([accepted()]);
    let mut service = ServiceBuilder::new()
        .layer(AttachKeyLayer::new(MockAdapter))
        .layer(EnforceDeadlineLayer::new().with_timeout(Duration::from_millis(100)))
        .service(ReadyLater::new(
            secs(30),
            peer.clone()
                .map_err(|_| unreachable!())
                .map_request(|keyed: Keyed<Request>| keyed.into_parts().0),
        ));
    let began = Instant::now();
    let request = Request::new("pay");
    let error: CallError<Answer, Fault> = service
        .ready()
        .await
        .unwrap()
        .call(request.clone())
        .await
        .unwrap_err();
    assert_eq!(began.elapsed(), Duration::from_millis(100));
    assert_eq!(error.outcome, Outcome::NotExecuted);
    assert_eq!(error.stopped, Stopped::Deadline);
    assert!(matches!(error.last, Last::Nothing));

    sleep(secs(30)).await;
    service.ready().await.unwrap().call(request).await.unwrap();
    assert_eq!(peer.attempts(), 1);
}

// P15
#[tokio::test(start_paused = true)]
async fn an_attempts_timeout_covers_readiness_and_says_that_nothing_was_sent() {
    let peer = Peer::new([accepted()]);
    let mut service = AttemptTimeoutLayer::new()
        .with_timeout(secs(1))
        .layer(ReadyLater::new(
            secs(30),
            peer.clone()
                .map_request(|keyed: Keyed<Request>| keyed.into_parts().0),
        ));
    let error = service.ready().await.unwrap().call(keyed()).await;
    assert_eq!(error, Err(AttemptError::Elapsed { sent: false }));
    sleep(secs(30)).await;
    service.ready().await.unwrap().call(keyed()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn readiness_and_answer_share_one_attempts_timeout() {
    let peer = Peer::new([after(Duration::from_millis(700), accepted())]);
    let service = AttemptTimeoutLayer::new()
        .with_timeout(secs(1))
        .layer(ReadyLater::new(
            Duration::from_millis(600),
            peer.map_request(|keyed: Keyed<Request>| keyed.into_parts().0),
        ));
    let began = Instant::now();
    let result = service.oneshot(keyed()).await;
    assert_eq!(result, Err(AttemptError::Elapsed { sent: true }));
    assert_eq!(began.elapsed(), secs(1));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_ends_at_the_calls_deadline_if_that_is_sooner() {
    let service = AttemptTimeoutLayer::new()
        .layer(Peer::new([silence()]).map_request(|keyed: Keyed<Request>| keyed.into_parts().0));
    let began = Instant::now();
    let keyed = keyed().with_deadline(began + secs(3));
    let result = service.oneshot(keyed).await;
    assert_eq!(result, Err(AttemptError::Elapsed { sent: true }));
    assert_eq!(began.elapsed(), secs(3));
}

// P17
#[tokio::test(start_paused = true)]
async fn an_answer_at_the_very_deadline_is_kept() {
    let peer = Peer::new([after(secs(10), accepted())]);
    peer.call_within(secs(10), &retry(), Request::new("pay"))
        .await
        .unwrap();
}

// P17
#[tokio::test(start_paused = true)]
async fn an_answer_at_the_very_timeout_of_its_attempt_is_kept() {
    let peer = Peer::new([after(secs(10), accepted()), silence()]);
    peer.call(&retry(), Request::new("pay")).await.unwrap();
    assert_eq!(peer.attempts(), 1);
}

// H10
#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_within_an_attempt_ends_in_outcome_unknown_with_the_ticket() {
    let peer = Peer::new([silence()]);
    let ticket = Ticket::new(IdempotencyKey::unique());
    let request = Request::new("pay").with_ticket(ticket.clone());
    let error = peer
        .call_within(secs(5), &retry(), request)
        .await
        .unwrap_err();
    assert_eq!(error.outcome, Outcome::Unknown);
    assert_eq!(error.ticket.key, ticket.key);
    assert!(error.ticket.maybe_executed);
}

#[tokio::test(start_paused = true)]
async fn an_error_from_inside_is_kept_as_it_is() {
    let peer = Peer::new([fails(Verdict::Refuse(
        onlyonce_middleware::client::Executed::NotThisAttempt,
    ))]);
    let error = peer.call(&retry(), Request::new("pay")).await.unwrap_err();
    assert_eq!(error.stopped, Stopped::Final);
    assert_eq!(error.outcome, Outcome::NotExecuted);
    assert!(matches!(error.last, Last::Error(_)));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_cannot_end_in_time_is_not_started() {
    let retry = retry()
        .assume_dedupe()
        .with_budget(RetryBudget::unlimited());
    let peer = Peer::new([after(secs(4), accepted())]);
    for _ in 0..10 {
        peer.call(&retry, Request::new("pay")).await.unwrap();
    }
    peer.set_script([after(secs(3), lost())]);
    let before = peer.attempts();
    let began = Instant::now();
    let error = peer
        .call_within(secs(6), &retry, Request::new("pay"))
        .await
        .unwrap_err();
    assert_eq!(peer.attempts() - before, 1, "3 s left, and 4 s are usual");
    assert_eq!(error.stopped, Stopped::Deadline);
    assert_eq!(error.outcome, Outcome::Unknown);
    assert_eq!(began.elapsed(), secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_deadline_has_passed_is_not_sent() {
    let peer = Peer::new([accepted()]);
    let error = peer
        .call_within(Duration::ZERO, &retry(), Request::new("pay"))
        .await
        .unwrap_err();
    assert_eq!(error.stopped, Stopped::Deadline);
    assert_eq!(error.outcome, Outcome::NotExecuted);
    assert_eq!(peer.attempts(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_further_away_than_a_clock_can_tell_is_none() {
    let peer = Peer::new([after(secs(3), accepted())]);
    peer.call_within(Duration::MAX, &retry(), Request::new("pay"))
        .await
        .unwrap();
    let request = peer.received().remove(0);
    assert_eq!(request.stamped.unwrap().left, None);
}
