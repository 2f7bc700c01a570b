//! Methods of the native RPC.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use onlyonce::middleware::client::Ticket;
use onlyonce::middleware::stack;
use onlyonce::rpc::{
    CallFailure, Caller, Channel, ChannelOptions, Client, ClientAdapter, Known, Method, Router,
    Server, ServerAdapter, Serving, Transaction, TransactionError, Undone,
};
use onlyonce::storage::IdempotencyKey;
use onlyonce::storage::postgres::{Isolation, PostgresStore};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::Layer;

use crate::Bank;

/// Adds to an account.
const DEPOSIT: Method<(String, i64), i64, String> = Method::new("deposit");

/// How the handler behaves is told by the amount.
#[derive(Clone, Default)]
struct Script {
    runs: Arc<AtomicU32>,
    /// Told in the middle of the first run of the amount [`WAITS`].
    is_at_it: Arc<Notify>,
    go_on: Arc<Notify>,
}

const PANICS_ONCE: i64 = 666;
const WAITS: i64 = 668;
const HIDES: i64 = -500;
const REFUSES: i64 = -501;

async fn deposit(
    script: Script,
    bank: Arc<Bank>,
    calls: Transaction,
    (name, cents): (String, i64),
) -> Result<i64, Undone<String>> {
    let run = script.runs.fetch_add(1, Ordering::SeqCst);
    let sql = calls.sql()?;
    let read = bank.sql("SELECT cents FROM {schema}.accounts WHERE name = $1");
    sql.query_one(&read, &[&name]).await?;
    if cents == WAITS && run == 0 {
        script.is_at_it.notify_one();
        script.go_on.notified().await;
    }
    let add =
        bank.sql("UPDATE {schema}.accounts SET cents = cents + $1 WHERE name = $2 RETURNING cents");
    let added = sql.query_one(&add, &[&cents, &name]).await;
    match (cents, added) {
        (PANICS_ONCE, _) if run == 0 => panic!("as the test wants"),
        // Swallowed: the handler says that all is well.
        (HIDES, _) => Ok(0),
        (REFUSES, Err(TransactionError::Statement(refused))) if refused.code() == "23514" => {
            Err(Undone::Fault("not enough".to_owned()))
        }
        (_, added) => Ok(added?.get("cents")),
    }
}

fn serve(bank: &Arc<Bank>, store: &Arc<PostgresStore>, script: &Script) -> (Serving, Client) {
    let (bank, script) = (Arc::clone(bank), script.clone());
    let routes = Router::new(())
        .method_transactional(&DEPOSIT, move |_: Caller, calls, arguments| {
            deposit(script.clone(), Arc::clone(&bank), calls, arguments)
        })
        .into_routes();
    let layers = stack::server(Arc::clone(store) as _, ServerAdapter::new(routes.clone()));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let server = Server::builder().global_scope().dedupe(layers.executions());
    let serving = server.build().unwrap();
    let serving = serving.serve(listener, layers.layer(routes)).unwrap();
    let layers =
        stack::client(ClientAdapter).with_retry(|retry| retry.with_attempts_max(NonZeroU32::MIN));
    let address = serving.local_addr().to_string();
    let client = Client::with_stack(Channel::new(address, ChannelOptions::default()), layers);
    (serving, client)
}

fn first(name: &str) -> Ticket {
    Ticket::never_sent(key(name))
}

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(name).unwrap()
}

fn order(cents: i64) -> (String, i64) {
    ("alice".to_owned(), cents)
}

/// A2, A10: a duplicate that comes to another server while the first is at it waits, and gets its answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_at_another_server_waits_and_gets_the_answer_of_the_first() {
    let Some(bank) = Bank::open().await else {
        return;
    };
    let script = Script::default();
    let (_here, client) = serve(&bank, &bank.store().await, &script);
    let (_there, other) = serve(&bank, &bank.store().await, &script);
    let amount = order(WAITS);
    let calling = client.resume(first("order-1"), &DEPOSIT, &amount);
    let duplicate = async {
        script.is_at_it.notified().await;
        let go_on = async {
            tokio::time::sleep(std::time::Duration::from_millis(400)).await;
            script.go_on.notify_one();
        };
        tokio::join!(other.resume(first("order-1"), &DEPOSIT, &amount), go_on).0
    };
    let (called, duplicated) = tokio::join!(calling, duplicate);
    assert_eq!(called.unwrap(), 100 + WAITS);
    assert_eq!(duplicated.unwrap(), 100 + WAITS);
    assert_eq!(script.runs.load(Ordering::SeqCst), 1);
    assert_eq!(bank.cents("alice").await, 100 + WAITS);
}

/// B15: a panic rolls back, leaves no doubt, and the next attempt runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_rolls_back_and_the_next_attempt_runs() {
    let Some(bank) = Bank::open().await else {
        return;
    };
    let script = Script::default();
    let (_here, client) = serve(&bank, &bank.store().await, &script);
    let ended = client
        .resume(first("order-1"), &DEPOSIT, &order(PANICS_ONCE))
        .await;
    assert!(
        matches!(ended, Err(CallFailure::NotExecuted(_))),
        "{ended:?}"
    );
    let known = client.peek(key("order-1"), &DEPOSIT).await.unwrap();
    assert!(matches!(known, Known::Absent), "{known:?}");
    assert_eq!(bank.cents("alice").await, 100);
    let after = client
        .resume(first("order-1"), &DEPOSIT, &order(PANICS_ONCE))
        .await;
    assert_eq!(after.unwrap(), 100 + PANICS_ONCE);
}

/// B20: an error that the handler hides is not committed as a success; one that it means is an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_statement_is_a_fault_if_the_handler_says_so_and_never_a_success() {
    let Some(bank) = Bank::open().await else {
        return;
    };
    let script = Script::default();
    let (_here, client) = serve(&bank, &bank.store().await, &script);
    let (_there, other) = serve(&bank, &bank.store().await, &script);
    let ended = client.resume(first("hides"), &DEPOSIT, &order(HIDES)).await;
    assert!(
        matches!(ended, Err(CallFailure::NotExecuted(_))),
        "{ended:?}"
    );
    let known = client.peek(key("hides"), &DEPOSIT).await.unwrap();
    assert!(matches!(known, Known::Absent), "{known:?}");
    for server in [&client, &other] {
        let ended = server
            .resume(first("refuses"), &DEPOSIT, &order(REFUSES))
            .await;
        assert!(matches!(ended, Err(CallFailure::Fault(_))), "{ended:?}");
    }
    assert_eq!(script.runs.load(Ordering::SeqCst), 2);
    assert_eq!(bank.cents("alice").await, 100);
}

/// A10: a run that lost against another commit runs again on what is there now, and its caller hears of the
/// second run alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_serialization_failure_runs_again_and_its_caller_hears_of_the_second_run() {
    let Some(bank) = Bank::open().await else {
        return;
    };
    for level in [Isolation::RepeatableRead, Isolation::Serializable] {
        let before = bank.cents("alice").await;
        let script = Script::default();
        let (_here, client) = serve(&bank, &bank.store_at(level).await, &script);
        let (name, amount) = (format!("{level:?}"), order(WAITS));
        let calling = client.resume(first(&name), &DEPOSIT, &amount);
        let interfering = async {
            script.is_at_it.notified().await;
            let client = bank.server.client().await;
            let sql =
                bank.sql("UPDATE {schema}.accounts SET cents = cents + 1 WHERE name = 'alice'");
            client.batch_execute(&sql).await.unwrap();
            script.go_on.notify_one();
        };
        let (after, ()) = tokio::join!(calling, interfering);
        assert_eq!(after.unwrap(), before + 1 + WAITS);
        assert_eq!(script.runs.load(Ordering::SeqCst), 2);
        assert_eq!(bank.cents("alice").await, before + 1 + WAITS);
    }
    let answers = "SELECT count(*) FROM {schema}.records WHERE state = 3";
    assert_eq!(bank.number(answers).await, 2);
}

/// Many callers at two servers, each order sent to both: every deposit is there once.
#[tokio::test(flavor = "multi_thread")]
async fn deposits_of_many_callers_at_two_servers_add_up() {
    let Some(bank) = Bank::open().await else {
        return;
    };
    let script = Script::default();
    let (_here, client) = serve(&bank, &bank.store().await, &script);
    let (_there, other) = serve(&bank, &bank.store().await, &script);
    let (client, other) = (Arc::new(client), Arc::new(other));
    let callers = (0..8).map(|caller| {
        let client = Arc::clone(if caller % 2 == 0 { &client } else { &other });
        tokio::spawn(async move {
            for number in 0..10 {
                // Four callers share each order.
                let name = format!("order-{}-{number}", caller / 4);
                while let Err(ended) = client.resume(first(&name), &DEPOSIT, &order(1)).await {
                    let is_asked_again = matches!(
                        ended,
                        CallFailure::NotExecuted(_) | CallFailure::OutcomeUnknown(_)
                    );
                    assert!(is_asked_again, "{ended:?}");
                }
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    assert_eq!(bank.cents("alice").await, 120);
}
