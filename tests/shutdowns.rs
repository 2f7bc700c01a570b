//! B17: a server that goes away drains its owners, then gives up what it holds: the next one over the
//! same store finds answers, or doubts where it did not wait for them, and no key that is stuck.
#![cfg(feature = "sled")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::middleware::client::Ticket;
use onlyonce::middleware::stack;
use onlyonce::rpc::{
    CallFailure, Channel, ChannelOptions, Client, ClientAdapter, Failure, Method, Router, Routes,
    Server, ServerAdapter, Serving,
};
use onlyonce::storage::{
    DoubtReason, IdempotencyKey, Inspect as _, KeyState, OpenState, Scope, ScopedKey, SledOptions,
    SledStore, Store,
};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::Layer;

const PAY: Method<u64, u64, String> = Method::new("pay");

#[derive(Clone, Default)]
struct Till {
    begun: Arc<Notify>,
    let_go: Arc<Notify>,
    paid: Arc<AtomicU32>,
}

fn paying(till: &Till) -> Routes {
    Router::new(till.clone())
        .method(&PAY, |_, till: Till, cents| async move {
            till.paid.fetch_add(1, Ordering::SeqCst);
            till.begun.notify_one();
            till.let_go.notified().await;
            Ok::<_, Failure<String>>(cents)
        })
        .into_routes()
}

async fn open(path: &Path) -> Arc<SledStore> {
    let store = SledStore::open_async(path, SledOptions::new()).await;
    Arc::new(store.unwrap())
}

async fn serve(store: &Arc<SledStore>, till: &Till) -> Serving {
    let routes = paying(till);
    let store = Arc::clone(store) as Arc<dyn Store>;
    let layers = stack::server(store, ServerAdapter::new(routes.clone()));
    let server = Server::builder().global_scope().dedupe(layers.executions());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = server.build().unwrap();
    server.serve(listener, layers.layer(routes)).unwrap()
}

async fn pay(serving: &Serving) -> Result<u64, CallFailure<String>> {
    let once =
        stack::client(ClientAdapter).with_retry(|retry| retry.with_attempts_max(NonZeroU32::MIN));
    let address = serving.local_addr().to_string();
    let client = Client::with_stack(Channel::new(address, ChannelOptions::default()), once);
    client.resume(Ticket::new(key()), &PAY, &7).await
}

fn key() -> IdempotencyKey {
    IdempotencyKey::parse("order-1").unwrap()
}

async fn state(store: &SledStore) -> KeyState {
    let scope = Scope::global().operation(PAY.name()).unwrap();
    store.peek(ScopedKey::new(scope, key())).await.unwrap()
}

async fn in_progress(store: &SledStore) -> usize {
    let mut wanted = onlyonce::storage::ListRequest::default();
    wanted.state = Some(OpenState::InProgress);
    store.list(wanted).await.unwrap().records.len()
}

#[tokio::test]
async fn a_shutdown_drains_the_owner_whose_caller_went_away_and_the_next_server_replays() {
    let folder = tempfile::tempdir().unwrap();
    let (store, till) = (open(folder.path()).await, Till::default());
    let serving = Arc::new(serve(&store, &till).await);
    let caller = tokio::spawn({
        let serving = Arc::clone(&serving);
        async move { pay(&serving).await }
    });
    till.begun.notified().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    let serving = Arc::into_inner(serving).unwrap();
    let shutdown = tokio::spawn(serving.shutdown(Duration::from_secs(60)));
    tokio::task::yield_now().await;
    assert!(!shutdown.is_finished(), "it waits for its owner");
    till.let_go.notify_one();
    assert_eq!(shutdown.await.unwrap().executing, 0);
    store.close().await.unwrap();

    let store = open(folder.path()).await;
    assert_eq!(in_progress(&store).await, 0);
    let serving = serve(&store, &till).await;
    assert_eq!(pay(&serving).await.unwrap(), 7);
    assert_eq!(till.paid.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_owner_that_a_shutdown_does_not_wait_for_is_in_doubt_at_once_on_the_next_server() {
    let folder = tempfile::tempdir().unwrap();
    let (store, till) = (open(folder.path()).await, Till::default());
    let serving = Arc::new(serve(&store, &till).await);
    let caller = tokio::spawn({
        let serving = Arc::clone(&serving);
        async move { pay(&serving).await }
    });
    till.begun.notified().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    let serving = Arc::into_inner(serving).unwrap();
    let report = serving.shutdown(Duration::ZERO).await;
    assert_eq!(report.executing, 1, "it is said, not hidden");
    store.close().await.unwrap();

    let store = open(folder.path()).await;
    let state = state(&store).await;
    assert!(
        matches!(&state, KeyState::InDoubt(doubt) if doubt.reason == DoubtReason::OwnerGone),
        "{state:?}"
    );
    let serving = serve(&store, &till).await;
    let told = pay(&serving).await;
    assert!(matches!(told, Err(CallFailure::InDoubt(_))), "{told:?}");
    assert_eq!(till.paid.load(Ordering::SeqCst), 1);
}
