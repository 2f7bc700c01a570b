//! Typed methods over real sockets: what a user of the native RPC writes.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::middleware::client::{EnforceDeadlineLayer, Ticket};
use onlyonce::middleware::stack;
use onlyonce::rpc::{
    CallFailure, Channel, ChannelOptions, Client, ClientAdapter, Failure, Incoming, Known, Method,
    Reply, Request, Router, Routes, Server, ServerAdapter, Serving, Status, blocking,
};
use onlyonce::storage::{IdempotencyKey, Inspect, ManualClock, MemoryOptions, MemoryStore, Store};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::{Layer, Service, ServiceExt, service_fn};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Payment {
    cents: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Declined {
    NoFunds { missing: u64 },
}

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::NoFunds { missing } = self;
        write!(f, "{missing} cents are missing")
    }
}

const PAY: Method<Payment, u32, Declined> = Method::new("pay");
const COUNT: Method<(), u32> = Method::new("count");

/// Pays once for each call of the handler; the counter is the ledger.
async fn serve(paid: &Arc<AtomicU32>) -> Serving {
    serve_on(Arc::new(MemoryStore::default()), paid).await
}

async fn serve_on(store: Arc<MemoryStore>, paid: &Arc<AtomicU32>) -> Serving {
    let routes = Router::new(Arc::clone(paid))
        .method(
            &PAY,
            |_, paid: Arc<AtomicU32>, payment: Payment| async move {
                match payment.cents {
                    0 => Err(Failure::NotExecuted("nothing to pay".to_owned())),
                    1..=1_000 => Ok(paid.fetch_add(1, Ordering::SeqCst) + 1),
                    1_001 => Err(Failure::InDoubt),
                    cents => {
                        paid.fetch_add(1, Ordering::SeqCst);
                        Err(Declined::NoFunds {
                            missing: cents - 1_000,
                        }
                        .into())
                    }
                }
            },
        )
        .read_only(&COUNT, |_, paid: Arc<AtomicU32>, ()| async move {
            Ok(paid.load(Ordering::SeqCst))
        })
        .into_routes();
    serve_behind(store, routes.clone(), routes).await
}

/// Serves `service`, behind the layer, as what handles the methods of `routes`.
async fn serve_behind<S>(store: Arc<MemoryStore>, routes: Routes, service: S) -> Serving
where
    S: Service<Incoming, Response = Reply, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let layers = stack::server(store, ServerAdapter::new(routes));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder()
        .global_scope()
        .dedupe(layers.executions())
        .build()
        .unwrap();
    server.serve(listener, layers.layer(service)).unwrap()
}

/// A client whose calls end after `timeout`.
fn hasty_client(serving: &Serving, timeout: Duration) -> Client {
    let channel = Channel::new(serving.local_addr().to_string(), ChannelOptions::default());
    let deadline = EnforceDeadlineLayer::new().with_timeout(timeout);
    Client::with_stack(
        channel,
        stack::client(ClientAdapter).with_deadline(deadline),
    )
}

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::parse(text).unwrap()
}

#[tokio::test]
async fn a_typed_fault_crosses_the_wire_and_is_replayed_like_any_answer() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    for _ in 0..3 {
        let failed = client
            .call_as(key("k"), &PAY, &Payment { cents: 1_250 })
            .await;
        let Err(CallFailure::Fault(fault)) = failed else {
            panic!("{failed:?}")
        };
        assert_eq!(fault, Declined::NoFunds { missing: 250 });
    }
    assert_eq!(paid.load(Ordering::SeqCst), 1, "the handler ran once");
}

// H1
#[tokio::test]
async fn every_logical_call_has_a_key_of_its_own_and_a_key_that_the_caller_keeps_is_one_call() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let payment = Payment { cents: 5 };
    assert_eq!(client.call(&PAY, &payment).await.unwrap(), 1);
    assert_eq!(client.call(&PAY, &payment).await.unwrap(), 2);
    assert_eq!(client.call_as(key("k"), &PAY, &payment).await.unwrap(), 3);
    assert_eq!(client.call_as(key("k"), &PAY, &payment).await.unwrap(), 3);
    assert_eq!(client.call(&COUNT, &()).await.unwrap(), 3);
}

// C1
#[tokio::test]
async fn a_key_reused_with_other_arguments_is_refused_by_name_and_not_retried() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    client
        .call_as(key("k"), &PAY, &Payment { cents: 5 })
        .await
        .unwrap();
    let refused = client.call_as(key("k"), &PAY, &Payment { cents: 6 }).await;
    assert!(
        matches!(
            refused,
            Err(CallFailure::Refused {
                status: Status::Mismatch,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_was_not_executed_frees_its_key_and_what_cannot_be_known_keeps_it() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let ticket = Ticket::never_sent(key("k"));
    let refused = client.resume(ticket, &PAY, &Payment { cents: 0 }).await;
    assert!(
        matches!(refused, Err(CallFailure::NotExecuted(_))),
        "{refused:?}"
    );
    assert_eq!(
        client
            .call_as(key("k"), &PAY, &Payment { cents: 5 })
            .await
            .unwrap(),
        1
    );

    for _ in 0..2 {
        let doubtful = client
            .call_as(key("d"), &PAY, &Payment { cents: 1_001 })
            .await;
        assert!(
            matches!(doubtful, Err(CallFailure::InDoubt(_))),
            "{doubtful:?}"
        );
    }
    assert!(matches!(
        client.peek(key("d"), &PAY).await.unwrap(),
        Known::InDoubt(_)
    ));
}

#[tokio::test]
async fn peek_and_seal_tell_the_typed_answer_and_execute_nothing() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    assert_eq!(client.peek(key("k"), &PAY).await.unwrap(), Known::Absent);
    client
        .call_as(key("k"), &PAY, &Payment { cents: 5 })
        .await
        .unwrap();
    assert_eq!(
        client.peek(key("k"), &PAY).await.unwrap(),
        Known::Completed(Ok(1))
    );
    assert_eq!(
        client.seal(key("k"), &PAY).await.unwrap(),
        Known::Completed(Ok(1))
    );

    assert_eq!(client.seal(key("s"), &PAY).await.unwrap(), Known::Sealed);
    let ticket = Ticket::never_sent(key("s"));
    let refused = client.resume(ticket, &PAY, &Payment { cents: 5 }).await;
    assert!(
        matches!(
            refused,
            Err(CallFailure::Refused {
                status: Status::Stale,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

/// Whoever believes a seal pays again under another key.
#[tokio::test]
async fn a_forgotten_call_is_stale_for_its_ticket_never_absent_or_sealed() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_options(
        MemoryOptions::new().clock(clock.clone()),
    ));
    let paid = Arc::default();
    let serving = serve_on(Arc::clone(&store), &paid).await;
    let client = Client::new(serving.local_addr().to_string());
    clock.advance(Duration::from_secs(60));
    let ticket = Ticket::new(key("order-1")).first_sent(store.now());
    let payment = Payment { cents: 5 };
    client.resume(ticket.clone(), &PAY, &payment).await.unwrap();
    clock.advance(DAY * 9);
    store.sweep().await.unwrap();

    assert_eq!(
        client.peek(ticket.clone(), &PAY).await.unwrap(),
        Known::Stale
    );
    assert_eq!(
        client.seal(ticket.clone(), &PAY).await.unwrap(),
        Known::Stale
    );
    let resumed = client.resume(ticket, &PAY, &payment).await;
    assert!(resumed.is_err(), "{resumed:?}");
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

/// Whoever wrote the key down, or derives it, does not know that it was never sent.
#[tokio::test]
async fn a_key_of_the_caller_s_own_is_unknown_where_the_server_cannot_be_reached() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let address = serving.local_addr().to_string();
    let payment = Payment { cents: 5 };
    Client::new(address.clone())
        .call_as(key("order-1"), &PAY, &payment)
        .await
        .unwrap();
    serving.shutdown(Duration::from_secs(5)).await;
    let client = Client::new(address);
    let failed = client.call_as(key("order-1"), &PAY, &payment).await;
    let Err(CallFailure::OutcomeUnknown(failed)) = failed else {
        panic!("{failed:?}");
    };
    assert!(failed.ticket.maybe_executed);
    // A key that was made for this call was never sent.
    let failed = client.call(&PAY, &payment).await;
    let Err(CallFailure::NotExecuted(failed)) = failed else {
        panic!("{failed:?}");
    };
    assert!(!failed.ticket.maybe_executed);
}

#[tokio::test]
async fn a_question_that_is_not_answered_says_nothing_of_the_call() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let address = serving.local_addr().to_string();
    let client = Client::new(address.clone());
    let payment = Payment { cents: 5 };
    client
        .call_as(key("order-1"), &PAY, &payment)
        .await
        .unwrap();
    serving.shutdown(Duration::from_secs(5)).await;
    let client = Client::new(address);
    for unanswered in [
        client.peek(key("order-1"), &PAY).await.unwrap_err(),
        client.seal(key("order-1"), &PAY).await.unwrap_err(),
    ] {
        assert_eq!(unanswered.status, None, "{unanswered}");
        assert_eq!(unanswered.ticket, Ticket::new(key("order-1")));
        assert!(!unanswered.to_string().contains("executed"), "{unanswered}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_leaves_a_ticket_that_knows_of_the_execution() {
    const PAY_IN_WORDS: Method<Payment, String> = Method::new("pay");
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let failed = client.call(&PAY_IN_WORDS, &Payment { cents: 5 }).await;
    let Err(CallFailure::Unreadable { ticket, .. }) = failed else {
        panic!("{failed:?}");
    };
    assert!(ticket.maybe_executed && ticket.first_sent.is_some() && ticket.store.is_some());
    // A server with another store does not execute it a second time.
    let other = serve(&paid).await;
    let client = Client::new(other.local_addr().to_string());
    let resumed = client.resume(ticket, &PAY, &Payment { cents: 5 }).await;
    let unknown = matches!(resumed, Err(CallFailure::OutcomeUnknown(_)));
    assert!(unknown, "{resumed:?}");
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

/// The record may be of this very call, encoded otherwise.
#[tokio::test]
async fn a_mismatch_under_a_key_that_was_sent_before_does_not_say_not_executed() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let other = Payment { cents: 6 };
    client
        .call_as(key("order-1"), &PAY, &Payment { cents: 5 })
        .await
        .unwrap();
    for (ticket, maybe_executed) in [
        (Ticket::new(key("order-1")), true),
        (Ticket::never_sent(key("order-1")), false),
    ] {
        let failed = client.resume(ticket, &PAY, &other).await.unwrap_err();
        let CallFailure::Refused { status, ticket, .. } = &failed else {
            panic!("{failed:?}");
        };
        assert_eq!(*status, Status::Mismatch);
        assert_eq!(ticket.maybe_executed, maybe_executed);
        let text = failed.to_string();
        assert_eq!(
            text.contains("may have been executed"),
            maybe_executed,
            "{text}"
        );
    }
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_call_whose_answer_is_no_longer_kept_is_not_said_not_executed() {
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_options(
        MemoryOptions::new().clock(clock.clone()),
    ));
    let paid = Arc::default();
    let serving = serve_on(store, &paid).await;
    clock.advance(Duration::from_secs(60));
    let payment = Payment { cents: 5 };
    let call = async || {
        let client = Client::new(serving.local_addr().to_string());
        client.call_as(key("order-1"), &PAY, &payment).await
    };
    call().await.unwrap();
    clock.advance(Duration::from_secs(25 * 60 * 60));
    let stale = call().await;
    let unknown = matches!(stale, Err(CallFailure::OutcomeUnknown(_)));
    assert!(unknown, "{stale:?}");
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_call_that_may_have_been_sent_before_is_not_sent_to_a_server_that_does_not_dedupe() {
    let paid: Arc<AtomicU32> = Arc::default();
    let counted = Arc::clone(&paid);
    let service = tower::service_fn(move |_: Incoming| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(Reply::new(Status::Executed, vec![0, 7])) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder().global_scope().build().unwrap();
    let serving = server.serve(listener, service).unwrap();
    let client = Client::new(serving.local_addr().to_string());
    let payment = Payment { cents: 5 };
    let failed = client.call_as(key("order-1"), &PAY, &payment).await;
    let Err(CallFailure::OutcomeUnknown(failed)) = failed else {
        panic!("{failed:?}");
    };
    assert!(failed.last.contains("does not dedupe"), "{failed}");
    assert_eq!(paid.load(Ordering::SeqCst), 0);
    assert_eq!(client.call(&PAY, &payment).await.unwrap(), 7);
}

#[tokio::test]
async fn a_server_s_words_stay_on_their_line() {
    let service = tower::service_fn(|_: Incoming| async {
        let said = format!("a\u{1b}[2Jb\n{}", "c".repeat(100_000));
        Ok::<_, Infallible>(Reply::refusal(Status::UnknownMethod, said))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder().global_scope().build().unwrap();
    let serving = server.serve(listener, service).unwrap();
    let client = Client::new(serving.local_addr().to_string());
    let failed = client.call(&PAY, &Payment { cents: 5 }).await.unwrap_err();
    let text = failed.to_string();
    assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
    assert!(text.len() < 1_000, "{} bytes", text.len());
}

#[tokio::test]
async fn arguments_of_another_type_and_unknown_methods_are_refused_by_name_before_any_effect() {
    const OTHER: Method<String, u32, Declined> = Method::new("pay");
    const NOBODY: Method<(), ()> = Method::new("nobody");
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let refused = client.call_as(key("k"), &OTHER, &"x".repeat(300)).await;
    assert!(
        matches!(
            refused,
            Err(CallFailure::Refused {
                status: Status::ArgumentsMalformed,
                ..
            })
        ),
        "{refused:?}"
    );
    let refused = client.call(&NOBODY, &()).await;
    assert!(
        matches!(
            refused,
            Err(CallFailure::Refused {
                status: Status::UnknownMethod,
                ..
            })
        ),
        "{refused:?}"
    );
    // The key of what was not executed is free.
    assert_eq!(
        client
            .call_as(key("k"), &PAY, &Payment { cents: 5 })
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn a_caller_without_a_runtime_calls_resumes_peeks_and_seals() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let address = serving.local_addr().to_string();
    let caller = std::thread::spawn(move || {
        let client = blocking::Client::new(address).unwrap();
        let payment = Payment { cents: 5 };
        assert_eq!(client.call(&PAY, &payment).unwrap(), 1);
        assert_eq!(client.call_as(key("k"), &PAY, &payment).unwrap(), 2);
        assert_eq!(client.resume(key("k").into(), &PAY, &payment).unwrap(), 2);
        assert_eq!(
            client.peek(key("k"), &PAY).unwrap(),
            Known::Completed(Ok(2))
        );
        assert_eq!(client.seal(key("s"), &PAY).unwrap(), Known::Sealed);
        let failed = client.call(&PAY, &Payment { cents: 2_000 });
        assert!(matches!(
            failed,
            Err(CallFailure::Fault(Declined::NoFunds { missing: 1_000 }))
        ));
    });
    tokio::task::spawn_blocking(move || caller.join().unwrap())
        .await
        .unwrap();
    assert_eq!(paid.load(Ordering::SeqCst), 3);
}

#[derive(Debug, Serialize, Deserialize)]
enum Filter {
    All,
    Not(Box<Filter>),
}

const COUNT_WHERE: Method<Filter, u32> = Method::new("count-where");

#[tokio::test]
async fn arguments_that_contain_themselves_without_end_are_refused_and_the_server_lives() {
    let routes = Router::new(())
        .read_only(&COUNT_WHERE, |_, (), filter: Filter| async move {
            Ok(u32::from(matches!(filter, Filter::All)))
        })
        .into_routes();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder().global_scope().build().unwrap();
    let serving = server.serve(listener, routes).unwrap();
    let address = serving.local_addr().to_string();
    let channel = Channel::new(address, ChannelOptions::default());
    for (arguments, status) in [
        (vec![1; 512 * 1024], Status::ArgumentsMalformed),
        (vec![1, 0], Status::Executed),
    ] {
        let request = Request::new(COUNT_WHERE.name(), arguments);
        let reply = channel.clone().oneshot(request).await.unwrap();
        assert_eq!(reply.status, status, "{reply:?}");
    }
}

#[tokio::test]
async fn a_service_that_passes_on_what_another_server_replied_runs_once_for_its_key() {
    let answers = [
        Status::Attached,
        Status::Executed,
        Status::ExecutedUnrecorded,
        Status::Replayed,
        Status::Unprotected,
    ];
    let doubts = [
        Status::AnswerTooLarge,
        Status::DeadlineInProgress,
        Status::InDoubt,
        Status::InDoubtAnswered,
        Status::InProgress,
        Status::State,
    ];
    for status in answers.into_iter().chain(doubts) {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let service = service_fn(move |_: Incoming| {
            counted.fetch_add(1, Ordering::SeqCst);
            // A tagged answer, as `pay` gives it.
            async move { Ok::<_, Infallible>(Reply::new(status, vec![0, 7])) }
        });
        let routes = Router::new(())
            .method(&PAY, async |_, (), _| Ok(0))
            .into_routes();
        let serving = serve_behind(Arc::default(), routes, service).await;
        let client = Client::new(serving.local_addr().to_string());
        for _ in 0..2 {
            let paid = client.call_as(key("k"), &PAY, &Payment { cents: 5 }).await;
            if answers.contains(&status) {
                assert_eq!(paid.unwrap(), 7, "{status}");
            } else {
                assert!(
                    matches!(paid, Err(CallFailure::InDoubt(_))),
                    "{status}: {paid:?}"
                );
            }
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1, "{status}");
    }
}

#[tokio::test]
async fn a_server_whose_clock_is_set_back_refuses_a_connected_client_once_and_not_for_ever() {
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_options(
        MemoryOptions::new().clock(clock.clone()),
    ));
    let began = store.now();
    clock.advance(Duration::from_secs(3_600));
    let paid = Arc::default();
    let serving = serve_on(store, &paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let payment = Payment { cents: 5 };
    assert_eq!(client.call(&PAY, &payment).await.unwrap(), 1);
    clock.set(began.plus(Duration::from_secs(60)));
    let refused = client.call(&PAY, &payment).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(client.call(&PAY, &payment).await.unwrap(), 2);
}

#[tokio::test]
async fn a_shutdown_waits_for_handlers_whose_callers_went_away_and_counts_those_it_leaves() {
    for (patience, paid_then, executing) in [
        (Duration::from_secs(20), 1, 0),
        (Duration::from_millis(10), 0, 1),
    ] {
        let paid: Arc<AtomicU32> = Arc::default();
        let gate = Arc::new(Notify::new());
        let routes = {
            let gate = Arc::clone(&gate);
            Router::new(Arc::clone(&paid)).method(&PAY, move |_, paid: Arc<AtomicU32>, _| {
                let gate = Arc::clone(&gate);
                async move {
                    gate.notified().await;
                    Ok(paid.fetch_add(1, Ordering::SeqCst) + 1)
                }
            })
        }
        .into_routes();
        let serving = serve_behind(Arc::default(), routes.clone(), routes).await;
        let client = hasty_client(&serving, Duration::from_millis(500));
        let gone = client.call(&PAY, &Payment { cents: 5 }).await;
        assert!(
            matches!(gone, Err(CallFailure::OutcomeUnknown(_))),
            "{gone:?}"
        );
        drop(client);
        let shutdown = tokio::spawn(serving.shutdown(patience));
        if executing == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!shutdown.is_finished());
            gate.notify_one();
        }
        let report = shutdown.await.unwrap();
        assert_eq!((report.cut_off, report.executing), (0, executing));
        assert_eq!(paid.load(Ordering::SeqCst), paid_then);
    }
}
