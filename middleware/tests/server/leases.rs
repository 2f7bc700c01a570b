//! Owners that are frozen, hang, or have no time: what their leases guarantee.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use onlyonce_middleware::server::{DedupeLayer, DedupeOptions, Refusal, Served};
use onlyonce_storage::{DoubtReason, KeyState, ManualClock, MemoryOptions, MemoryStore, Store};
use tokio::sync::Notify;
use tower::timeout::Timeout;
use tower::{BoxError, Layer, Service, ServiceExt};

use crate::doubts::{in_doubt, key};
use crate::protocol::{Ask, Effects, Handler, NoAnswer, Plain, Told, done, send};
use crate::watched::Watched;

const LEASE: Duration = Duration::from_secs(30);

fn memory() -> (Arc<MemoryStore>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let options = MemoryOptions::new().clock(clock.clone());
    (Arc::new(MemoryStore::with_options(options)), clock)
}

// B10: whatever woke the handler meanwhile, it is not polled again.
#[tokio::test(start_paused = true)]
async fn an_owner_that_was_frozen_for_five_leases_does_not_go_on_where_it_stopped() {
    let effects = Effects::default();
    let (store, clock) = memory();
    let woken = Arc::new(Notify::new());
    let server = {
        let (effects, woken) = (effects.clone(), Arc::clone(&woken));
        Handler::new(move |ask: Ask| {
            let (effects, woken) = (effects.clone(), Arc::clone(&woken));
            async move {
                woken.notified().await;
                effects.apply(&ask.body);
                Ok(done("too late"))
            }
        })
    }
    .over(store.clone());
    let caller = tokio::spawn({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    while store.peek(key("k")).await.unwrap() == KeyState::Absent {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    // The process stands still; then everything that was due is due at once.
    woken.notify_one();
    clock.advance(LEASE * 5);
    tokio::time::advance(LEASE * 5).await;
    let told = caller.await.unwrap();
    assert_eq!(in_doubt(&told), Some(DoubtReason::LeaseLapsed));
    assert_eq!(effects.total(), 0);
}

// B14
#[tokio::test(start_paused = true)]
async fn an_answer_whose_recording_never_ends_is_delivered_and_its_key_is_never_free() {
    let effects = Effects::default();
    let (store, clock) = memory();
    let watched = Watched::new(store);
    let server = Handler::applying(&effects).over(watched.clone());
    watched.hang_settlements.store(true, Ordering::SeqCst);
    let began = tokio::time::Instant::now();
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(
        told,
        Told::Done("pay #1".to_owned(), Served::ExecutedUnrecorded)
    );
    assert!(began.elapsed() <= LEASE + LEASE / 10);
    watched.hang_settlements.store(false, Ordering::SeqCst);
    clock.advance(LEASE);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert!(in_doubt(&told).is_some(), "{told:?}");
    assert_eq!(effects.of("pay"), 1);
    assert_eq!(server.load(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_no_word_of_a_doubt_or_a_release_holds_nobody_for_ever() {
    for ending in [
        Ok(Told::TryLater(Served::Unprotected)),
        Ok(Told::Broken("500".to_owned(), Served::Unprotected)),
        Err(NoAnswer),
    ] {
        let watched = Watched::new(memory().0);
        let ending = Arc::new(parking_lot::Mutex::new(Some(ending)));
        let handler = Handler::new(move |_| {
            let ending = ending.lock().take();
            std::future::ready(ending.expect("it runs once"))
        });
        let server = handler.over(watched.clone());
        watched.hang_settlements.store(true, Ordering::SeqCst);
        let told = send(&server, Ask::new("k", "pay")).await;
        assert!(!matches!(told, Told::Done(..)), "{told:?}");
        assert_eq!(server.load(), (0, 0));
    }
}

// B4: what is left of the caller's time is not what the claim holds for.
#[tokio::test(start_paused = true)]
async fn a_claim_has_its_lease_whatever_is_left_of_the_deadline() {
    for lease in [Duration::ZERO, LEASE] {
        let effects = Effects::default();
        let (store, clock) = memory();
        let mut options = DedupeOptions::default();
        options.lease = lease;
        let handler = Handler::new(|_| std::future::pending());
        let server = handler.over_with(store.clone(), options);
        let told = send(&server, Ask::new("k", "pay").within(Duration::ZERO)).await;
        assert_eq!(
            told,
            Told::Refused(Refusal::DeadlinePassed { executing: false })
        );
        assert_eq!(store.peek(key("k")).await.unwrap(), KeyState::Absent);

        let told = send(
            &server,
            Ask::new("k", "pay").within(Duration::from_millis(1)),
        )
        .await;
        assert_eq!(
            told,
            Told::Refused(Refusal::DeadlinePassed { executing: true })
        );
        let state = store.peek(key("k")).await.unwrap();
        assert!(matches!(state, KeyState::InProgress { .. }), "{state:?}");
        clock.advance(LEASE);
        let elsewhere = Handler::applying(&effects).over(store.clone());
        let told = send(&elsewhere, Ask::new("k", "pay")).await;
        assert!(in_doubt(&told).is_some(), "{told:?}");
        assert_eq!(effects.total(), 0);
    }
}

// B5
#[tokio::test(start_paused = true)]
async fn a_call_without_a_deadline_holds_its_key_and_lapses_like_any_other() {
    let effects = Effects::default();
    let (store, clock) = memory();
    let hangs = Handler::new(|_| std::future::pending()).over(store.clone());
    let caller = tokio::spawn(async move { send(&hangs, Ask::new("k", "pay")).await });
    while store.peek(key("k")).await.unwrap() == KeyState::Absent {
        tokio::task::yield_now().await;
    }
    let elsewhere = Handler::applying(&effects).over(store.clone());
    let told = send(&elsewhere, Ask::new("k", "pay")).await;
    assert!(
        matches!(told, Told::Refused(Refusal::InProgress { .. })),
        "{told:?}"
    );
    // Its process is gone, and nobody renews.
    caller.abort();
    clock.advance(LEASE);
    let told = send(&elsewhere, Ask::new("k", "pay")).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::LeaseLapsed));
    assert_eq!(effects.total(), 0);
}

// B18
#[tokio::test(start_paused = true)]
async fn a_timeout_outside_or_inside_of_the_layer_lets_the_effect_happen_at_most_once() {
    let effects = Effects::default();
    let slow = || Handler::slow(&effects, Duration::from_secs(5));

    let server = slow().over(memory().0);
    let mut outside = Timeout::new(server.clone(), Duration::from_secs(1));
    for _ in 0..3 {
        let told = outside.ready().await.unwrap().call(Ask::new("k", "out"));
        assert!(told.await.is_err(), "it took too long");
    }
    server.executions().idle().await;
    let told = send(&server, Ask::new("k", "out")).await;
    assert_eq!(told, Told::Done("out #1".to_owned(), Served::Replayed));

    let limited = Timeout::new(slow(), Duration::from_secs(1)).map_err(|_: BoxError| NoAnswer);
    let server = DedupeLayer::new(memory().0 as Arc<dyn Store>, Plain).layer(limited);
    for _ in 0..3 {
        let told = server.clone().oneshot(Ask::new("k", "in")).await.unwrap();
        assert_eq!(in_doubt(&told), Some(DoubtReason::Ambiguous));
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(effects.of("in") <= 1 && effects.of("out") == 1);
}

// J7
#[tokio::test(start_paused = true)]
async fn a_layer_inside_of_another_does_not_wait_for_itself() {
    let effects = Effects::default();
    let outer_store = memory().0;
    for (inner_store, same) in [(memory().0, false), (outer_store.clone(), true)] {
        let layer = DedupeLayer::new(outer_store.clone() as Arc<dyn Store>, Plain);
        let inner = DedupeLayer::new(inner_store as Arc<dyn Store>, Plain)
            .layer(Handler::applying(&effects));
        let key = if same { "same" } else { "other" };
        let server = layer.layer(inner);
        let began = tokio::time::Instant::now();
        let told = server.clone().oneshot(Ask::new(key, key)).await.unwrap();
        assert!(began.elapsed() <= Duration::from_secs(6));
        if same {
            // The inner one finds its key held by the outer one, and says so in bounded time; the
            // effect did not happen.
            assert!(
                matches!(told, Told::Refused(Refusal::InProgress { .. })),
                "{told:?}"
            );
        } else {
            assert_eq!(told, Told::Done("other #1".to_owned(), Served::Executed));
        }
        assert_eq!(server.load(), (0, 0));
    }
    assert_eq!((effects.of("other"), effects.of("same")), (1, 0));
}
