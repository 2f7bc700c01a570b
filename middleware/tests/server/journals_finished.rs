//! Journaled calls that stand still and are gone on with by their server, unasked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use onlyonce_middleware::server::{AbandonedCall, DedupeLayer, Refusal, Served};
use onlyonce_storage::{
    ClaimOutcome, ClaimRequest, DoubtReason, FencingToken, Fingerprint, FingerprintAlgorithm,
    Fingerprints, Inspect, KeyState, MemoryStore, Operator, Resolution, Store,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tower::Layer;

use crate::doubts::key;
use crate::journaled_calls::{is_in_progress, journaled, result, unknown};
use crate::protocol::{Ask, Effects, Handler, Plain, Told, done, send};

fn order() -> Ask {
    Ask::new("k", "order")
}

/// Stands still in its first runs.
fn standing_still(runs_before: u32) -> Handler {
    journaled(move |run, steps, _| async move {
        steps.run_once("first", |_| result("1")).await?;
        let second = async |_| match run < runs_before {
            true => Err(unknown()),
            false => Ok("2".into()),
        };
        steps.run_keyed("second", second).await?;
        Ok(done(&format!("run {run}")))
    })
}

// B6
#[tokio::test]
async fn a_call_that_stands_still_is_finished_by_its_server_though_nobody_asks() {
    let server = standing_still(1).over(Arc::new(MemoryStore::default()));
    assert!(is_in_progress(&send(&server, order()).await));
    let passed = server.finish_abandoned().await.unwrap();
    assert_eq!((passed.seen, passed.gone_on_with), (1, 1));
    let replayed = Told::Done("run 1".to_owned(), Served::Replayed);
    assert_eq!(send(&server, order()).await, replayed);
    let passed = server.finish_abandoned().await.unwrap();
    assert_eq!((passed.seen, passed.gone_on_with), (0, 0));
}

// B6: whoever finds a call that somebody ends before it is claimed must not begin it anew.
#[tokio::test]
async fn a_call_that_was_ended_meanwhile_is_not_begun_anew_by_its_server() {
    let store = Arc::new(MemoryStore::default());
    let server = standing_still(1).over(store.clone());
    assert!(is_in_progress(&send(&server, order()).await));
    let listed = listed(&server).await;
    let not_applied = store.resolve(
        key("k"),
        listed.token,
        Resolution::NotApplied,
        Operator::parse("somebody").unwrap(),
    );
    not_applied.await.unwrap();

    let mut late = order();
    late.goes_on_from = Some(listed.token);
    let told = send(&server, late).await;
    assert!(
        matches!(told, Told::Refused(Refusal::Unavailable { .. })),
        "{told:?}"
    );
    assert_eq!(store.peek(key("k")).await.unwrap(), KeyState::Absent);
}

// A deployment makes a method of steps a method without: nobody has asked for the call again, and the one
// who did may not be repeated.
#[tokio::test]
async fn a_call_whose_handler_has_no_steps_any_more_is_not_begun_anew_by_its_server() {
    let store = Arc::new(MemoryStore::default());
    let server = standing_still(1).over(store.clone());
    assert!(is_in_progress(&send(&server, order()).await));
    let listed = listed(&server).await;

    let effects = Effects::default();
    let handler = Handler::applying(&effects);
    let claimed = handler.over(store.clone());
    let mut unasked = order();
    unasked.goes_on_from = Some(listed.token);
    unasked.to_another_handler = true;
    let told = send(&claimed, unasked).await;
    assert_eq!(effects.total(), 0, "{told:?}");
    let known = store.peek(key("k")).await.unwrap();
    assert!(matches!(known, KeyState::InDoubt(_)), "{known:?}");
}

// What outer layers gave the caller's request (who it was, a session) the server's own has not.
#[tokio::test]
async fn what_a_handler_says_before_its_first_step_to_a_run_that_nobody_asked_for_is_no_answer() {
    let store = Arc::new(MemoryStore::default());
    let server = journaled(|run, steps, _| async move {
        if run == 1 {
            return Ok(done("403, who are you?"));
        }
        let charge = async |_| match run {
            0 => Err(unknown()),
            _ => Ok("charged".into()),
        };
        steps.run_keyed("charge", charge).await?;
        Ok(done("ordered"))
    })
    .over(store.clone());
    assert!(is_in_progress(&send(&server, order()).await));
    server.finish_abandoned().await.unwrap();
    let told = send(&server, order()).await;
    assert_eq!(told, Told::Done("ordered".to_owned(), Served::Executed));
}

// B6: what stood still in steps must not be had as a whole by a handler without them.
#[tokio::test]
async fn a_handler_that_is_not_journaled_goes_on_with_nothing() {
    let effects = Effects::default();
    for body in ["pay", "book"] {
        let store = Arc::new(MemoryStore::default());
        let server = {
            let effects = effects.clone();
            Handler::new(move |ask: Ask| {
                effects.apply(&ask.body);
                async { panic!("who knows when") }
            })
        }
        .over(store.clone());
        send(&server, Ask::new("k", body)).await;
        let token = match store.peek(key("k")).await.unwrap() {
            KeyState::InDoubt(doubt) => doubt.token,
            _ => FencingToken::new(1, 1),
        };
        let mut goes_on = Ask::new("k", body);
        goes_on.goes_on_from = Some(token);
        let told = send(&server, goes_on).await;
        assert!(
            matches!(told, Told::Refused(Refusal::Unavailable { .. })),
            "{told:?}"
        );
        assert_eq!(effects.of(body), 1);
    }
}

/// The one call that stands still.
async fn listed(server: &crate::protocol::Server) -> AbandonedCall {
    let found = Arc::new(Mutex::new(None));
    let mut finisher = server.executions().finisher().unwrap();
    let seen = found.clone();
    let passed = finisher.pass(move |call| {
        *seen.lock() = Some(call);
        Some(std::future::ready(()))
    });
    assert_eq!(passed.await.unwrap().gone_on_with, 1);
    found.lock().take().unwrap()
}

#[tokio::test]
async fn a_caller_who_waits_for_what_its_server_goes_on_with_gets_the_answer() {
    let gate = Arc::new(Notify::new());
    let server = {
        let gate = gate.clone();
        journaled(move |run, steps, _| {
            let gate = gate.clone();
            async move {
                let wait = async |_| match run {
                    0 => Err(unknown()),
                    _ => {
                        gate.notified().await;
                        Ok("2".into())
                    }
                };
                steps.run_keyed("wait", wait).await?;
                Ok(done(&format!("run {run}")))
            }
        })
        .over(Arc::new(MemoryStore::default()))
    };
    assert!(is_in_progress(&send(&server, order()).await));
    let finishing = tokio::spawn(server.finish_abandoned());
    while server.load().0 == 0 {
        tokio::task::yield_now().await;
    }
    let waiting = {
        let server = server.clone();
        tokio::spawn(async move { send(&server, order()).await })
    };
    while server.load().1 == 0 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    let attached = Told::Done("run 1".to_owned(), Served::Attached);
    assert_eq!(waiting.await.unwrap(), attached);
    finishing.await.unwrap().unwrap();
}

// G4
#[tokio::test(start_paused = true)]
async fn a_call_that_stands_still_again_and_again_is_tried_ever_more_seldom() {
    let runs = Arc::new(AtomicU32::new(0));
    let seen = runs.clone();
    let handler = journaled(move |_, steps, _| {
        runs.fetch_add(1, Ordering::SeqCst);
        async move {
            let never = steps.run_keyed("never", |_| std::future::ready(Err(unknown())));
            never.await?;
            Ok(done("never"))
        }
    });
    let store: Arc<MemoryStore> = Arc::default();
    let server = DedupeLayer::new(store as Arc<dyn Store>, Plain).layer(handler);
    assert!(is_in_progress(&send(&server, order()).await));
    let finishing = tokio::spawn(server.clone().keep_finishing_abandoned());
    let mut counted = Vec::new();
    for wait in [60, 9 * 60, 60 * 60, 60 * 60] {
        let before = seen.load(Ordering::SeqCst);
        sleep(Duration::from_secs(wait)).await;
        counted.push(seen.load(Ordering::SeqCst) - before);
    }
    finishing.abort();
    let [minute, ten, hour, another] = counted[..] else {
        panic!("{counted:?}")
    };
    assert!((2..=4).contains(&minute), "{counted:?}");
    assert!((2..=5).contains(&ten), "{counted:?}");
    assert!((5..=7).contains(&hour), "{counted:?}");
    assert!((5..=7).contains(&another), "{counted:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_ends_does_not_hold_up_the_other_calls() {
    let handler = journaled(|_, steps, ask: Ask| async move {
        let again = ask.execution.unwrap().is_rerun();
        let step = async |_| match (again, ask.body.as_str()) {
            (false, _) => Err(unknown()),
            (true, "order, endless") => std::future::pending().await,
            (true, _) => Ok("2".into()),
        };
        steps.run_keyed("step", step).await?;
        Ok(done("ordered"))
    });
    let server = handler.over(Arc::new(MemoryStore::default()));
    for name in 0..40 {
        let body = if name < 20 { "order, endless" } else { "order" };
        let told = send(&server, Ask::new(&format!("k{name}"), body)).await;
        assert!(is_in_progress(&told), "{told:?}");
    }
    let finishing = tokio::spawn(server.clone().keep_finishing_abandoned());
    sleep(Duration::from_secs(3 * 60)).await;
    for name in 20..40 {
        let told = send(&server, Ask::new(&format!("k{name}"), "order")).await;
        assert_eq!(told, Told::Done("ordered".to_owned(), Served::Replayed));
    }
    finishing.abort();
}

// E10: on a store that looks through all its doubts a pass is as long as they are many.
#[tokio::test]
async fn a_pass_that_has_looked_at_many_doubts_ends_and_the_next_one_goes_on_behind_them() {
    const LOOKED_AT_MAX: usize = 32 * 1_024;
    let store = Arc::new(MemoryStore::default());
    let begun = Instant::now();
    for first in (0..LOOKED_AT_MAX).step_by(64) {
        let doubts = (first..first + 64).map(|number| {
            let store = store.clone();
            async move {
                let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
                let lease = Duration::from_secs(600);
                let key = key(&format!("in-doubt-{number}"));
                let asked = ClaimRequest::new(key, Fingerprints::new(print), lease);
                let ClaimOutcome::Claimed(claim) = store.claim(asked).await.unwrap() else {
                    panic!("a new key is claimed");
                };
                let doubted = store.doubt(claim, DoubtReason::Ambiguous, None);
                doubted.await.unwrap();
            }
        });
        join_all(doubts).await;
    }
    // The list is by time.
    sleep(Duration::from_millis(5)).await;
    let server = standing_still(1).over(store);
    assert!(is_in_progress(&send(&server, order()).await));

    let mut finisher = server.executions().finisher().unwrap();
    let mut found = Vec::new();
    for _ in 0..2 {
        let passed = finisher.pass(|_| Some(std::future::ready(())));
        found.push(passed.await.unwrap().seen);
    }
    assert_eq!(found, [0, 1], "after {:?}", begun.elapsed());
}
