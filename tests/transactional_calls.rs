//! Methods whose effects lie in the server's own store: effect and answer, or neither.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::middleware::client::Ticket;
use onlyonce::middleware::stack;
use onlyonce::rpc::{
    CallFailure, Caller, Channel, ChannelOptions, Client, ClientAdapter, Known, Method, Router,
    Routes, Server, ServerAdapter, Serving, Table, Transaction, Undone,
};
use onlyonce::storage::transaction::{RowRange, TransactionalStore};
use onlyonce::storage::{IdempotencyKey, MemoryStore};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::Layer;

const ACCOUNTS: Table = Table::new("accounts");

/// Adds to an account.
const DEPOSIT: Method<(String, i64), i64, String> = Method::new("deposit");

/// A bank whose handler is told how to behave by the amount.
#[derive(Clone, Default)]
struct Script {
    runs: Arc<AtomicU32>,
    /// Told after a read of the amount [`WAITS`].
    has_read: Arc<Notify>,
    go_on: Arc<Notify>,
}

const PANICS_ONCE: i64 = 666;
const TOO_LARGE: i64 = 667;
const WAITS: i64 = 668;
const ALWAYS_TOO_LATE: i64 = 669;

fn routes(script: &Script, store: &MemoryStore) -> Routes {
    let (script, store) = (script.clone(), store.clone());
    Router::new(())
        .method_transactional(&DEPOSIT, move |_: Caller, accounts, (name, amount)| {
            deposit(script.clone(), store.clone(), accounts, name, amount)
        })
        .into_routes()
}

async fn deposit(
    script: Script,
    store: MemoryStore,
    accounts: Transaction,
    name: String,
    amount: i64,
) -> Result<i64, Undone<String>> {
    let run = script.runs.fetch_add(1, Ordering::SeqCst);
    let before = accounts.get(&ACCOUNTS, name.as_bytes()).await?;
    let before: i64 = before.map_or(0, |text| {
        std::str::from_utf8(&text).unwrap().parse().unwrap()
    });
    let after = before + amount;
    accounts.put(&ACCOUNTS, name.as_bytes(), after.to_string().as_bytes())?;
    match amount {
        PANICS_ONCE => assert!(run > 0, "the handler panics, as the test wants"),
        // Swallowed: the handler says that all is well.
        TOO_LARGE => drop(accounts.put(&ACCOUNTS, b"large", &[0; 10_000])),
        WAITS if run == 0 => {
            script.has_read.notify_one();
            script.go_on.notified().await;
        }
        ALWAYS_TOO_LATE => write(&store, &name, &run.to_string()).await,
        ..0 => {
            return Err(Undone::Fault(
                "nobody deposits less than nothing".to_owned(),
            ));
        }
        _ => {}
    }
    Ok(after)
}

/// Somebody else's commit.
async fn write(store: &MemoryStore, name: &str, text: &str) {
    use onlyonce::storage::{
        Answer, AnswerFormat, ClaimOutcome, ClaimRequest, Fingerprint, FingerprintAlgorithm,
        Fingerprints, Scope, ScopedKey,
    };
    let key = ScopedKey::new(Scope::global(), IdempotencyKey::unique());
    let print = Fingerprint::builder(FingerprintAlgorithm::new(1)).finish();
    let request = ClaimRequest::new(key, Fingerprints::new(print), Duration::from_secs(30));
    let ClaimOutcome::Claimed(claim) = store.begin(request).await.unwrap() else {
        panic!("a unique key is free");
    };
    let transaction = store.start(&claim);
    transaction
        .put(&ACCOUNTS, name.as_bytes(), text.as_bytes())
        .unwrap();
    let answer = Answer::new(AnswerFormat::new(9), "");
    store
        .commit(claim, transaction.end().unwrap(), answer)
        .await
        .unwrap();
}

async fn serve(store: &MemoryStore, script: &Script) -> (Serving, Client) {
    let routes = routes(script, store);
    let layers = stack::server(Arc::new(store.clone()), ServerAdapter::new(routes.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder().global_scope().dedupe(layers.executions());
    let serving = server
        .build()
        .unwrap()
        .serve(listener, layers.layer(routes));
    let serving = serving.unwrap();
    let client = client(&serving);
    (serving, client)
}

fn client(serving: &Serving) -> Client {
    let layers =
        stack::client(ClientAdapter).with_retry(|retry| retry.with_attempts_max(NonZeroU32::MIN));
    let address = serving.local_addr().to_string();
    Client::with_stack(Channel::new(address, ChannelOptions::default()), layers)
}

/// A call that was never sent: what is not executed of it is then known to be so.
fn first(name: &str) -> Ticket {
    Ticket::never_sent(key(name))
}

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(name).unwrap()
}

async fn balance(store: &MemoryStore, name: &str) -> Option<String> {
    let rows = store
        .read(RowRange::of_key(&ACCOUNTS, name.as_bytes()))
        .await
        .unwrap();
    rows.first()
        .map(|(_, text)| String::from_utf8(text.to_vec()).unwrap())
}

/// A1: the effect happens once, and the answer is the first one.
#[tokio::test]
async fn a_deposit_that_is_called_again_is_replayed_and_made_once() {
    let (store, script) = (MemoryStore::new(), Script::default());
    let (_serving, client) = serve(&store, &script).await;
    let order = ("alice".to_owned(), 100);
    for _ in 0..3 {
        let after = client.resume(first("order-1"), &DEPOSIT, &order).await;
        assert_eq!(after.unwrap(), 100);
    }
    let after = client.resume(first("order-2"), &DEPOSIT, &order).await;
    assert_eq!(after.unwrap(), 200);
    assert_eq!(balance(&store, "alice").await.as_deref(), Some("200"));
    assert_eq!(script.runs.load(Ordering::SeqCst), 2);
}

/// A definitive refusal is the answer from now on, and what was written before it is not there.
#[tokio::test]
async fn a_fault_is_recorded_and_has_no_effect() {
    let (store, script) = (MemoryStore::new(), Script::default());
    let (_serving, client) = serve(&store, &script).await;
    for _ in 0..2 {
        let ended = client
            .resume(first("order-1"), &DEPOSIT, &("alice".to_owned(), -1))
            .await;
        assert!(matches!(ended, Err(CallFailure::Fault(_))), "{ended:?}");
    }
    assert_eq!(script.runs.load(Ordering::SeqCst), 1);
    assert_eq!(balance(&store, "alice").await, None);
}

/// B15: where a claimed handler that panics leaves a doubt, this one leaves nothing.
#[tokio::test]
async fn a_panic_rolls_back_and_the_next_attempt_runs() {
    let (store, script) = (MemoryStore::new(), Script::default());
    let (_serving, client) = serve(&store, &script).await;
    let order = ("alice".to_owned(), PANICS_ONCE);
    let ended = client.resume(first("order-1"), &DEPOSIT, &order).await;
    assert!(
        matches!(ended, Err(CallFailure::NotExecuted(_))),
        "{ended:?}"
    );
    let known = client.peek(key("order-1"), &DEPOSIT).await.unwrap();
    assert!(matches!(known, Known::Absent), "{known:?}");
    assert_eq!(balance(&store, "alice").await, None);
    let after = client.resume(first("order-1"), &DEPOSIT, &order).await;
    assert_eq!(after.unwrap(), PANICS_ONCE);
}

/// B20: an error that the handler swallows does not leave half of its work.
#[tokio::test]
async fn a_handler_that_hides_an_error_commits_nothing() {
    let (store, script) = (MemoryStore::new(), Script::default());
    let (_serving, client) = serve(&store, &script).await;
    let order = ("alice".to_owned(), TOO_LARGE);
    let ended = client.resume(first("order-1"), &DEPOSIT, &order).await;
    let Err(CallFailure::NotExecuted(failed)) = ended else {
        panic!("it is not executed: {ended:?}");
    };
    assert!(
        failed.last.contains("at most 3400 bytes"),
        "{}",
        failed.last
    );
    assert_eq!(balance(&store, "alice").await, None);
}

/// A10: a run whose reads were changed runs again, and the caller hears of the second.
#[tokio::test]
async fn a_run_that_lost_to_another_commit_runs_again_on_what_is_there_now() {
    let (store, script) = (MemoryStore::new(), Script::default());
    let (_serving, client) = serve(&store, &script).await;
    let order = ("alice".to_owned(), WAITS);
    let calling = client.resume(first("order-1"), &DEPOSIT, &order);
    let interfering = async {
        script.has_read.notified().await;
        write(&store, "alice", "1000").await;
        script.go_on.notify_one();
    };
    let (after, ()) = tokio::join!(calling, interfering);
    assert_eq!(after.unwrap(), 1_000 + WAITS);
    assert_eq!(script.runs.load(Ordering::SeqCst), 2);
    assert_eq!(
        balance(&store, "alice").await,
        Some((1_000 + WAITS).to_string())
    );
}

/// G4: a row that is too hot is told as not executed after a bounded number of runs.
#[tokio::test]
async fn a_run_that_always_loses_ends_as_not_executed() {
    let (store, script) = (MemoryStore::new(), Script::default());
    let (_serving, client) = serve(&store, &script).await;
    let order = ("alice".to_owned(), ALWAYS_TOO_LATE);
    let ended = client.resume(first("order-1"), &DEPOSIT, &order).await;
    assert!(
        matches!(ended, Err(CallFailure::NotExecuted(_))),
        "{ended:?}"
    );
    assert_eq!(script.runs.load(Ordering::SeqCst), 8);
    let known = client.peek(key("order-1"), &DEPOSIT).await.unwrap();
    assert!(matches!(known, Known::Absent), "{known:?}");
}

/// Many callers at once on one account: every deposit is there once.
#[tokio::test(flavor = "multi_thread")]
async fn deposits_of_many_callers_add_up() {
    let (store, script) = (MemoryStore::new(), Script::default());
    let (serving, _) = serve(&store, &script).await;
    let callers = (0..8).map(|caller| {
        let client = client(&serving);
        tokio::spawn(async move {
            for number in 0..20 {
                let name = format!("order-{caller}-{number}");
                let order = ("alice".to_owned(), 1);
                // A crowd on one row may be told to come again.
                while let Err(ended) = client.resume(first(&name), &DEPOSIT, &order).await {
                    assert!(matches!(ended, CallFailure::NotExecuted(_)), "{ended:?}");
                }
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    assert_eq!(balance(&store, "alice").await.as_deref(), Some("160"));
}
