//! Executions whose callers go away: their callers drive them until then.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use onlyonce_middleware::server::{Refusal, Served};
use onlyonce_storage::MemoryStore;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::yield_now;

use crate::protocol::{Ask, Effects, Handler, Server, Told, done, send};
use crate::watched::Watched;

/// A handler that yields so often before its effect, and as often after it.
fn yielding(effects: &Effects, times: usize) -> Handler {
    let effects = effects.clone();
    Handler::new(move |ask: Ask| {
        let effects = effects.clone();
        async move {
            for _ in 0..times {
                yield_now().await;
            }
            effects.apply(&ask.body);
            for _ in 0..times {
                yield_now().await;
            }
            Ok(done(&ask.body))
        }
    })
}

/// Polls it so often. Whether it has ended before.
async fn polled(mut call: Pin<&mut (impl Future<Output = Told> + ?Sized)>, times: usize) -> bool {
    for _ in 0..times {
        let first = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        if first.is_ready() {
            return true;
        }
        yield_now().await;
    }
    false
}

// B16
#[tokio::test]
async fn a_caller_who_is_dropped_at_any_wait_of_its_handler_leaves_the_effect_whole_and_recorded() {
    let mut polls = 1;
    loop {
        let effects = Effects::default();
        let server = yielding(&effects, 3).over(Arc::new(MemoryStore::default()));
        let mut call = Box::pin(send(&server, Ask::new("k", "pay")));
        let ended = polled(call.as_mut(), polls).await;
        drop(call);
        // It goes on although nobody asks for it again.
        server.executions().idle().await;
        assert_eq!(effects.of("pay"), 1, "after {polls} polls");
        let again = send(&server, Ask::new("k", "pay")).await;
        assert_eq!(again, Told::Done("pay".to_owned(), Served::Replayed));
        assert_eq!(effects.of("pay"), 1, "after {polls} polls");
        if ended {
            break;
        }
        polls += 1;
    }
    assert!(polls > 6, "{polls} polls");
}

// B16
#[test]
fn a_caller_who_is_dropped_where_no_runtime_is_leaves_its_handler_running_on_its_own() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let effects = Effects::default();
    let handler = Handler::slow(&effects, Duration::from_millis(20));
    let server = handler.over(Arc::new(MemoryStore::default()));
    let mut call = Box::pin(send(&server, Ask::new("k", "pay")));
    assert!(!runtime.block_on(polled(call.as_mut(), 1)));
    drop(call);
    runtime.block_on(server.executions().idle());
    assert_eq!(effects.of("pay"), 1);
}

// B16
#[tokio::test]
async fn a_duplicate_of_a_call_that_was_handed_over_gets_its_answer() {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let handler = {
        let (effects, gate) = (effects.clone(), Arc::clone(&gate));
        Handler::new(move |ask: Ask| {
            let (effects, gate) = (effects.clone(), Arc::clone(&gate));
            async move {
                gate.notified().await;
                effects.apply(&ask.body);
                Ok(done(&ask.body))
            }
        })
    };
    let server = handler.over(Arc::new(MemoryStore::default()));
    let mut leaves = Box::pin(send(&server, Ask::new("k", "pay")));
    assert!(!polled(leaves.as_mut(), 1).await);
    let mut stays = Box::pin(send(&server, Ask::new("k", "pay")));
    assert!(!polled(stays.as_mut(), 1).await);
    drop(leaves);
    gate.notify_one();
    assert_eq!(stays.await, Told::Done("pay".to_owned(), Served::Attached));
    assert_eq!(effects.of("pay"), 1);
}

// B15
#[tokio::test]
async fn a_store_that_panics_ends_neither_its_callers_task_nor_the_call() {
    let store = Watched::new(Arc::new(MemoryStore::default()));
    store
        .panic_in_completions
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let effects = Effects::default();
    let server: Server = Handler::applying(&effects).over(store);
    let told = send(&server, Ask::new("k", "pay")).await;
    let Told::Refused(Refusal::InProgress { .. }) = told else {
        panic!("{told:?}");
    };
    assert_eq!(server.load(), (0, 0));
    // Its claim was dropped with it.
    let again = send(&server, Ask::new("k", "pay")).await;
    assert!(
        matches!(again, Told::Refused(Refusal::InDoubt(_))),
        "{again:?}"
    );
    assert_eq!(effects.of("pay"), 1);
}
