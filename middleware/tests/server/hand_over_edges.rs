//! Hand-overs where it is hard: between runtimes, within one another, under way to the store, and of
//! callers who neither poll nor go.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use onlyonce_middleware::server::{Refusal, Served};
use onlyonce_storage::transaction::{RowRange, Table, TransactionalStore as _};
use onlyonce_storage::{ManualClock, MemoryOptions, MemoryStore};
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::{LocalSet, yield_now};

use crate::protocol::{Ask, BOOK, Effects, Handler, Server, Told, done, send};
use crate::watched::Watched;

const LEASE: Duration = Duration::from_secs(30);
const SEATS: Table = Table::new("seats");

/// Polls it so often, letting others come between. Whether it has ended.
async fn polled(mut call: Pin<&mut (impl Future<Output = Told> + ?Sized)>, times: usize) -> bool {
    for _ in 0..times {
        let once = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        if once.is_ready() {
            return true;
        }
        yield_now().await;
    }
    false
}

/// Waits for the gate, and then has its effect.
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

// B16
#[tokio::test]
async fn a_caller_who_is_dropped_on_the_way_to_or_from_the_store_leaves_no_half_of_a_call() {
    let mut polls = 0;
    loop {
        let effects = Effects::default();
        let store = Watched::new(Arc::new(MemoryStore::default()));
        store.dawdle.store(true, Ordering::SeqCst);
        let server = Handler::applying(&effects).over(store);
        let mut call = Box::pin(send(&server, Ask::new("k", "pay")));
        let ended = polled(call.as_mut(), polls).await;
        let mut waits = Box::pin(send(&server, Ask::new("k", "pay")));
        assert!(polls == 0 || ended || !polled(waits.as_mut(), 1).await);
        drop(call);
        let Told::Done(text, _) = waits.await else {
            panic!("after {polls} polls");
        };
        server.executions().idle().await;
        assert_eq!((text.as_str(), effects.of("pay")), ("pay #1", 1));
        assert_eq!(server.load(), (0, 0), "after {polls} polls");
        if ended {
            break;
        }
        polls += 1;
    }
    assert!(polls > 4, "{polls} polls");
}

// B16
#[tokio::test(start_paused = true)]
async fn a_deadline_at_any_moment_leaves_the_effect_whole_or_not_begun() {
    for millis in 0..=45 {
        let effects = Effects::default();
        let counted = effects.clone();
        let handler = Handler::new(move |ask: Ask| {
            let effects = counted.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                effects.apply(&ask.body);
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(done(&ask.body))
            }
        });
        let server = handler.over(Arc::new(MemoryStore::default()));
        let ask = Ask::new("k", "pay").within(Duration::from_millis(millis));
        let told = send(&server, ask).await;
        server.executions().idle().await;
        let expected = u32::from(millis > 0);
        assert_eq!(effects.of("pay"), expected, "{millis} ms: {told:?}");
        let again = send(&server, Ask::new("k", "pay")).await;
        let Told::Done(_, served) = again else {
            panic!("{millis} ms: {again:?}");
        };
        assert_eq!(served == Served::Replayed, millis > 0, "{millis} ms");
        assert_eq!(effects.of("pay"), 1, "{millis} ms");
        assert_eq!(server.load(), (0, 0), "{millis} ms");
    }
}

// B10
#[tokio::test(start_paused = true)]
async fn a_caller_who_neither_polls_nor_goes_ends_in_doubt_and_has_no_effect_afterwards() {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let clock = Arc::new(ManualClock::default());
    let options = MemoryOptions::new().clock(clock.clone());
    let store = Arc::new(MemoryStore::with_options(options));
    let server = gated(&effects, &gate).over(store.clone());
    let elsewhere = Handler::applying(&effects).over(store);
    let mut held = Box::pin(send(&server, Ask::new("k", "pay")));
    assert!(!polled(held.as_mut(), 2).await);
    gate.notify_one();
    // Here nobody knows more than that somebody is at it.
    let waited = send(&server, Ask::new("k", "pay").within(Duration::from_secs(1))).await;
    assert!(
        matches!(waited, Told::Refused(Refusal::InProgress { .. })),
        "{waited:?}"
    );
    clock.advance(LEASE * 2);
    tokio::time::advance(LEASE * 2).await;
    let doubtful = send(&elsewhere, Ask::new("k", "pay")).await;
    assert!(
        matches!(doubtful, Told::Refused(Refusal::InDoubt(_))),
        "{doubtful:?}"
    );
    let told = held.await;
    assert!(
        matches!(told, Told::Refused(Refusal::InDoubt(_))),
        "{told:?}"
    );
    assert_eq!((effects.of("pay"), server.load()), (0, (0, 0)));
}

// B16
#[test]
fn a_call_whose_runtime_ends_lets_its_duplicates_elsewhere_go() {
    let here = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    for drop_caller_last in [false, true] {
        let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
        let server = gated(&effects, &gate).over(Arc::new(MemoryStore::default()));
        let there = Builder::new_current_thread().enable_time().build().unwrap();
        let mut leads = Box::pin(send(&server, Ask::new("k", "pay")));
        assert!(!there.block_on(polled(leads.as_mut(), 2)));
        let waits = here.spawn({
            let server = server.clone();
            async move { send(&server, Ask::new("k", "pay")).await }
        });
        while server.load().1 == 0 {
            std::thread::yield_now();
        }
        if drop_caller_last {
            drop(there);
            drop(leads);
        } else {
            drop(leads);
            drop(there);
        }
        let told =
            here.block_on(async { tokio::time::timeout(Duration::from_secs(10), waits).await });
        let told = told.expect("it is let go").unwrap();
        assert!(
            matches!(told, Told::Refused(Refusal::InProgress { .. })),
            "{told:?}"
        );
        assert_eq!((effects.of("pay"), server.load()), (0, (0, 0)));
    }
}

// B16
#[test]
fn a_call_within_a_local_set_that_ends_goes_on_in_its_runtime() {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let server = gated(&effects, &gate).over(Arc::new(MemoryStore::default()));
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let local = LocalSet::new();
    local.spawn_local({
        let server = server.clone();
        async move { send(&server, Ask::new("k", "pay")).await }
    });
    runtime.block_on(local.run_until(async {
        while server.load().0 == 0 {
            yield_now().await;
        }
    }));
    drop(local);
    gate.notify_one();
    runtime.block_on(server.executions().idle());
    assert_eq!(effects.of("pay"), 1);
}

// B16
#[tokio::test]
async fn calls_within_a_call_are_handed_over_with_it_and_on_their_own() {
    let effects = Effects::default();
    let gate = Arc::new(Notify::new());
    let inner = gated(&effects, &gate).over(Arc::new(MemoryStore::default()));
    let outer: Server = {
        let (inner, effects) = (inner.clone(), effects.clone());
        Handler::new(move |ask: Ask| {
            let (inner, effects) = (inner.clone(), effects.clone());
            async move {
                let calls: FuturesUnordered<_> = ["a", "b", "c"]
                    .map(|key| {
                        let inner = inner.clone();
                        async move { send(&inner, Ask::new(key, key)).await }
                    })
                    .into_iter()
                    .collect();
                // The last is dropped while it runs.
                let first: Vec<_> = calls.take(2).collect().await;
                assert_eq!(first.len(), 2);
                effects.apply(&ask.body);
                Ok(done(&ask.body))
            }
        })
        .over(Arc::new(MemoryStore::default()))
    };
    let mut call = Box::pin(send(&outer, Ask::new("k", "pay")));
    assert!(!polled(call.as_mut(), 3).await);
    drop(call);
    for _ in 0..3 {
        gate.notify_one();
        for _ in 0..20 {
            yield_now().await;
        }
    }
    outer.executions().idle().await;
    inner.executions().idle().await;
    for body in ["pay", "a", "b", "c"] {
        assert_eq!(effects.of(body), 1, "{body}");
    }
}

// A2, B16
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_who_go_at_any_time_on_several_threads_leave_one_effect_and_one_answer() {
    for round in 0..300_u32 {
        let effects = Effects::default();
        let store = Watched::new(Arc::new(MemoryStore::default()));
        store.dawdle.store(round % 2 == 0, Ordering::SeqCst);
        let counted = effects.clone();
        let server = Handler::new(move |ask: Ask| {
            let effects = counted.clone();
            async move {
                for _ in 0..round % 5 {
                    yield_now().await;
                }
                effects.apply(&ask.body);
                Ok(done(&format!("#{}", effects.of(&ask.body))))
            }
        })
        .over(store);
        let answers = Arc::new(AtomicU32::new(0));
        let callers: Vec<_> = (0..8_u32)
            .map(|caller| {
                let (server, answers) = (server.clone(), Arc::clone(&answers));
                tokio::spawn(async move {
                    let mut call = Box::pin(send(&server, Ask::new("k", "pay")));
                    let told = if caller < 6 {
                        let polls = (round * 7 + caller * 3) % 11;
                        let mut told = None;
                        for _ in 0..polls {
                            let once =
                                poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
                            if let Poll::Ready(ended) = once {
                                told = Some(ended);
                                break;
                            }
                            yield_now().await;
                        }
                        drop(call);
                        told
                    } else {
                        Some(call.await)
                    };
                    if let Some(told) = told {
                        let Told::Done(text, _) = told else {
                            panic!("{told:?}");
                        };
                        assert_eq!(text, "#1");
                        answers.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for caller in callers {
            let ended = tokio::time::timeout(Duration::from_secs(20), caller).await;
            ended.expect("nobody hangs").unwrap();
        }
        server.executions().idle().await;
        assert_eq!(effects.of("pay"), 1, "round {round}");
        assert!(answers.load(Ordering::SeqCst) >= 2);
        assert_eq!(server.load(), (0, 0), "round {round}");
    }
}

// B15, B16
#[tokio::test]
async fn a_handler_that_panics_after_it_was_handed_over_leaves_its_call_in_doubt() {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let handler = Handler::new(move |_: Ask| {
        let gate = Arc::clone(&opened);
        async move {
            gate.notified().await;
            panic!("as it is meant to")
        }
    });
    let server = handler.over(Arc::new(MemoryStore::default()));
    let mut leaves = Box::pin(send(&server, Ask::new("k", "pay")));
    assert!(!polled(leaves.as_mut(), 2).await);
    let mut stays = Box::pin(send(&server, Ask::new("k", "pay")));
    assert!(!polled(stays.as_mut(), 1).await);
    drop(leaves);
    gate.notify_one();
    let told = stays.await;
    assert!(
        matches!(told, Told::Refused(Refusal::InDoubt(_))),
        "{told:?}"
    );
    assert_eq!(server.load(), (0, 0));
}

// B16
#[tokio::test]
async fn a_transaction_whose_caller_is_dropped_at_any_wait_is_committed_once() {
    let mut polls = 0;
    loop {
        let memory = Arc::new(MemoryStore::default());
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let handler = Handler::new(move |ask: Ask| {
            let runs = Arc::clone(&counted);
            async move {
                let book = ask.transaction.clone().unwrap();
                yield_now().await;
                let run = runs.fetch_add(1, Ordering::SeqCst);
                book.put(&SEATS, &run.to_be_bytes(), b"taken").unwrap();
                yield_now().await;
                Ok(done("booked"))
            }
        });
        let server = handler.over(memory.clone());
        let mut call = Box::pin(send(&server, Ask::new("k", BOOK)));
        let ended = polled(call.as_mut(), polls).await;
        drop(call);
        server.executions().idle().await;
        let again = send(&server, Ask::new("k", BOOK)).await;
        let served = if polls == 0 {
            Served::Executed
        } else {
            Served::Replayed
        };
        assert_eq!(again, Told::Done("booked".to_owned(), served));
        let rows = memory
            .read(RowRange::new::<&str>(&SEATS, &.., 8))
            .await
            .unwrap();
        assert_eq!(rows.len(), 1, "after {polls} polls");
        if ended {
            break;
        }
        polls += 1;
    }
    assert!(polls > 1, "{polls} polls");
}
