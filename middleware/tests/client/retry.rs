//! Which attempts are made, when, and with what.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onlyonce_middleware::client::{
    Adapter, AttachKeyLayer, AttemptError, Backoff, BackoffOptions, Call, Executed, Keyed, Last,
    Outcome, Pushback, RetryBudget, RetryLayer, Stopped, Ticket, Verdict,
};
use onlyonce_middleware::jitter;
use onlyonce_storage::IdempotencyKey;
use tokio::time::{Instant, advance};
use tower::{ServiceBuilder, ServiceExt as _};

use crate::protocol::*;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn attempts(max: u32) -> NonZeroU32 {
    NonZeroU32::new(max).unwrap()
}

fn keys(peer: &Peer) -> Vec<IdempotencyKey> {
    let stamped = peer.received().into_iter().filter_map(|r| r.stamped);
    stamped.map(|stamped| stamped.key).collect()
}

fn numbers(peer: &Peer) -> Vec<u32> {
    let stamped = peer.received().into_iter().filter_map(|r| r.stamped);
    stamped.map(|stamped| stamped.attempt).collect()
}

// H1
#[tokio::test(start_paused = true)]
async fn all_attempts_of_a_call_have_one_key_and_each_call_its_own() {
    let peer = Peer::new([refused(), refused(), accepted()]);
    peer.call(&retry(), Request::new("pay")).await.unwrap();
    let first: HashSet<_> = keys(&peer).into_iter().collect();
    assert_eq!((peer.attempts(), first.len()), (3, 1));

    peer.call(&retry(), Request::new("pay")).await.unwrap();
    let both: HashSet<_> = keys(&peer).into_iter().collect();
    assert_eq!(both.len(), 2);
}

// H1
#[tokio::test(start_paused = true)]
async fn a_key_can_come_from_the_caller_or_from_the_request_itself() {
    let peer = Peer::new([accepted()]);
    let service = ServiceBuilder::new()
        .layer(
            AttachKeyLayer::new(MockAdapter)
                .with_key(|r: &Request| IdempotencyKey::derived("pay", r.body.as_bytes())),
        )
        .layer(retry())
        .map_err(AttemptError::Inner)
        .map_request(|keyed: Keyed<Request>| MockAdapter.stamp(keyed))
        .service(peer.clone());
    let own = IdempotencyKey::unique();
    for request in [
        Request::new("invoice 7"),
        Request::new("invoice 7"),
        Request::new("invoice 7").with_ticket(own.clone().into()),
    ] {
        service.clone().oneshot(request).await.unwrap();
    }
    let derived = IdempotencyKey::derived("pay", b"invoice 7");
    assert_eq!(keys(&peer), [derived.clone(), derived, own]);
}

/// Whether a service takes a request, asked of the compiler: the type's own `ask` is preferred where
/// its bound holds, and the trait's is left otherwise.
mod takes {
    use std::marker::PhantomData;

    use tower::Service;

    pub struct Takes<S, R>(pub PhantomData<(S, R)>);

    impl<S: Service<R>, R> Takes<S, R> {
        pub const fn ask(&self) -> bool {
            true
        }
    }

    pub trait Otherwise {
        fn ask(&self) -> bool {
            false
        }
    }

    impl<S, R> Otherwise for Takes<S, R> {}
}

// H2
#[test]
fn retry_takes_no_request_that_has_no_key_yet() {
    use std::marker::PhantomData;

    use takes::{Otherwise as _, Takes};

    type Transport = tower::util::BoxCloneService<Keyed<Request>, Answer, AttemptError<Fault>>;
    type Retried = onlyonce_middleware::client::Retry<Transport, MockAdapter>;
    type KeyInside = onlyonce_middleware::client::Retry<
        onlyonce_middleware::client::AttachKey<Transport, MockAdapter>,
        MockAdapter,
    >;
    assert!(Takes::<Retried, Keyed<Request>>(PhantomData).ask());
    assert!(!Takes::<Retried, Request>(PhantomData).ask());
    assert!(!Takes::<KeyInside, Request>(PhantomData).ask());
}

// P30
#[tokio::test(start_paused = true)]
async fn attempts_are_numbered_from_one() {
    let peer = Peer::new([refused(), refused(), accepted()]);
    peer.call(&retry(), Request::new("pay")).await.unwrap();
    assert_eq!(numbers(&peer), [1, 2, 3]);
}

// H6
#[tokio::test(start_paused = true)]
async fn retries_are_finite() {
    let unlimited = retry().with_budget(RetryBudget::unlimited());
    for max in [1, 2, 3, 7] {
        let peer = Peer::new([refused()]);
        let retry = unlimited.clone().with_attempts_max(attempts(max));
        let error = peer.call(&retry, Request::new("pay")).await.unwrap_err();
        assert_eq!(error.stopped, Stopped::Attempts);
        assert_eq!((peer.attempts(), error.attempts), (max as usize, max));
    }
}

// H5
#[tokio::test(start_paused = true)]
async fn an_answer_in_progress_costs_neither_an_attempt_nor_budget() {
    let none = RetryBudget::new(onlyonce_middleware::client::RetryBudgetOptions {
        reserve_per_second: 0,
        ..Default::default()
    });
    let mut script = vec![answers(in_progress(Pushback::After(secs(1)))); 12];
    script.push(accepted());
    let peer = Peer::new(script);
    let retry = retry().with_budget(none).with_attempts_max(attempts(2));
    peer.call_within(secs(600), &retry, Request::new("pay"))
        .await
        .unwrap();
    assert_eq!(peer.attempts(), 13);
    assert_eq!(numbers(&peer), (1..=13).collect::<Vec<_>>());
}

// H5
#[tokio::test(start_paused = true)]
async fn the_last_attempt_can_still_wait_for_its_answer() {
    let wait = answers(in_progress(Pushback::Silent));
    let named = answers(busy(Pushback::Silent));
    let peer = Peer::new([named, lost(), wait, lost(), wait, wait, accepted()]);
    let retry = retry().with_attempts_max(attempts(4));
    peer.call(&retry, Request::new("pay")).await.unwrap();
    assert_eq!(peer.attempts(), 7);
}

// H5
#[tokio::test(start_paused = true)]
async fn waiting_for_an_answer_ends_at_the_deadline_in_outcome_unknown() {
    for pushback in [Pushback::Silent, Pushback::After(secs(1))] {
        let peer = Peer::new([answers(in_progress(pushback))]);
        let began = Instant::now();
        let error = peer.call(&retry(), Request::new("pay")).await.unwrap_err();
        assert!(began.elapsed() <= secs(30));
        assert!(began.elapsed() > secs(20), "{:?}", began.elapsed());
        assert_eq!(error.outcome, Outcome::Unknown);
        assert_eq!(error.stopped, Stopped::Deadline);
        assert!(matches!(error.last, Last::Response(_)));
        assert!(peer.attempts() < 50, "{} attempts", peer.attempts());
    }
}

// H5
#[tokio::test(start_paused = true)]
async fn waiting_for_an_answer_without_a_deadline_has_a_bound_of_its_own() {
    let peer = Peer::new([answers(in_progress(Pushback::After(secs(1))))]);
    let began = Instant::now();
    let retry = retry().with_wait_max(secs(12));
    let error = peer
        .call_within(Duration::MAX, &retry, Request::new("pay"))
        .await
        .unwrap_err();
    assert_eq!(error.stopped, Stopped::Deadline);
    assert!(began.elapsed() <= secs(12));
}

// H5
#[tokio::test(start_paused = true)]
async fn mismatch_and_stale_are_answered_as_they_came_and_never_retried() {
    for executed in [Executed::Never, Executed::NotThisAttempt] {
        let peer = Peer::new([answers(Verdict::Refuse(executed))]);
        let answer = peer.call(&retry(), Request::new("pay")).await.unwrap();
        assert_eq!(answer.means, Verdict::Refuse(executed));
        assert_eq!(peer.attempts(), 1);
    }
}

// H5
#[tokio::test(start_paused = true)]
async fn in_doubt_is_said_so_and_never_retried() {
    let peer = Peer::new([answers(Verdict::InDoubt)]);
    let error = peer.call(&retry(), Request::new("pay")).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::InDoubt);
    assert!(matches!(error.last, Last::Response(_)));
    assert_eq!(peer.attempts(), 1);
}

// H4
#[tokio::test(start_paused = true)]
async fn a_lost_attempt_is_not_repeated_to_a_peer_that_is_not_known_to_dedupe() {
    let peer = Peer::new([lost(), accepted()]);
    let error = peer.call(&retry(), Request::new("pay")).await.unwrap_err();
    assert_eq!(error.stopped, Stopped::PeerNotKnownToDedupe);
    assert_eq!(error.outcome, Outcome::Unknown);
    assert_eq!(peer.attempts(), 1);
}

// H4
#[tokio::test(start_paused = true)]
async fn in_progress_from_a_peer_that_names_no_store_is_not_asked_again() {
    let peer = Peer::new([answers_storeless(in_progress(Pushback::Silent))]);
    let error = peer.call(&retry(), Request::new("pay")).await.unwrap_err();
    assert_eq!(error.stopped, Stopped::PeerNotKnownToDedupe);
    assert_eq!(error.outcome, Outcome::Unknown);
}

// H4
#[tokio::test(start_paused = true)]
async fn a_lost_attempt_is_repeated_to_a_peer_that_named_its_store_or_is_said_to_dedupe() {
    let named = Peer::new([answers(busy(Pushback::Silent)), lost(), accepted()]);
    named.call(&retry(), Request::new("pay")).await.unwrap();
    let last = named.received().remove(2).stamped.unwrap();
    assert_eq!(last.store, Some(store()), "later attempts carry the store");

    let assumed = Peer::new([lost(), accepted()]);
    let retry = retry().assume_dedupe();
    assumed.call(&retry, Request::new("pay")).await.unwrap();
}

// H8
#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_copied_is_sent_once() {
    let peer = Peer::new([refused(), accepted()]);
    let request = Request::new("a long upload").streaming();
    let error = peer.call(&retry(), request).await.unwrap_err();
    assert_eq!(error.stopped, Stopped::OneShot);
    assert_eq!(error.outcome, Outcome::NotExecuted);
    assert_eq!(peer.attempts(), 1);
}

// H8
#[tokio::test(start_paused = true)]
async fn every_attempt_has_the_whole_request() {
    let peer = Peer::new([refused(), refused(), accepted()]);
    peer.call(&retry(), Request::new("all of it"))
        .await
        .unwrap();
    let bodies: Vec<_> = peer.received().iter().map(|r| r.body).collect();
    assert_eq!(bodies, ["all of it"; 3]);
}

/// Counts how often a request was copied.
#[derive(Clone)]
struct CountCopies(Arc<AtomicUsize>);

impl Adapter<Request> for CountCopies {
    type Response = Answer;
    type Error = Fault;

    fn ticket(&self, request: &Request) -> Option<Ticket> {
        MockAdapter.ticket(request)
    }

    fn stamp(&self, keyed: Keyed<Request>) -> Request {
        MockAdapter.stamp(keyed)
    }

    fn try_clone(&self, request: &Request) -> Option<Request> {
        self.0.fetch_add(1, Ordering::Relaxed);
        MockAdapter.try_clone(request)
    }

    fn classify(&self, call: &Call, result: std::result::Result<&Answer, &Fault>) -> Verdict {
        MockAdapter.classify(call, result)
    }
}

// H8
#[tokio::test(start_paused = true)]
async fn the_last_attempt_takes_the_request_itself() {
    for (max, copies) in [(1, 0), (3, 2)] {
        let adapter = CountCopies(Arc::default());
        let error = ServiceBuilder::new()
            .layer(AttachKeyLayer::new(adapter.clone()))
            .layer(RetryLayer::new(adapter.clone()).with_attempts_max(attempts(max)))
            .map_err(AttemptError::Inner)
            .map_request(|keyed: Keyed<Request>| keyed.into_parts().0)
            .service(Peer::new([refused()]))
            .oneshot(Request::new("pay"))
            .await
            .unwrap_err();
        assert_eq!(error.stopped, Stopped::Attempts);
        assert_eq!(adapter.0.load(Ordering::Relaxed), copies);
    }
}

// H6, P7
#[tokio::test(start_paused = true)]
async fn a_hint_past_the_deadline_ends_the_call_at_once() {
    let peer = Peer::new([answers(busy(Pushback::After(secs(31_536_000))))]);
    let began = Instant::now();
    let error = peer.call(&retry(), Request::new("pay")).await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(error.stopped, Stopped::Deadline);
    assert_eq!(error.outcome, Outcome::NotExecuted);
}

// H6, P7
#[tokio::test(start_paused = true)]
async fn a_thousand_clients_with_one_hint_come_back_spread_over_the_window() {
    jitter::seed_this_thread(7);
    let backoff = Backoff::new(BackoffOptions {
        base: secs(1),
        factor: 2,
        cap: secs(20),
    })
    .unwrap();
    let retry = retry()
        .with_backoff(backoff)
        .with_budget(RetryBudget::unlimited());
    let peers: Vec<_> = (0..1000)
        .map(|_| Peer::new([answers(busy(Pushback::After(secs(1)))), accepted()]))
        .collect();
    let calls = peers
        .iter()
        .map(|peer| peer.call(&retry, Request::new("pay")));
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    let mut tenths = [0; 10];
    for peer in &peers {
        let times = peer.times();
        let late = (times[1] - times[0]).checked_sub(secs(1)).unwrap();
        tenths[((late.as_millis() / 100) as usize).min(9)] += 1;
    }
    assert!(
        tenths.iter().all(|count| (50..200).contains(count)),
        "{tenths:?}"
    );
}

// H6, P7
#[tokio::test(start_paused = true)]
async fn a_hint_lengthens_a_delay_by_at_most_five_seconds() {
    let peer = Peer::new([answers(busy(Pushback::After(secs(20)))), accepted()]);
    peer.call(&retry(), Request::new("pay")).await.unwrap();
    let times = peer.times();
    let delay = times[1] - times[0];
    assert!(delay >= secs(5), "{delay:?}");
    assert!(delay <= secs(5) + Duration::from_millis(51), "{delay:?}");
}

// P7
#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_not_to_be_asked_again_is_not() {
    let peer = Peer::new([answers(busy(Pushback::Stop)), accepted()]);
    let error = peer.call(&retry(), Request::new("pay")).await.unwrap_err();
    assert_eq!(error.stopped, Stopped::Pushback);
    assert_eq!(peer.attempts(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_peer_gets_delays_from_a_second_on() {
    jitter::seed_this_thread(11);
    let unlimited = retry().with_budget(RetryBudget::unlimited());
    let mut longest = Duration::ZERO;
    for _ in 0..200 {
        let peer = Peer::new([answers(busy(Pushback::Overloaded)), accepted()]);
        peer.call(&unlimited, Request::new("pay")).await.unwrap();
        let times = peer.times();
        longest = longest.max(times[1] - times[0]);
    }
    assert!(longest > Duration::from_millis(900), "{longest:?}");
    assert!(longest <= Duration::from_millis(1001), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_recovers_answers_the_same_call() {
    let peer = Peer::new([refused()]);
    let error = peer.call(&retry(), Request::new("pay")).await.unwrap_err();
    advance(secs(60)).await;
    peer.set_script([accepted()]);
    let again = Request::new("pay").with_ticket(error.ticket.clone());
    peer.call(&retry(), again).await.unwrap();
    assert!(keys(&peer).iter().all(|key| *key == error.ticket.key));
}
