//! One key that comes by two ways at once: hedged by its client, or passed on by a server to another.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::middleware::client::{Call, Ticket};
use onlyonce::middleware::server::{DedupeLayer, DedupeOptions, Wait};
use onlyonce::middleware::stack;
use onlyonce::rpc::{
    CallFailure, Caller, Channel, ChannelOptions, Client, ClientAdapter, Failure, Method, Reply,
    Request, Router, Routes, Server, ServerAdapter, Serving, Stamp, Status, TransportError,
};
use onlyonce::storage::{IdempotencyKey, MemoryStore, Store};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tower::{Layer, ServiceExt as _};

const PAY: Method<u64, u64, String> = Method::new("pay");

/// Counts payments, each of which takes until it is let go.
#[derive(Clone, Default)]
struct Till {
    begun: Arc<Notify>,
    let_go: Arc<Notify>,
    paid: Arc<AtomicU32>,
}

fn paying(till: &Till) -> Routes {
    Router::new(till.clone())
        .method(&PAY, |_, till: Till, cents| async move {
            till.begun.notify_one();
            till.let_go.notified().await;
            till.paid.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Failure<String>>(cents)
        })
        .into_routes()
}

async fn serve(store: Arc<dyn Store>, routes: Routes, wait: Wait) -> Serving {
    let mut options = DedupeOptions::default();
    options.wait = wait;
    let adapter = ServerAdapter::new(routes.clone());
    let layer = DedupeLayer::with_options(store, adapter, options);
    let server = Server::builder().global_scope().dedupe(layer.executions());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = server.build().unwrap();
    server.serve(listener, layer.layer(routes)).unwrap()
}

/// One attempt of a call over a connection of its own, as a hedge makes it.
fn attempt(serving: &Serving, number: u32) -> JoinHandle<Result<Reply, TransportError>> {
    let address = serving.local_addr().to_string();
    let channel = Channel::new(address, ChannelOptions::default());
    let call = Arc::new(Call::new(Ticket::never_sent(key())));
    let stamp = Stamp::new(call, NonZeroU32::new(number).unwrap());
    let request = Request::new(PAY.name(), vec![7]).stamp(stamp);
    tokio::spawn(async move {
        let reply = timeout(Duration::from_secs(20), channel.oneshot(request)).await;
        reply.expect("an attempt is answered in time")
    })
}

fn key() -> IdempotencyKey {
    IdempotencyKey::parse("order-1").unwrap()
}

fn client(serving: &Serving) -> Client {
    let once =
        stack::client(ClientAdapter).with_retry(|retry| retry.with_attempts_max(NonZeroU32::MIN));
    let address = serving.local_addr().to_string();
    Client::with_stack(Channel::new(address, ChannelOptions::default()), once)
}

// H3, the server's half: both attempts get the one answer, whichever the client takes.
#[tokio::test]
async fn a_hedged_request_is_executed_once_and_its_loser_is_no_failure() {
    let till = Till::default();
    let store = Arc::new(MemoryStore::default());
    let wait = Wait::UpTo(Duration::from_secs(5));
    let serving = serve(store, paying(&till), wait).await;
    let first = attempt(&serving, 1);
    till.begun.notified().await;
    let hedge = attempt(&serving, 2);
    while serving.in_flight() < 2 {
        tokio::task::yield_now().await;
    }
    till.let_go.notify_one();
    let (first, hedge) = (first.await.unwrap().unwrap(), hedge.await.unwrap().unwrap());
    assert_eq!(first.status, Status::Executed);
    let joined = matches!(hedge.status, Status::Attached | Status::Replayed);
    assert!(joined, "{hedge:?}");
    assert_eq!(first.body, hedge.body);
    assert_eq!(till.paid.load(Ordering::SeqCst), 1);
}

// H3: a loser that does not wait is told to come again, which costs its client nothing but time, and
// leaves the winner alone.
#[tokio::test]
async fn a_hedge_that_does_not_wait_is_told_to_come_again_and_disturbs_nobody() {
    let till = Till::default();
    let serving = serve(Arc::new(MemoryStore::default()), paying(&till), Wait::No).await;
    let first = attempt(&serving, 1);
    till.begun.notified().await;
    for number in 2..5 {
        let hedge = attempt(&serving, number).await.unwrap().unwrap();
        assert_eq!(hedge.status, Status::InProgress);
        assert!(hedge.retry_after.is_some());
    }
    till.let_go.notify_one();
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.status, Status::Executed);
    let again = attempt(&serving, 5).await.unwrap().unwrap();
    assert_eq!((again.status, again.body), (Status::Replayed, first.body));
    assert_eq!(till.paid.load(Ordering::SeqCst), 1);
}

// H3: the loser is the one that executes, and its client drops it, as a hedging client does.
#[tokio::test]
async fn the_winner_of_a_hedge_gets_the_answer_of_the_loser_that_was_dropped() {
    let till = Till::default();
    let wait = Wait::UpTo(Duration::from_secs(5));
    let serving = serve(Arc::new(MemoryStore::default()), paying(&till), wait).await;
    let first = attempt(&serving, 1);
    till.begun.notified().await;
    let hedge = attempt(&serving, 2);
    while serving.in_flight() < 2 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    till.let_go.notify_one();
    let hedge = hedge.await.unwrap().unwrap();
    assert!(hedge.status.carries_answer(), "{hedge:?}");
    assert_eq!(till.paid.load(Ordering::SeqCst), 1);
}

/// A gateway that passes the key on to the server behind it, under the same method.
fn gateway(behind: Client) -> Routes {
    Router::new(behind)
        .method(&PAY, |caller: Caller, behind: Client, cents| async move {
            let key = caller.key.unwrap();
            match behind.call_as(key, &PAY, &cents).await {
                Ok(paid) => Ok(paid),
                Err(CallFailure::Fault(fault)) => Err(Failure::Fault(fault)),
                Err(CallFailure::NotExecuted(_)) => {
                    Err(Failure::NotExecuted("not executed behind".to_owned()))
                }
                Err(_) => Err(Failure::InDoubt),
            }
        })
        .into_routes()
}

// J7: each layer has a store of its own, as two servers have: both record the call.
#[tokio::test]
async fn a_gateway_and_the_server_behind_it_dedupe_one_key_each_for_itself() {
    let till = Till::default();
    let wait = Wait::UpTo(Duration::from_secs(5));
    let inner = serve(Arc::new(MemoryStore::default()), paying(&till), wait).await;
    let routes = gateway(client(&inner));
    let outer = serve(Arc::new(MemoryStore::default()), routes, wait).await;
    till.let_go.notify_one();
    let client = client(&outer);
    for _ in 0..3 {
        let ticket = Ticket::never_sent(key());
        assert_eq!(client.resume(ticket, &PAY, &7).await.unwrap(), 7);
    }
    assert_eq!(till.paid.load(Ordering::SeqCst), 1);
}

// J7: over one store the inner call finds its key held by the outer one. It says so after its wait,
// nobody waits for itself for ever, and nothing is executed.
#[tokio::test]
async fn a_gateway_over_the_store_of_the_server_behind_it_does_not_wait_for_itself() {
    let till = Till::default();
    till.let_go.notify_one();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let wait = Wait::UpTo(Duration::from_millis(200));
    let inner = serve(Arc::clone(&store), paying(&till), wait).await;
    let outer = serve(store, gateway(client(&inner)), wait).await;
    let began = Instant::now();
    let ticket = Ticket::never_sent(key());
    let ended = client(&outer).resume(ticket, &PAY, &7).await;
    // What the gateway cannot know it calls in doubt.
    assert!(
        matches!(
            ended,
            Err(CallFailure::InDoubt(_) | CallFailure::OutcomeUnknown(_))
        ),
        "{ended:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(till.paid.load(Ordering::SeqCst), 0);
}
