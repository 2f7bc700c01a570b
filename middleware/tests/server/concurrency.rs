//! Many attempts of one call at once.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use onlyonce_middleware::server::{DedupeOptions, Refusal, Served, Wait};
use onlyonce_storage::{IdempotencyKey, KeyState, MemoryStore, Scope, ScopedKey};
use tokio::sync::Notify;

use crate::protocol::{Ask, Effects, Handler, Server, Told, done, send};
use crate::watched::Watched;

fn served(told: &Told) -> Option<Served> {
    match told {
        Told::Done(_, served) => Some(*served),
        _ => None,
    }
}

fn refusing_at_once() -> DedupeOptions {
    let mut options = DedupeOptions::default();
    options.wait = Wait::No;
    options
}

/// A handler that waits until it is told to go on.
fn gated(effects: &Effects, gate: &Arc<Notify>) -> Handler {
    let (effects, gate) = (effects.clone(), Arc::clone(gate));
    Handler::new(move |ask: Ask| {
        let (effects, gate) = (effects.clone(), Arc::clone(&gate));
        async move {
            gate.notified().await;
            effects.apply(&ask.body);
            Ok(done(&ask.body))
        }
    })
}

async fn until_in_flight(server: &Server, flights: usize) {
    while server.load().0 < flights {
        tokio::task::yield_now().await;
    }
}

// A1
#[tokio::test(flavor = "multi_thread")]
async fn of_64_identical_requests_one_is_executed_and_all_get_its_answer() {
    let effects = Effects::default();
    let server = Handler::applying(&effects).over(Arc::new(MemoryStore::default()));
    let answers = join_all((0..64).map(|_| {
        let server = server.clone();
        tokio::spawn(async move { send(&server, Ask::new("k", "pay")).await })
    }))
    .await;
    let answers: Vec<Told> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(effects.of("pay"), 1);
    let executed = answers
        .iter()
        .filter(|told| served(told) == Some(Served::Executed))
        .count();
    assert_eq!(executed, 1);
    for told in &answers {
        assert!(
            matches!(told, Told::Done(body, _) if body == "pay #1"),
            "{told:?}"
        );
    }
}

// A3
#[tokio::test(start_paused = true)]
async fn a_duplicate_is_refused_with_advice_and_replays_once_the_owner_is_done() {
    let effects = Effects::default();
    let handler = Handler::slow(&effects, Duration::from_secs(8));
    let server = handler.over_with(Arc::new(MemoryStore::default()), refusing_at_once());
    let owner = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    until_in_flight(&server, 1).await;

    let refused = send(&server, Ask::new("k", "pay")).await;
    assert!(matches!(
        refused,
        Told::Refused(Refusal::InProgress { retry_after }) if retry_after > Duration::ZERO
    ));
    assert_eq!(
        owner.await.unwrap(),
        Told::Done("pay #1".to_owned(), Served::Executed)
    );
    let replayed = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(replayed, Told::Done("pay #1".to_owned(), Served::Replayed));
    assert_eq!(effects.of("pay"), 1);
}

// A4
#[tokio::test(start_paused = true)]
async fn a_refused_duplicate_never_touches_the_record_of_the_owner() {
    let effects = Effects::default();
    let store = Watched::new(Arc::new(MemoryStore::default()));
    let handler = Handler::slow(&effects, Duration::from_secs(8));
    let server = handler.over_with(store.clone(), refusing_at_once());
    let owner = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    until_in_flight(&server, 1).await;
    for _ in 0..2 {
        let refused = send(&server, Ask::new("k", "pay")).await;
        assert!(
            matches!(refused, Told::Refused(Refusal::InProgress { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(store.settlements.load(Ordering::SeqCst), 0);
    assert_eq!(served(&owner.await.unwrap()), Some(Served::Executed));
    assert_eq!(effects.of("pay"), 1);
}

// A5
#[tokio::test]
async fn a_refused_mismatch_leaves_the_record_for_the_rightful_retry() {
    let effects = Effects::default();
    let server = Handler::applying(&effects).over(Arc::new(MemoryStore::default()));
    send(&server, Ask::new("k", "pay 10")).await;
    let refused = send(&server, Ask::new("k", "pay 99")).await;
    assert_eq!(refused, Told::Refused(Refusal::Mismatch));
    let replayed = send(&server, Ask::new("k", "pay 10")).await;
    assert_eq!(
        replayed,
        Told::Done("pay 10 #1".to_owned(), Served::Replayed)
    );
    assert_eq!(effects.total(), 1);
}

// A6: two processes with one store, so that the second can only wait by looking.
#[tokio::test(start_paused = true)]
async fn a_waiter_that_looks_just_as_the_owner_finishes_replays_and_never_executes() {
    for finish_ms in 1..60 {
        let effects = Effects::default();
        let store = Arc::new(MemoryStore::default());
        let owner = Handler::slow(&effects, Duration::from_millis(finish_ms)).over(store.clone());
        let elsewhere = Handler::applying(&effects).over(store.clone());
        let first = tokio::spawn({
            let owner = owner.clone();
            async move { send(&owner, Ask::new("k", "pay")).await }
        });
        until_in_flight(&owner, 1).await;
        tokio::task::yield_now().await;
        let second = send(&elsewhere, Ask::new("k", "pay")).await;
        assert_eq!(served(&first.await.unwrap()), Some(Served::Executed));
        assert_eq!(
            second,
            Told::Done("pay #1".to_owned(), Served::Replayed),
            "{finish_ms} ms"
        );
        assert_eq!(effects.of("pay"), 1);
    }
}

// A7
#[tokio::test(start_paused = true)]
async fn a_waiter_outlasts_an_owner_ten_times_slower_than_its_longest_pause() {
    let effects = Effects::default();
    let store = Arc::new(MemoryStore::default());
    let owner = Handler::slow(&effects, Duration::from_millis(2_500)).over(store.clone());
    let elsewhere = Handler::applying(&effects).over(store.clone());
    let first = tokio::spawn({
        let owner = owner.clone();
        async move { send(&owner, Ask::new("k", "pay")).await }
    });
    until_in_flight(&owner, 1).await;
    tokio::task::yield_now().await;
    let second = send(&elsewhere, Ask::new("k", "pay")).await;
    assert_eq!(second, Told::Done("pay #1".to_owned(), Served::Replayed));
    first.await.unwrap();
    assert_eq!(effects.of("pay"), 1);
}

// A8
#[tokio::test]
async fn a_waiter_who_goes_away_leaves_nothing_behind() {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let server = gated(&effects, &gate).over(Arc::new(MemoryStore::default()));
    let owner = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    until_in_flight(&server, 1).await;
    let waiter = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    while server.load().1 == 0 {
        tokio::task::yield_now().await;
    }
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    assert_eq!(server.load(), (1, 0));
    gate.notify_one();
    assert_eq!(
        owner.await.unwrap(),
        Told::Done("pay".to_owned(), Served::Executed)
    );
    assert_eq!(server.load(), (0, 0));
}

// A8, B16
#[tokio::test]
async fn a_caller_who_goes_away_leaves_the_handler_running_and_the_answer_to_the_waiters() {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let server = gated(&effects, &gate).over(Arc::new(MemoryStore::default()));
    let owner = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    until_in_flight(&server, 1).await;
    let waiter = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    while server.load().1 == 0 {
        tokio::task::yield_now().await;
    }
    owner.abort();
    assert!(owner.await.unwrap_err().is_cancelled());
    gate.notify_one();
    assert_eq!(
        waiter.await.unwrap(),
        Told::Done("pay".to_owned(), Served::Attached)
    );
    let replayed = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(replayed, Told::Done("pay".to_owned(), Served::Replayed));
    assert_eq!(effects.of("pay"), 1);
}

// A9
#[tokio::test]
async fn ten_thousand_duplicates_of_a_hot_key_cost_the_store_one_claim() {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let store = Watched::new(Arc::new(MemoryStore::default()));
    let mut options = DedupeOptions::default();
    options.waiters_per_key_max = 10_000;
    let server = gated(&effects, &gate).over_with(store.clone(), options);
    let calls: Vec<_> = (0..10_000)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { send(&server, Ask::new("k", "pay")).await })
        })
        .collect();
    while server.load().1 < 9_999 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    for told in join_all(calls).await {
        assert!(matches!(told.unwrap(), Told::Done(..)));
    }
    assert_eq!(store.claims.load(Ordering::SeqCst), 1);
    assert_eq!(effects.of("pay"), 1);
}

// A9
#[tokio::test]
async fn duplicates_beyond_the_bound_on_waiters_are_refused_at_once() {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let mut options = DedupeOptions::default();
    options.waiters_per_key_max = 2;
    let server = gated(&effects, &gate).over_with(Arc::new(MemoryStore::default()), options);
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { send(&server, Ask::new("k", "pay")).await })
        })
        .collect();
    while server.load() != (1, 2) {
        tokio::task::yield_now().await;
    }
    let refused = send(&server, Ask::new("k", "pay")).await;
    assert!(
        matches!(refused, Told::Refused(Refusal::InProgress { .. })),
        "{refused:?}"
    );
    gate.notify_one();
    for told in join_all(calls).await {
        assert!(matches!(told.unwrap(), Told::Done(..)));
    }
}

#[tokio::test]
async fn a_call_beyond_the_bound_on_executions_is_refused_as_not_executed() {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let mut options = DedupeOptions::default();
    options.flights_max = 1;
    let server = gated(&effects, &gate).over_with(Arc::new(MemoryStore::default()), options);
    let first = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    until_in_flight(&server, 1).await;
    let refused = send(&server, Ask::new("l", "pay more")).await;
    assert!(
        matches!(
            refused,
            Told::Refused(Refusal::Unavailable { retry_after, .. }) if retry_after > Duration::ZERO
        ),
        "{refused:?}"
    );
    gate.notify_one();
    assert_eq!(served(&first.await.unwrap()), Some(Served::Executed));
    assert_eq!(effects.of("pay more"), 0);
}

#[tokio::test]
async fn waiting_without_end_can_be_said() {
    let effects = Effects::default();
    let mut options = DedupeOptions::default();
    options.wait = Wait::UpTo(Duration::MAX);
    let store = Arc::new(MemoryStore::default());
    let server = Handler::applying(&effects).over_with(store, options);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("pay #1".to_owned(), Served::Executed));
    let key = ScopedKey::new(
        Scope::principal("tenant").unwrap(),
        IdempotencyKey::parse("k").unwrap(),
    );
    let state = server.keys().resume(key, Duration::MAX).await.unwrap();
    assert!(matches!(state, KeyState::Completed(_)), "{state:?}");
}

#[tokio::test]
async fn executions_are_idle_once_the_handler_of_a_caller_who_went_away_has_ended() {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let server = gated(&effects, &gate).over(Arc::new(MemoryStore::default()));
    let executions = server.executions();
    executions.idle().await;
    let caller = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    until_in_flight(&server, 1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    assert_eq!(executions.count(), 1);
    let mut idle = pin!(executions.idle());
    assert_eq!(idle.as_mut().now_or_never(), None);
    gate.notify_one();
    idle.await;
    assert_eq!((executions.count(), effects.of("pay")), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_before_the_claim_means_that_this_attempt_was_not_executed() {
    let effects = Effects::default();
    let server = Handler::applying(&effects).over(Arc::new(MemoryStore::default()));
    let refused = send(&server, Ask::new("k", "pay").within(Duration::ZERO)).await;
    assert_eq!(
        refused,
        Told::Refused(Refusal::DeadlinePassed { executing: false })
    );
    assert_eq!(effects.total(), 0);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(served(&told), Some(Served::Executed));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_while_running_says_so_and_the_retry_gets_the_answer() {
    let effects = Effects::default();
    let handler = Handler::slow(&effects, Duration::from_secs(2));
    let server = handler.over(Arc::new(MemoryStore::default()));
    let refused = send(&server, Ask::new("k", "pay").within(Duration::from_secs(1))).await;
    assert_eq!(
        refused,
        Told::Refused(Refusal::DeadlinePassed { executing: true })
    );
    let attached = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(attached, Told::Done("pay #1".to_owned(), Served::Attached));
    assert_eq!(effects.of("pay"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_was_told_not_executed_is_told_the_truth_even_if_the_claim_comes_late() {
    let effects = Effects::default();
    let store = Watched::new(Arc::new(MemoryStore::default()));
    store.slow_claims.store(true, Ordering::SeqCst);
    let server = Handler::applying(&effects).over(store.clone());
    let refused = send(&server, Ask::new("k", "pay").within(Duration::from_secs(1))).await;
    assert_eq!(
        refused,
        Told::Refused(Refusal::DeadlinePassed { executing: false })
    );
    // The claim comes a second later, and is given back.
    while server.load().0 > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(effects.total(), 0);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("pay #1".to_owned(), Served::Executed));
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_with_more_time_executes_what_the_first_caller_called_off() {
    let effects = Effects::default();
    let store = Watched::new(Arc::new(MemoryStore::default()));
    store.slow_claims.store(true, Ordering::SeqCst);
    let server = Handler::applying(&effects).over(store.clone());
    let hasty = {
        let server = server.clone();
        tokio::spawn(async move {
            send(&server, Ask::new("k", "pay").within(Duration::from_secs(1))).await
        })
    };
    until_in_flight(&server, 1).await;
    let patient = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(patient, Told::Done("pay #1".to_owned(), Served::Executed));
    let told = hasty.await.unwrap();
    assert_eq!(
        told,
        Told::Refused(Refusal::DeadlinePassed { executing: false })
    );
    assert_eq!(effects.of("pay"), 1);
}
