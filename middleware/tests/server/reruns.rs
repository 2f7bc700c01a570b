//! Handlers that run again for a call in doubt: which, when, and what they are told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use onlyonce_middleware::server::{
    DedupeLayer, Execution, InDoubtPolicy, Reconciled, Refusal, Served,
};
use onlyonce_storage::{DoubtReason, KeyState, MemoryStore, Store};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, ServiceExt};

use crate::doubts::{Frozen, Outside, after_a_panic, answer, finding, in_doubt, key, reconcile};
use crate::protocol::{Ask, Effects, Handler, Plain, Server, Told, done, send};
use crate::watched::{Watched, yield_twice};

/// A handler that answers `told` and notes what it was told of its run.
fn noting(told: &Told) -> (Handler, Arc<Mutex<Vec<Execution>>>) {
    let runs = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let (runs, told) = (Arc::clone(&runs), told.clone());
        Handler::new(move |ask: Ask| {
            runs.lock().push(ask.execution.unwrap());
            std::future::ready(Ok(told.clone()))
        })
    };
    (handler, runs)
}

#[tokio::test]
async fn a_handler_learns_its_fencing_token_and_whether_it_is_a_rerun() {
    let store = after_a_panic(&Effects::default(), false).await;
    let KeyState::InDoubt(before) = store.peek(key("k")).await.unwrap() else {
        panic!("it is in doubt");
    };
    let (handler, runs) = noting(&done("paid"));
    let server = handler.over_policy(store, InDoubtPolicy::RerunDeclaredSafe);
    send(&server, Ask::new("k", "pay")).await;
    send(&server, Ask::new("new", "pay")).await;
    let runs = runs.lock().clone();
    assert_eq!(runs[0].rerun_of, Some(before.token));
    assert!(runs[0].is_rerun() && runs[0].token > before.token);
    assert!(!runs[1].is_rerun() && runs[1].token > runs[0].token);
    assert_eq!(runs.len(), 2);
}

#[tokio::test]
async fn only_a_handler_that_is_declared_safe_runs_again_unasked() {
    for (policy, runs_expected) in [
        (InDoubtPolicy::Refuse, 0),
        (InDoubtPolicy::default(), 0),
        (InDoubtPolicy::RerunDeclaredSafe, 1),
    ] {
        let store = after_a_panic(&Effects::default(), true).await;
        let (handler, runs) = noting(&done("set"));
        let server = handler.over_policy(store, policy);
        for _ in 0..3 {
            send(&server, Ask::new("k", "pay")).await;
        }
        assert_eq!(runs.lock().len(), runs_expected);
    }
}

#[tokio::test]
async fn handlers_over_one_layer_each_have_their_own_policy() {
    let store = after_a_panic(&Effects::default(), true).await;
    let layer = DedupeLayer::new(store as Arc<dyn Store>, Plain);
    let (strict, strict_runs) = noting(&done("strict"));
    let (safe, safe_runs) = noting(&done("safe"));
    let strict = layer.layer(strict);
    let safe = layer.in_doubt(InDoubtPolicy::RerunDeclaredSafe).layer(safe);
    let told = send(&strict, Ask::new("k", "pay")).await;
    assert!(in_doubt(&told).is_some());
    let told = send(&safe, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("safe".to_owned(), Served::Executed));
    assert_eq!((strict_runs.lock().len(), safe_runs.lock().len()), (0, 1));
}

// C1
#[tokio::test]
async fn declared_safe_never_applies_to_another_request_or_to_a_stale_or_sealed_key() {
    let store = after_a_panic(&Effects::default(), true).await;
    let (handler, runs) = noting(&done("set"));
    let server = handler.over_policy(store.clone(), InDoubtPolicy::RerunDeclaredSafe);
    let told = send(&server, Ask::new("k", "another body")).await;
    assert_eq!(told, Told::Refused(Refusal::Mismatch));
    store.seal(key("sealed")).await.unwrap();
    let told = send(&server, Ask::new("sealed", "pay")).await;
    assert_eq!(told, Told::Refused(Refusal::Stale));
    assert!(runs.lock().is_empty());
}

// B6, B7
#[tokio::test]
async fn the_run_before_writes_nothing_once_a_rerun_has_begun() {
    let outside = Outside::new();
    let frozen = Frozen::applying(&outside).await;
    frozen.lapses();
    let store = frozen.store.clone();
    let (handler, _) = noting(&done("the second run's"));
    let server = handler.over_policy(store, InDoubtPolicy::RerunDeclaredSafe);
    // The claim writes the lapse down, and then names it.
    let told = send(&server, Ask::new("k", "pay")).await;
    let expected = "the second run's".to_owned();
    assert_eq!(told, Told::Done(expected.clone(), Served::Executed));
    let late = frozen.thaw().await;
    assert!(in_doubt(&late).is_some(), "{late:?}");
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done(expected, Served::Replayed));
}

// D5: it speaks of itself alone, and the run before may have had its effect.
#[tokio::test]
async fn a_rerun_that_says_not_executed_frees_no_key() {
    for policy in [
        InDoubtPolicy::RerunDeclaredSafe,
        finding(Reconciled::NotApplied).0,
    ] {
        let store = after_a_panic(&Effects::default(), true).await;
        let (handler, runs) = noting(&Told::TryLater(Served::Unprotected));
        let server = handler.over_policy(store.clone(), policy);
        for times in 1..=2 {
            let told = send(&server, Ask::new("k", "pay")).await;
            assert_eq!(told, Told::TryLater(Served::NotExecuted));
            assert_eq!(runs.lock().len(), times);
            let state = store.peek(key("k")).await.unwrap();
            assert!(
                matches!(&state, KeyState::InDoubt(doubt) if doubt.reason == DoubtReason::OwnerGone),
                "{state:?}"
            );
        }
        let told = send(&server, Ask::new("k", "another body")).await;
        assert_eq!(told, Told::Refused(Refusal::Mismatch));
    }
}

#[tokio::test]
async fn a_rerun_that_says_nothing_keeps_the_answer_that_was_kept() {
    let store = Arc::new(MemoryStore::default());
    let handler = Handler::new(|ask: Ask| async move {
        assert!(!ask.execution.unwrap().is_rerun(), "again");
        Ok(Told::Broken("500".to_owned(), Served::Unprotected))
    });
    let server = handler.over_policy(store, InDoubtPolicy::RerunDeclaredSafe);
    for _ in 0..3 {
        let told = send(&server, Ask::new("k", "pay")).await;
        assert_eq!(told, Told::Broken("500".to_owned(), Served::InDoubt));
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_deadline_passes_while_the_outside_world_is_asked_runs_nothing() {
    let outside = Outside::new();
    let store = after_a_panic(&Effects::default(), false).await;
    let hook = reconcile(|_| async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(Reconciled::NotApplied)
    });
    let server = outside
        .handler()
        .over_policy(store.clone(), InDoubtPolicy::Reconcile(hook));
    let told = send(&server, Ask::new("k", "pay").within(Duration::from_secs(1))).await;
    assert_eq!(
        told,
        Told::Refused(Refusal::DeadlinePassed { executing: false })
    );
    server.executions().idle().await;
    let state = store.peek(key("k")).await.unwrap();
    assert!(matches!(state, KeyState::InDoubt(_)), "{state:?}");
    assert_eq!(outside.effects.total(), 0);
    // Somebody with more time.
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("paid".to_owned(), Served::Executed));
    assert_eq!(outside.effects.of("pay"), 1);
}

#[tokio::test]
async fn no_room_of_the_handlers_is_held_while_the_outside_world_is_asked() {
    let effects = Effects::default();
    let store = after_a_panic(&effects, false).await;
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let hook = {
        let (asked, go_on) = (Arc::clone(&asked), Arc::clone(&go_on));
        reconcile(move |_| {
            let (asked, go_on) = (Arc::clone(&asked), Arc::clone(&go_on));
            async move {
                asked.notify_one();
                go_on.notified().await;
                Ok(Reconciled::NotApplied)
            }
        })
    };
    let server = DedupeLayer::new(store as Arc<dyn Store>, Plain)
        .in_doubt(InDoubtPolicy::Reconcile(hook))
        .layer(ConcurrencyLimit::new(Handler::applying(&effects), 1));
    let doubted = tokio::spawn(server.clone().oneshot(Ask::new("k", "pay")));
    asked.notified().await;
    let other = server.oneshot(Ask::new("l", "other")).await.unwrap();
    assert_eq!(other, Told::Done("other #1".to_owned(), Served::Executed));
    go_on.notify_one();
    let told = doubted.await.unwrap().unwrap();
    assert_eq!(told, Told::Done("pay #1".to_owned(), Served::Executed));
}

#[tokio::test]
async fn a_rerun_waits_for_room_and_claims_nothing_before() {
    let effects = Effects::default();
    let store = after_a_panic(&effects, false).await;
    let room = Arc::new(Semaphore::new(0));
    let limited = ConcurrencyLimit::with_semaphore(Handler::applying(&effects), Arc::clone(&room));
    let (policy, asked) = finding(Reconciled::NotApplied);
    let server = DedupeLayer::new(store.clone() as Arc<dyn Store>, Plain)
        .in_doubt(policy)
        .layer(limited);
    let caller = tokio::spawn(server.oneshot(Ask::new("k", "pay")));
    while asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
        let state = store.peek(key("k")).await.unwrap();
        assert!(matches!(state, KeyState::InDoubt(_)), "{state:?}");
    }
    room.add_permits(1);
    let told = caller.await.unwrap().unwrap();
    assert_eq!(told, Told::Done("pay #1".to_owned(), Served::Executed));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// Runs the call, in doubt since before, until the runtime has come round `rounds` times, and ends
/// the runtime.
fn cut_off(server: &Server, rounds: usize) -> Option<Told> {
    runtime().block_on(async {
        let server = server.clone();
        let caller = tokio::spawn(async move { send(&server, Ask::new("k", "pay")).await });
        for _ in 0..rounds {
            tokio::task::yield_now().await;
        }
        caller
            .is_finished()
            .then(|| caller.now_or_never().unwrap().unwrap())
    })
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap()
}

// B17: asking, claiming anew, the effect and its recording, each cut off wherever it waits.
#[test]
fn a_runtime_that_ends_at_any_step_of_a_rerun_leaves_one_effect_and_a_key_that_is_not_stuck() {
    let mut rounds = 0;
    loop {
        let effects = Effects::default();
        let memory = runtime().block_on(after_a_panic(&effects, false));
        let store = Watched::new(memory.clone());
        store.dawdle.store(true, Ordering::SeqCst);
        let truth = {
            let effects = effects.clone();
            reconcile(move |_| {
                let effects = effects.clone();
                async move {
                    yield_twice().await;
                    Ok(match effects.of("pay") {
                        0 => Reconciled::NotApplied,
                        _ => Reconciled::Applied(answer("paid")),
                    })
                }
            })
        };
        let paying = {
            let effects = effects.clone();
            Handler::new(move |ask: Ask| {
                let effects = effects.clone();
                async move {
                    yield_twice().await;
                    effects.apply(&ask.body);
                    yield_twice().await;
                    Ok(done("paid"))
                }
            })
        };
        let server = paying.over_policy(store, InDoubtPolicy::Reconcile(truth));
        let first = cut_off(&server, rounds);
        let state = memory.peek(key("k")).now_or_never().unwrap().unwrap();
        let known = matches!(state, KeyState::InDoubt(_) | KeyState::Completed(_));
        assert!(known, "after {rounds} rounds: {state:?}");
        // The next process finds out, or the first one had said so.
        let told = cut_off(&server, 1_000).unwrap();
        assert!(
            matches!(&told, Told::Done(body, _) if body == "paid"),
            "after {rounds} rounds: {told:?}"
        );
        assert_eq!(effects.of("pay"), 1, "after {rounds} rounds");
        if first.is_some() {
            break;
        }
        rounds += 1;
    }
    assert!(rounds > 15, "only {rounds} places were cut off");
}

#[tokio::test]
async fn what_was_applied_is_told_though_the_handler_has_no_room() {
    let store = after_a_panic(&Effects::default(), true).await;
    let (policy, asked) = finding(Reconciled::Applied(answer("paid")));
    let no_room = ConcurrencyLimit::new(Handler::applying(&Effects::default()), 0);
    let server = DedupeLayer::new(store as Arc<dyn Store>, Plain)
        .in_doubt(policy)
        .layer(no_room);
    let told = server.oneshot(Ask::new("k", "pay")).await.unwrap();
    assert_eq!(told, Told::Done("paid".to_owned(), Served::Replayed));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
