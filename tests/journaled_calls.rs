//! Methods whose effects are steps, over the native protocol: what a run before has finished is not
//! run again, and the server finishes what stands still.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::middleware::stack;
use onlyonce::rpc::{
    CallFailure, Caller, Client, Interrupted, Known, Method, Router, Routes, Server, ServerAdapter,
    ServerOptions, Serving, StepError, StepRun, Steps, UnfinishedStep, answered,
};
use onlyonce::storage::{IdempotencyKey, MemoryStore};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tower::Layer;

/// Books an amount; answers how often it booked.
const CHARGE: Method<u64, u32, String> = Method::new("bank.charge");

/// Charges at the bank, ships, and answers with both.
const ORDER: Method<u64, (u32, u32), String> = Method::new("shop.order");

/// How often each thing was done, and how the shop behaves.
#[derive(Clone)]
struct Shop {
    bank: Client,
    shipped: Arc<AtomicU32>,
    runs: Arc<AtomicU32>,
    /// So many runs come to nothing before the shipping.
    closed_for: u32,
}

impl Shop {
    fn new(bank: &Serving, closed_for: u32) -> Self {
        Self {
            bank: Client::new(bank.local_addr().to_string()),
            shipped: Arc::default(),
            runs: Arc::default(),
            closed_for,
        }
    }

    fn routes(&self) -> Routes {
        let router = Router::new(self.clone());
        router.method_journaled(&ORDER, order).into_routes()
    }

    fn shipped(&self) -> u32 {
        self.shipped.load(Ordering::SeqCst)
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

async fn order(
    caller: Caller,
    steps: Steps,
    shop: Shop,
    cents: u64,
) -> Result<(u32, u32), Interrupted<String>> {
    let run = shop.runs.fetch_add(1, Ordering::SeqCst);
    assert!(caller.key.is_some() && caller.execution.is_some());
    if cents == NOTHING {
        return Err(Interrupted::NotExecuted("nothing to pay".to_owned()));
    }
    let charge = async |run: StepRun| answered(shop.bank.call_as(run.key, &CHARGE, &cents).await);
    let charged = steps.run_keyed("charge", charge).await?;
    let charged = charged.map_err(Interrupted::Fault)?;
    let ship = async |_: StepRun| match run < shop.closed_for {
        true => Err(UnfinishedStep::NotExecuted("closed".to_owned())),
        false => Ok(shop.shipped.fetch_add(1, Ordering::SeqCst) + 1),
    };
    let shipped = steps.run_once("ship", ship).await?;
    Ok((charged, shipped))
}

const NOTHING: u64 = 0;
const TOO_MUCH: u64 = 1_000_000;

async fn bank() -> (Serving, Arc<AtomicU32>) {
    let booked = Arc::<AtomicU32>::default();
    let charge = async |_: Caller, booked: Arc<AtomicU32>, cents: u64| match cents {
        TOO_MUCH => Err("no funds".to_owned().into()),
        _ => Ok(booked.fetch_add(1, Ordering::SeqCst) + 1),
    };
    let router = Router::new(booked.clone()).method(&CHARGE, charge);
    let serving = serve(&MemoryStore::default(), router.into_routes(), true).await;
    (serving, booked)
}

async fn serve(store: &MemoryStore, routes: Routes, finish_abandoned: bool) -> Serving {
    let layers = stack::server(Arc::new(store.clone()), ServerAdapter::new(routes.clone()));
    let mut options = ServerOptions::default();
    options.finish_abandoned = finish_abandoned;
    let server = Server::builder()
        .global_scope()
        .dedupe(layers.executions())
        .options(options)
        .build()
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    server.serve(listener, layers.layer(routes)).unwrap()
}

fn client(serving: &Serving) -> Client {
    Client::new(serving.local_addr().to_string())
}

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::parse(text).unwrap()
}

/// Asks for nothing, and waits until the call has its answer.
async fn until_known(client: &Client, key: &IdempotencyKey) -> (u32, u32) {
    let give_up_at = Instant::now() + Duration::from_secs(30);
    while Instant::now() < give_up_at {
        if let Known::Completed(answer) = client.peek(key.clone(), &ORDER).await.unwrap() {
            return answer.unwrap();
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody finished the call");
}

/// Makes a call that stands still afterwards.
async fn leave_standing(store: &MemoryStore, bank: &Serving, key: &IdempotencyKey) {
    let shop = Shop::new(bank, u32::MAX);
    let serving = serve(store, shop.routes(), false).await;
    let client = client(&serving);
    let left = client.call_as(key.clone(), &ORDER, &7);
    let left = tokio::time::timeout(Duration::from_millis(500), left).await;
    assert!(left.is_err(), "it is told to ask again: {left:?}");
    serving.shutdown(Duration::from_secs(5)).await;
    assert_eq!(shop.shipped(), 0);
    assert!(shop.runs() > 0);
}

#[tokio::test]
async fn a_client_that_asks_again_goes_on_behind_the_last_finished_step() {
    let (bank, booked) = bank().await;
    let shop = Shop::new(&bank, 1);
    let serving = serve(&MemoryStore::default(), shop.routes(), false).await;
    let client = client(&serving);
    let called = client.call_as(key("k"), &ORDER, &7).await;
    assert_eq!(called.unwrap(), (1, 1));
    assert_eq!((shop.runs(), booked.load(Ordering::SeqCst)), (2, 1));
    let again = client.call_as(key("k"), &ORDER, &7).await;
    assert_eq!(again.unwrap(), (1, 1));
    assert_eq!((shop.runs(), shop.shipped()), (2, 1));
}

// B6
#[tokio::test]
async fn a_server_that_starts_finishes_the_calls_that_stand_still_though_nobody_asks() {
    let (bank, booked) = bank().await;
    let store = MemoryStore::default();
    leave_standing(&store, &bank, &key("k")).await;
    let shop = Shop::new(&bank, 0);
    let serving = serve(&store, shop.routes(), true).await;
    let answer = until_known(&client(&serving), &key("k")).await;
    assert_eq!(answer, (1, 1));
    assert_eq!((shop.runs(), booked.load(Ordering::SeqCst)), (1, 1));
    let called = client(&serving).call_as(key("k"), &ORDER, &7).await;
    assert_eq!(called.unwrap(), (1, 1));
    let report = serving.shutdown(Duration::from_secs(5)).await;
    assert_eq!((report.cut_off, report.executing), (0, 0));
}

#[tokio::test]
async fn a_server_that_is_told_not_to_leaves_calls_that_stand_still_to_who_asks() {
    let (bank, _) = bank().await;
    let store = MemoryStore::default();
    leave_standing(&store, &bank, &key("k")).await;
    let shop = Shop::new(&bank, 0);
    let serving = serve(&store, shop.routes(), false).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(shop.runs(), 0);
    let called = client(&serving).call_as(key("k"), &ORDER, &7).await;
    assert_eq!(called.unwrap(), (1, 1));
}

#[tokio::test]
async fn a_server_that_has_no_such_method_any_more_executes_nothing_of_what_stands_still() {
    let (bank, _) = bank().await;
    let store = MemoryStore::default();
    leave_standing(&store, &bank, &key("k")).await;
    let runs = Arc::<AtomicU32>::default();
    // By the same name, and not journaled any more: it would have its effects anew.
    let claimed = async |_: Caller, runs: Arc<AtomicU32>, _: u64| {
        runs.fetch_add(1, Ordering::SeqCst);
        Ok((0, 0))
    };
    let router = Router::new(runs.clone()).method(&ORDER, claimed);
    let serving = serve(&store, router.into_routes(), true).await;
    sleep(Duration::from_millis(300)).await;
    let called = client(&serving).call_as(key("k"), &ORDER, &7).await;
    assert!(matches!(called, Err(CallFailure::InDoubt(_))), "{called:?}");
    assert_eq!(runs.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_peers_fault_is_the_steps_result_and_can_be_the_calls_answer() {
    let (bank, _) = bank().await;
    let shop = Shop::new(&bank, 0);
    let serving = serve(&MemoryStore::default(), shop.routes(), false).await;
    for _ in 0..2 {
        let called = client(&serving).call_as(key("k"), &ORDER, &TOO_MUCH).await;
        let Err(CallFailure::Fault(fault)) = called else {
            panic!("{called:?}");
        };
        assert_eq!(fault, "no funds");
    }
    assert_eq!((shop.runs(), shop.shipped()), (1, 0));
}

#[tokio::test]
async fn not_executed_before_any_step_frees_the_key() {
    let (bank, _) = bank().await;
    let shop = Shop::new(&bank, 0);
    let serving = serve(&MemoryStore::default(), shop.routes(), false).await;
    let client = client(&serving);
    let called = client.call_as(key("k"), &ORDER, &NOTHING).await;
    assert!(
        matches!(
            called,
            Err(CallFailure::OutcomeUnknown(_) | CallFailure::NotExecuted(_))
        ),
        "{called:?}"
    );
    let known = client.peek(key("k"), &ORDER).await.unwrap();
    assert_eq!(known, Known::Absent);
}

#[tokio::test]
async fn a_journaled_method_without_a_dedupe_layer_executes_nothing() {
    let (bank, booked) = bank().await;
    let shop = Shop::new(&bank, 0);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder().global_scope().build().unwrap();
    let serving = server.serve(listener, shop.routes()).unwrap();
    let called = client(&serving).call_as(key("k"), &ORDER, &7).await;
    assert!(called.is_err(), "{called:?}");
    assert_eq!((shop.runs(), booked.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test]
async fn a_result_whose_type_has_changed_stops_the_run_and_is_not_guessed() {
    let errors = Arc::<parking_lot::Mutex<Vec<_>>>::default();
    let store = MemoryStore::default();
    let changed = async |_: Caller, steps: Steps, errors: Errors, first: u64| {
        let run = errors.lock().len();
        if run == 0 {
            let short = async |_: StepRun| Ok(300_u16);
            let short: u16 = steps.run_once("step", short).await?;
            errors.lock().push(None);
            assert_eq!(
                u64::from(short),
                300 * first,
                "after the step, as the test wants"
            );
        }
        let long = async |_: StepRun| Ok("never run".to_owned());
        let long: Result<String, _> = steps.run_once("step", long).await;
        errors.lock().push(long.err());
        Ok((0, 0))
    };
    let router = Router::new(errors.clone()).method_journaled(&ORDER, changed);
    let serving = serve(&store, router.into_routes(), false).await;
    let client = client(&serving);
    let panicked = client.call_as(key("k"), &ORDER, &0).await;
    assert!(
        matches!(panicked, Err(CallFailure::InDoubt(_))),
        "{panicked:?}"
    );
    let goes_on = client.call_as(key("k"), &ORDER, &0);
    let goes_on = tokio::time::timeout(Duration::from_millis(500), goes_on).await;
    // Whether it is told to ask again, or that the handler is to be mended first: it has no answer.
    let no_answer = matches!(goes_on, Err(_) | Ok(Err(CallFailure::InDoubt(_))));
    assert!(no_answer, "{goes_on:?}");
    let errors = std::mem::take(&mut *errors.lock());
    assert!(
        matches!(errors[1], Some(StepError::Unreadable(_))),
        "{errors:?}"
    );
    let known = client.peek(key("k"), &ORDER).await.unwrap();
    assert!(matches!(known, Known::InDoubt(_)), "{known:?}");
}

type Errors = Arc<parking_lot::Mutex<Vec<Option<StepError>>>>;
