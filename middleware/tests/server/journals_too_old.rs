//! Journaled calls that have stood still for longer than the peers of their steps may remember.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_middleware::server::{DedupeOptions, Served};
use onlyonce_storage::journal::StepResolution;
use onlyonce_storage::{
    Clock, DoubtReason, FencingToken, InDoubt, Journal, KeyState, ManualClock, MemoryOptions,
    MemoryStore, StepName, Store, Timestamp,
};

use crate::doubts::{in_doubt, key};
use crate::journaled_calls::{Peer, is_in_progress, journaled, unknown};
use crate::protocol::{Ask, Handler, Told, done, send};

const HOUR: Duration = Duration::from_secs(60 * 60);

fn order() -> Ask {
    Ask::new("k", "order")
}

fn store() -> (Arc<ManualClock>, MemoryStore) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let options = MemoryOptions::default().clock(Arc::clone(&clock) as Arc<dyn Clock>);
    (clock, MemoryStore::with_options(options))
}

/// Asks the peer for an effect, and hears nothing of it in so many runs.
fn unheard(peer: &Peer, runs_before: u32) -> Handler {
    let peer = peer.clone();
    journaled(move |run, steps, _| {
        let peer = peer.clone();
        async move {
            let charge = async |step| match (peer.ask(&step), run < runs_before) {
                (_, true) => Err(unknown()),
                (answer, false) => Ok(answer),
            };
            steps.run_keyed("charge", charge).await?;
            Ok(done("ordered"))
        }
    })
}

async fn doubt(store: &MemoryStore) -> InDoubt {
    match store.peek(key("k")).await.unwrap() {
        KeyState::InDoubt(doubt) => doubt,
        other => panic!("{other:?}"),
    }
}

// B6: the peer may have forgotten the key, and would have the effect again.
#[tokio::test]
async fn a_call_that_stood_still_for_too_long_is_in_doubt_and_its_step_does_not_run() {
    let (clock, store) = store();
    let peer = Peer::default();
    let server = unheard(&peer, 1).over(Arc::new(store.clone()));
    assert!(is_in_progress(&send(&server, order()).await));
    clock.advance(20 * HOUR + Duration::from_secs(1));

    for attempt in 0..3 {
        let told = send(&server, order()).await;
        assert_eq!(in_doubt(&told), Some(DoubtReason::Ambiguous), "{told:?}");
        assert_eq!(peer.asked(), 1, "attempt {attempt}");
        // Nor is it one that can go on any more.
        let passed = server.finish_abandoned().await.unwrap();
        assert_eq!((passed.seen, passed.gone_on_with), (0, 0));
    }
}

// B6
#[tokio::test]
async fn a_call_that_stood_still_for_too_long_is_not_claimed_by_its_server() {
    let (clock, store) = store();
    let peer = Peer::default();
    let server = unheard(&peer, 1).over(Arc::new(store.clone()));
    assert!(is_in_progress(&send(&server, order()).await));
    let before = doubt(&store).await;
    clock.advance(20 * HOUR + Duration::from_secs(1));

    let passed = server.finish_abandoned().await.unwrap();
    let seen = (passed.seen, passed.gone_on_with, passed.too_old);
    assert_eq!(seen, (1, 0, 1));
    assert_eq!((peer.asked(), doubt(&store).await), (1, before.clone()));

    // Whoever names the call to the layer itself has it run as little.
    let mut unasked = order();
    unasked.goes_on_from = Some(before.token);
    let told = send(&server, unasked).await;
    assert_eq!(peer.asked(), 1, "{told:?}");
    assert_eq!(doubt(&store).await.reason, DoubtReason::Ambiguous);
}

#[tokio::test]
async fn a_call_that_has_not_stood_still_for_too_long_goes_on_until_the_end() {
    let (clock, store) = store();
    let peer = Peer::default();
    let server = unheard(&peer, 1).over(Arc::new(store.clone()));
    assert!(is_in_progress(&send(&server, order()).await));
    clock.advance(20 * HOUR);
    let passed = server.finish_abandoned().await.unwrap();
    assert_eq!((passed.gone_on_with, passed.too_old), (1, 0));
    let replayed = Told::Done("ordered".to_owned(), Served::Replayed);
    assert_eq!(send(&server, order()).await, replayed);
    assert_eq!((peer.asked(), peer.effects()), (2, 1));
}

// B6: each run asks the peer anew, and none makes the call younger.
#[tokio::test]
async fn a_call_is_as_old_as_its_first_run_however_often_it_is_gone_on_with() {
    let (clock, store) = store();
    let begun = Arc::new(AtomicU64::new(0));
    let (runs, seen) = (Arc::new(AtomicU64::new(0)), begun.clone());
    let counted = runs.clone();
    let handler = journaled(move |_, steps, _| {
        let (begun, runs) = (begun.clone(), runs.clone());
        async move {
            let charge = async |run: onlyonce_middleware::server::StepRun| {
                runs.fetch_add(1, Ordering::SeqCst);
                begun.store(run.begun_at.as_millis(), Ordering::SeqCst);
                assert_eq!(run.ticket().first_sent, Some(run.begun_at));
                Err(unknown())
            };
            steps.run_keyed("charge", charge).await?;
            Ok(done("ordered"))
        }
    });
    let server = handler.over(Arc::new(store.clone()));
    let begun_at = clock.now().as_millis();
    for _ in 0..3 {
        assert!(is_in_progress(&send(&server, order()).await));
        assert_eq!(seen.load(Ordering::SeqCst), begun_at);
        clock.advance(7 * HOUR);
    }
    let told = send(&server, order()).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::Ambiguous), "{told:?}");
    assert_eq!(counted.load(Ordering::SeqCst), 3);
}

// J2: a peer that forgets sooner.
#[tokio::test]
async fn how_long_a_call_is_gone_on_with_is_an_option() {
    let (clock, store) = store();
    let peer = Peer::default();
    let mut options = DedupeOptions::default();
    options.go_on_within = HOUR;
    let server = unheard(&peer, 1).over_with(Arc::new(store.clone()), options);
    assert!(is_in_progress(&send(&server, order()).await));
    clock.advance(2 * HOUR);
    let told = send(&server, order()).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::Ambiguous), "{told:?}");
    assert_eq!(peer.asked(), 1);
}

// E1: a clock that was ahead when the call was begun says nothing of how old it is.
#[tokio::test]
async fn a_call_that_was_begun_in_the_future_waits_until_the_clock_is_right() {
    let (clock, store) = store();
    let peer = Peer::default();
    clock.advance(24 * HOUR);
    let server = unheard(&peer, 1).over(Arc::new(store.clone()));
    assert!(is_in_progress(&send(&server, order()).await));
    clock.set(Timestamp::from_millis(1_700_000_000_000));
    let passed = server.finish_abandoned().await.unwrap();
    assert_eq!((passed.gone_on_with, passed.too_old), (0, 1));
    let told = send(&server, order()).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::OwnerGone), "{told:?}");
    assert_eq!(peer.asked(), 1);

    // Once the clock is right again it is as young as it was.
    clock.advance(24 * HOUR);
    let told = send(&server, order()).await;
    assert!(matches!(told, Told::Done(_, Served::Executed)), "{told:?}");
}

// B6: what an operator says of a step makes its call no younger.
#[tokio::test]
async fn a_call_that_is_too_old_does_not_go_on_when_its_step_is_resolved() {
    let (clock, store) = store();
    let peer = Peer::default();
    let handler = {
        let peer = peer.clone();
        journaled(move |_, steps, _| {
            let peer = peer.clone();
            async move {
                let print = steps.run_once("print", |_| std::future::ready(Err(unknown())));
                print.await?;
                let charge = async |run| Ok(peer.ask(&run));
                steps.run_keyed("charge", charge).await?;
                Ok(done("ordered"))
            }
        })
    };
    let server = handler.over(Arc::new(store.clone()));
    let told = send(&server, order()).await;
    assert_eq!(in_doubt(&told), Some(DoubtReason::Ambiguous), "{told:?}");
    clock.advance(30 * HOUR);
    resolve(&store, doubt(&store).await.token).await;

    let passed = server.finish_abandoned().await.unwrap();
    assert_eq!((passed.gone_on_with, passed.too_old), (0, 1));
    for _ in 0..2 {
        let told = send(&server, order()).await;
        assert_eq!(in_doubt(&told), Some(DoubtReason::Ambiguous), "{told:?}");
    }
    assert_eq!(peer.asked(), 0);
}

async fn resolve(store: &MemoryStore, token: FencingToken) {
    let step = StepName::parse("print").unwrap();
    let done = StepResolution::Done("by hand".into());
    let resolved = store.resolve_step(key("k"), token, step, done).await;
    resolved.unwrap();
}
