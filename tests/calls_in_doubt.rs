//! Calls in doubt over real sockets: what the author of a method says about them, and what its
//! callers get.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use onlyonce::middleware::client::Ticket;
use onlyonce::middleware::stack;
use onlyonce::rpc::{
    CallFailure, Caller, Client, Doubt, Execution, Failure, Known, Method, Reconciled, Router,
    Routes, Server, ServerAdapter, Serving,
};
use onlyonce::storage::{FencingToken, IdempotencyKey, MemoryStore, Store};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::Layer;

const PAY: Method<u64, String> = Method::new("pay");

/// A payment provider: it knows payments by the key that they were made with.
#[derive(Clone, Default)]
struct Provider {
    payments: Arc<Mutex<HashMap<String, u64>>>,
    made: Arc<AtomicU32>,
    largest_seen: Arc<Mutex<Option<FencingToken>>>,
    runs: Arc<Mutex<Vec<Execution>>>,
}

// === impl Provider ===

impl Provider {
    fn pay(&self, caller: &Caller, cents: u64) {
        self.made.fetch_add(1, Ordering::SeqCst);
        let key = caller.key.as_ref().unwrap().as_str().to_owned();
        self.payments.lock().insert(key, cents);
    }

    /// Refuses who comes with an older token than somebody before.
    fn pay_fenced(&self, caller: &Caller, cents: u64) {
        let token = caller.execution.unwrap().token;
        let mut largest = self.largest_seen.lock();
        if *largest <= Some(token) {
            *largest = Some(token);
            self.pay(caller, cents);
        }
    }

    async fn find(
        doubt: Doubt,
        provider: Self,
        cents: u64,
    ) -> Result<Reconciled<String, String>, String> {
        let found = provider
            .payments
            .lock()
            .get(doubt.key.key().as_str())
            .copied();
        Ok(match found {
            Some(paid) => {
                assert_eq!(paid, cents, "the hook is given the arguments");
                Reconciled::Applied(Ok(format!("paid {paid}")))
            }
            None => Reconciled::NotApplied,
        })
    }
}

async fn serve(store: Arc<dyn Store>, routes: Routes) -> Serving {
    let layers = stack::server(store, ServerAdapter::new(routes.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder()
        .global_scope()
        .dedupe(layers.executions())
        .build()
        .unwrap();
    server.serve(listener, layers.layer(routes)).unwrap()
}

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::parse(text).unwrap()
}

/// Notes the run; the first one dies, after the payment where it is of 5 cents, otherwise before.
async fn dies_once(
    caller: Caller,
    provider: Provider,
    cents: u64,
) -> Result<String, Failure<String>> {
    let execution = caller.execution.unwrap();
    provider.runs.lock().push(execution);
    let pays_first = cents == 5;
    if pays_first {
        provider.pay(&caller, cents);
    }
    assert!(execution.is_rerun(), "the first run dies");
    if !pays_first {
        provider.pay(&caller, cents);
    }
    Ok(format!("paid {cents}"))
}

async fn pay(client: &Client, name: &str, cents: u64) -> Result<String, CallFailure<String>> {
    client.call_as(key(name), &PAY, &cents).await
}

fn is_in_doubt<T: std::fmt::Debug>(called: &Result<T, CallFailure<String>>) -> bool {
    matches!(called, Err(CallFailure::InDoubt(_)))
}

// B2
#[tokio::test]
async fn a_reconciled_method_answers_what_happened_and_runs_again_what_did_not() {
    let provider = Provider::default();
    let routes = Router::new(provider.clone())
        .method_reconciled(&PAY, dies_once, Provider::find)
        .into_routes();
    let serving = serve(Arc::new(MemoryStore::default()), routes).await;
    let client = Client::new(serving.local_addr().to_string());
    for (name, cents) in [("after", 5), ("before", 6)] {
        let first = pay(&client, name, cents).await;
        assert!(is_in_doubt(&first), "{first:?}");
        for _ in 0..2 {
            let answer = pay(&client, name, cents).await.unwrap();
            assert_eq!(answer, format!("paid {cents}"));
        }
        let known = client.peek(key(name), &PAY).await.unwrap();
        assert_eq!(known, Known::Completed(Ok(format!("paid {cents}"))));
    }
    assert_eq!(provider.made.load(Ordering::SeqCst), 2);
    // Only what had not been applied ran twice.
    let runs = provider.runs.lock().clone();
    assert_eq!(runs.len(), 3);
    assert_eq!(runs[2].rerun_of, Some(runs[1].token));
}

#[tokio::test]
async fn a_definitive_failure_that_the_outside_world_knows_is_the_answer() {
    let provider = Provider::default();
    let routes = Router::new(provider)
        .method_reconciled(&PAY, dies_once, async |_, _, _| {
            Ok::<_, String>(Reconciled::Applied(Err("declined".to_owned())))
        })
        .into_routes();
    let serving = serve(Arc::new(MemoryStore::default()), routes).await;
    let client = Client::new(serving.local_addr().to_string());
    assert!(is_in_doubt(&pay(&client, "k", 6).await));
    for _ in 0..2 {
        let told = pay(&client, "k", 6).await;
        let Err(CallFailure::Fault(fault)) = told else {
            panic!("{told:?}");
        };
        assert_eq!(fault, "declined");
    }
}

#[tokio::test]
async fn a_method_stays_in_doubt_unless_its_author_says_otherwise() {
    let provider = Provider::default();
    let routes = Router::new(provider.clone())
        .method(&PAY, dies_once)
        .into_routes();
    let serving = serve(Arc::new(MemoryStore::default()), routes).await;
    let client = Client::new(serving.local_addr().to_string());
    for _ in 0..3 {
        let told = pay(&client, "k", 6).await;
        assert!(is_in_doubt(&told), "{told:?}");
    }
    let told = client.resume(Ticket::new(key("k")), &PAY, &6).await;
    assert!(is_in_doubt(&told), "{told:?}");
    assert_eq!(provider.runs.lock().len(), 1);
    assert_eq!(provider.made.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_method_that_is_safe_to_rerun_runs_again_and_is_replayed_once_it_is_known() {
    let provider = Provider::default();
    let routes = Router::new(provider.clone())
        .method_safe_to_rerun(&PAY, dies_once)
        .into_routes();
    let serving = serve(Arc::new(MemoryStore::default()), routes).await;
    let client = Client::new(serving.local_addr().to_string());
    assert!(is_in_doubt(&pay(&client, "k", 5).await));
    for _ in 0..3 {
        assert_eq!(pay(&client, "k", 5).await.unwrap(), "paid 5");
    }
    assert_eq!(provider.runs.lock().len(), 2);
}

/// Pays what had not been paid by the run before.
#[cfg(feature = "sled")]
fn paying(provider: &Provider) -> Routes {
    Router::new(provider.clone())
        .method_reconciled(
            &PAY,
            |caller: Caller, provider: Provider, cents| async move {
                assert!(caller.execution.unwrap().is_rerun());
                provider.pay(&caller, cents);
                Ok(format!("paid {cents}"))
            },
            Provider::find,
        )
        .into_routes()
}

// B3: the server dies between claim and effect, and comes back.
#[cfg(feature = "sled")]
#[tokio::test]
async fn a_call_whose_server_died_before_the_effect_runs_on_the_next_one() {
    use onlyonce::storage::{SledOptions, SledStore};

    let folder = tempfile::tempdir().unwrap();
    let provider = Provider::default();
    let begun = Arc::new(Notify::new());
    let (hangs, told) = (begun.clone(), begun);
    let routes = Router::new(provider.clone())
        .method_reconciled(
            &PAY,
            move |_, _, _| {
                let hangs = Arc::clone(&hangs);
                async move {
                    hangs.notify_one();
                    std::future::pending().await
                }
            },
            Provider::find,
        )
        .into_routes();
    let store = SledStore::open_async(folder.path(), SledOptions::default())
        .await
        .unwrap();
    let store = Arc::new(store);
    let dying = tokio::runtime::Runtime::new().unwrap();
    let serving = dying.spawn(serve(store.clone(), routes)).await.unwrap();
    let client = Client::new(serving.local_addr().to_string());
    let lost = tokio::spawn(async move { pay(&client, "k", 6).await });
    told.notified().await;
    store.close().await.unwrap();

    // Opened again beside the handler that runs still.
    let again = SledStore::open_async(folder.path(), SledOptions::default())
        .await
        .unwrap();
    let again = Arc::new(again);
    let routes = paying(&provider);
    let hasty = serve(again.clone(), routes).await;
    let client = Client::new(hasty.local_addr().to_string());
    let told = pay(&client, "k", 6).await;
    assert!(is_in_doubt(&told), "its handler runs here still: {told:?}");
    again.close().await.unwrap();

    tokio::task::spawn_blocking(move || drop(dying))
        .await
        .unwrap();
    lost.abort();
    let store = SledStore::open_async(folder.path(), SledOptions::default())
        .await
        .unwrap();
    let serving = serve(Arc::new(store), paying(&provider)).await;
    let client = Client::new(serving.local_addr().to_string());
    for _ in 0..3 {
        assert_eq!(pay(&client, "k", 6).await.unwrap(), "paid 6");
    }
    assert_eq!(provider.made.load(Ordering::SeqCst), 1);
}

// B10: two servers over one store; the first one's lease lapses while it is frozen.
#[tokio::test]
async fn a_fenced_method_runs_again_beside_a_frozen_owner_which_the_provider_then_refuses() {
    use onlyonce::storage::{ManualClock, MemoryOptions};

    let provider = Provider::default();
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_options(
        MemoryOptions::new().clock(clock.clone()),
    ));
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let frozen = {
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        Router::new(provider.clone())
            .method_reconciled_and_fenced(
                &PAY,
                move |caller: Caller, provider: Provider, cents| {
                    let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
                    async move {
                        begun.notify_one();
                        go_on.notified().await;
                        provider.pay_fenced(&caller, cents);
                        Ok(format!("paid {cents}"))
                    }
                },
                Provider::find,
            )
            .into_routes()
    };
    let alive = Router::new(provider.clone())
        .method_reconciled_and_fenced(
            &PAY,
            |caller: Caller, provider: Provider, cents| async move {
                provider.pay_fenced(&caller, cents);
                Ok(format!("paid {cents}"))
            },
            Provider::find,
        )
        .into_routes();
    let frozen = serve(store.clone(), frozen).await;
    let alive = serve(store, alive).await;
    let first = Client::new(frozen.local_addr().to_string());
    let first = tokio::spawn(async move { pay(&first, "k", 6).await });
    begun.notified().await;
    clock.advance(std::time::Duration::from_secs(31));

    let client = Client::new(alive.local_addr().to_string());
    assert_eq!(pay(&client, "k", 6).await.unwrap(), "paid 6");
    go_on.notify_one();
    let late = first.await.unwrap();
    assert!(is_in_doubt(&late), "{late:?}");
    assert_eq!(provider.made.load(Ordering::SeqCst), 1);
    assert_eq!(pay(&client, "k", 6).await.unwrap(), "paid 6");
}
