//! The bound on all retries to one destination.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce_middleware::client::{
    AttachKeyLayer, AttemptError, EarnedBy, Keyed, Outcome, RetryBudget, RetryBudgetOptions,
    RetryLayer, Stopped, Verdict, Withdrawal,
};
use tokio::time::{advance, sleep};
use tower::{Service, ServiceBuilder, ServiceExt as _};

use crate::protocol::*;

fn earned_only(retries_per_1000_calls: u32) -> RetryBudget {
    RetryBudget::new(RetryBudgetOptions {
        earned_by: EarnedBy::SuccessfulCalls,
        retries_per_1000_calls,
        reserve_per_second: 0,
    })
}

/// Takes a retry, for good.
fn spend(budget: &RetryBudget) -> bool {
    let mut withdrawal = budget.withdraw();
    withdrawal.as_mut().map(Withdrawal::mark_sent).is_some()
}

fn drain(budget: &RetryBudget) -> usize {
    std::iter::repeat_with(|| spend(budget))
        .take_while(|spent| *spent)
        .count()
}

// P1
#[tokio::test(start_paused = true)]
async fn every_share_is_kept_to_the_retry() {
    for percent in 1..=150u32 {
        let budget = earned_only(percent * 10);
        (0..10_000).for_each(|_| budget.call_succeeded());
        assert_eq!(drain(&budget), percent as usize * 100, "{percent} %");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_earned_is_forgotten_after_ten_seconds() {
    let budget = earned_only(1000);
    budget.call_succeeded();
    advance(Duration::from_secs(9)).await;
    budget.call_succeeded();
    advance(Duration::from_millis(1500)).await;
    assert_eq!(drain(&budget), 1);
}

#[tokio::test(start_paused = true)]
async fn the_reserve_fills_with_time_and_holds_one_second() {
    let budget = RetryBudget::default();
    assert_eq!(drain(&budget), 10);
    advance(Duration::from_millis(300)).await;
    assert_eq!(drain(&budget), 3);
    advance(Duration::from_secs(3600)).await;
    assert_eq!(drain(&budget), 10);
}

/// What a peer that is down receives for each call, in 60 s of calls at this rate.
async fn load_in_an_outage(budget: RetryBudget, calls_a_second: u32) -> f64 {
    let peer = Peer::new([lost()]);
    let retry = retry().assume_dedupe().with_budget(budget);
    let service = ServiceBuilder::new()
        .layer(AttachKeyLayer::new(MockAdapter))
        .layer(retry)
        .map_err(AttemptError::Inner)
        .map_request(|keyed: Keyed<Request>| keyed.into_parts().0)
        .service(peer.clone());
    let calls = calls_a_second * 60;
    let mut running = Vec::new();
    for _ in 0..calls {
        running.push(tokio::spawn(service.clone().oneshot(Request::new("pay"))));
        sleep(Duration::from_secs(1) / calls_a_second).await;
    }
    for call in running {
        call.await.unwrap().unwrap_err();
    }
    peer.attempts() as f64 / f64::from(calls)
}

// P8
#[tokio::test(start_paused = true)]
async fn a_total_outage_is_not_made_worse_than_the_table_of_defaults_says() {
    for (calls_a_second, expected) in [(10, 2.00), (100, 1.10), (1000, 1.01)] {
        let load = load_in_an_outage(RetryBudget::default(), calls_a_second).await;
        assert!(
            (load - expected).abs() < 0.02,
            "{load} times the load at {calls_a_second}/s, not {expected}"
        );
    }
}

// P8
#[tokio::test(start_paused = true)]
async fn the_share_of_the_sre_book_is_a_tenth_at_any_rate_of_calls() {
    for calls_a_second in [10, 100, 1000] {
        let load = load_in_an_outage(RetryBudget::sre(), calls_a_second).await;
        assert!((load - 1.10).abs() < 0.01, "{load} at {calls_a_second}/s");
    }
}

// P8
#[tokio::test(start_paused = true)]
async fn without_a_budget_an_outage_trebles_the_load() {
    let load = load_in_an_outage(RetryBudget::unlimited(), 10).await;
    assert_eq!(load, 3.0);
}

// P9
#[tokio::test(start_paused = true)]
async fn a_drained_budget_fills_again_with_successes() {
    for budget in [earned_only(200), RetryBudget::sre()] {
        drain(&budget);
        let retry = retry().with_budget(budget);
        let peer = Peer::new([refused()]);
        let error = peer.call(&retry, Request::new("pay")).await.unwrap_err();
        assert_eq!(error.stopped, Stopped::Budget);

        peer.set_script([accepted()]);
        for _ in 0..100 {
            peer.call(&retry, Request::new("pay")).await.unwrap();
        }
        peer.set_script([refused(), accepted()]);
        peer.call(&retry, Request::new("pay")).await.unwrap();
    }
}

// P10
#[tokio::test(start_paused = true)]
async fn a_dead_destination_does_not_spend_what_another_has() {
    let (dead, alive) = (retry(), retry());
    let outage = Peer::new([refused()]);
    for _ in 0..100 {
        outage.call(&dead, Request::new("pay")).await.unwrap_err();
    }
    for _ in 0..10 {
        let peer = Peer::new([refused(), accepted()]);
        peer.call(&alive, Request::new("pay")).await.unwrap();
        assert_eq!(peer.attempts(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn clones_share_one_budget() {
    let budget = earned_only(1000);
    budget.call_succeeded();
    assert!(spend(&budget.clone()));
    assert!(!spend(&budget));
}

// P12
#[test]
fn sixty_four_threads_never_take_more_than_there_is() {
    let budget = earned_only(500);
    (0..2000).for_each(|_| budget.call_succeeded());
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                for _ in 0..100 {
                    taken.fetch_add(usize::from(spend(&budget)), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(taken.into_inner(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_was_never_sent_is_put_back() {
    let budget = earned_only(1000);
    budget.call_succeeded();
    drop(budget.withdraw().unwrap());
    assert_eq!(drain(&budget), 1);
}

/// Takes one request, and refuses to become ready for another.
#[derive(Clone)]
struct ReadyOnce {
    called: Arc<AtomicUsize>,
}

impl Service<Keyed<Request>> for ReadyOnce {
    type Response = Answer;
    type Error = AttemptError<Fault>;
    type Future = std::future::Ready<std::result::Result<Answer, AttemptError<Fault>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        if self.called.load(Ordering::Relaxed) == 0 {
            return Poll::Ready(Ok(()));
        }
        let fault = Fault(Verdict::RETRY_UNKNOWN);
        Poll::Ready(Err(AttemptError::Inner(fault)))
    }

    fn call(&mut self, _: Keyed<Request>) -> Self::Future {
        self.called.fetch_add(1, Ordering::Relaxed);
        let fault = Fault(Verdict::RETRY_NOT_EXECUTED);
        std::future::ready(Err(AttemptError::Inner(fault)))
    }
}

// P31
#[tokio::test(start_paused = true)]
async fn a_retry_whose_transport_was_never_ready_is_put_back() {
    let budget = earned_only(1000);
    (0..5).for_each(|_| budget.call_succeeded());
    let error = ServiceBuilder::new()
        .layer(AttachKeyLayer::new(MockAdapter))
        .layer(RetryLayer::new(MockAdapter).with_budget(budget.clone()))
        .service(ReadyOnce {
            called: Arc::default(),
        })
        .oneshot(Request::new("pay"))
        .await
        .unwrap_err();
    assert_eq!(error.stopped, Stopped::Attempts);
    assert_eq!(error.outcome, Outcome::NotExecuted);
    assert_eq!(error.attempts, 1);
    assert_eq!(drain(&budget), 5);
}

// P31
#[tokio::test(start_paused = true)]
async fn a_retry_that_its_timeout_says_was_not_sent_is_put_back() {
    let unsent: [fn() -> AttemptError<Fault>; 2] = [
        || AttemptError::Elapsed { sent: false },
        || AttemptError::NotReady(Fault(Verdict::RETRY_UNKNOWN)),
    ];
    for error in unsent {
        let budget = earned_only(1000);
        (0..5).for_each(|_| budget.call_succeeded());
        let error = ServiceBuilder::new()
            .layer(AttachKeyLayer::new(MockAdapter))
            .layer(RetryLayer::new(MockAdapter).with_budget(budget.clone()))
            .service_fn(move |_: Keyed<Request>| std::future::ready(Err::<Answer, _>(error())))
            .oneshot(Request::new("pay"))
            .await
            .unwrap_err();
        assert_eq!(error.stopped, Stopped::Attempts);
        assert_eq!(error.outcome, Outcome::NotExecuted);
        assert_eq!(drain(&budget), 5);
    }
}

// P31
#[tokio::test(start_paused = true)]
async fn a_retry_that_is_cancelled_before_it_was_sent_is_put_back() {
    let budget = earned_only(1000);
    budget.call_succeeded();
    let peer = Peer::new([refused()]);
    let retry = retry().with_budget(budget.clone());
    {
        let mut call = std::pin::pin!(peer.call(&retry, Request::new("pay")));
        tokio::select! {
            biased;
            _ = &mut call => panic!("it ended without a pause"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(left_in(&budget), 0);
    }
    assert_eq!(drain(&budget), 1);
}

/// Whether there is a retry left, without taking it.
fn left_in(budget: &RetryBudget) -> usize {
    usize::from(budget.withdraw().is_some())
}
