//! What failed stays failed only where the handler says that it is final, and is then told alike to
//! everybody.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::middleware::client::{Call, Ticket};
use onlyonce::middleware::stack;
use onlyonce::rpc::{
    CallFailure, Channel, ChannelOptions, Client, ClientAdapter, Failure, Known, Method, Reply,
    Request, Router, Routes, Server, ServerAdapter, Serving, Stamp, Status,
};
use onlyonce::storage::{
    Clock as _, IdempotencyKey, Inspect, KeyState, ManualClock, MemoryOptions, MemoryStore,
    Operator, Resolution, RetentionOptions, Scope, ScopedKey, Store, SystemClock,
};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt as _, service_fn};

const PAY: Method<u64, u64, String> = Method::new("pay");

/// Counts payments; the first run of each amount below 5 fails in its own way.
fn paying(paid: &Arc<AtomicU32>) -> Routes {
    let first = Arc::new(AtomicU32::new(0));
    Router::new((Arc::clone(paid), first))
        .method(&PAY, |_, (paid, first), cents| async move {
            let bit = 1 << cents.min(5);
            let is_first = first.fetch_or(bit, Ordering::SeqCst) & bit == 0;
            match cents {
                DECLINED => return Err(Failure::Fault("no funds".to_owned())),
                OVERLOADED if is_first => {
                    return Err(Failure::NotExecuted("too busy".to_owned()));
                }
                LOST if is_first => return Err(Failure::InDoubt),
                _ => {}
            }
            paid.fetch_add(1, Ordering::SeqCst);
            Ok(cents)
        })
        .into_routes()
}

const DECLINED: u64 = 1;
const OVERLOADED: u64 = 2;
const LOST: u64 = 3;

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn serve(store: Arc<dyn Store>, routes: Routes) -> Serving {
    let layers = stack::server(store, ServerAdapter::new(routes.clone()));
    let server = Server::builder().global_scope().dedupe(layers.executions());
    let server = server.build().unwrap();
    server
        .serve(listener().await, layers.layer(routes))
        .unwrap()
}

fn client(serving: &Serving) -> Client {
    let once =
        stack::client(ClientAdapter).with_retry(|retry| retry.with_attempts_max(NonZeroU32::MIN));
    let address = serving.local_addr().to_string();
    Client::with_stack(Channel::new(address, ChannelOptions::default()), once)
}

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(name).unwrap()
}

fn scoped(name: &str) -> ScopedKey {
    let scope = Scope::global().operation(PAY.name()).unwrap();
    ScopedKey::new(scope, key(name))
}

// D7: nobody is locked out of a key by a failure that may pass, whatever the retention.
#[tokio::test]
async fn only_a_failure_that_its_handler_calls_final_holds_its_key() {
    let store = Arc::new(MemoryStore::default());
    let paid = Arc::default();
    let serving = serve(Arc::clone(&store) as Arc<dyn Store>, paying(&paid)).await;
    let client = client(&serving);
    let pay = async |name: &str, cents: u64| {
        let ticket = Ticket::never_sent(key(name));
        client.resume(ticket, &PAY, &cents).await
    };

    // It says that nothing was executed: the next attempt runs.
    let busy = pay("overloaded", OVERLOADED).await;
    assert!(matches!(busy, Err(CallFailure::NotExecuted(_))), "{busy:?}");
    assert_eq!(pay("overloaded", OVERLOADED).await.unwrap(), OVERLOADED);

    // It does not know: the key is held until somebody does, and is then free.
    let lost = pay("lost", LOST).await;
    assert!(matches!(lost, Err(CallFailure::InDoubt(_))), "{lost:?}");
    let KeyState::InDoubt(doubt) = store.peek(scoped("lost")).await.unwrap() else {
        panic!("it is in doubt");
    };
    let by = Operator::parse("carol").unwrap();
    let resolved = store.resolve(scoped("lost"), doubt.token, Resolution::NotApplied, by);
    resolved.await.unwrap();
    assert_eq!(pay("lost", LOST).await.unwrap(), LOST);

    // It is final: everybody hears the same, and nothing is executed.
    for _ in 0..3 {
        let declined = pay("declined", DECLINED).await;
        assert!(
            matches!(&declined, Err(CallFailure::Fault(fault)) if fault == "no funds"),
            "{declined:?}"
        );
    }
    assert_eq!(paid.load(Ordering::SeqCst), 2);
}

// D6: of an answer that says when asking again is of use, the replay says the same.
#[tokio::test]
async fn a_replayed_error_keeps_its_retry_advice() {
    let store = Arc::new(MemoryStore::default());
    let routes = paying(&Arc::default());
    let layers = stack::server(
        Arc::clone(&store) as Arc<dyn Store>,
        ServerAdapter::new(routes.clone()),
    );
    let server = Server::builder().global_scope().dedupe(layers.executions());
    let advising = service_fn(move |call| {
        let routes = routes.clone();
        async move {
            let reply = routes.oneshot(call).await?;
            Ok::<Reply, std::convert::Infallible>(reply.retry_after(Some(ADVICE)))
        }
    });
    let serving = server
        .build()
        .unwrap()
        .serve(listener().await, layers.layer(advising))
        .unwrap();
    let address = serving.local_addr().to_string();
    let channel = Channel::new(address, ChannelOptions::default());
    let ask = async || {
        let arguments = vec![u8::try_from(DECLINED).unwrap()];
        let call = Arc::new(Call::new(Ticket::never_sent(key("declined"))));
        let request = Request::new(PAY.name(), arguments).stamp(Stamp::new(call, NonZeroU32::MIN));
        channel.clone().oneshot(request).await.unwrap()
    };
    let first = ask().await;
    assert_eq!(
        (first.status, first.retry_after),
        (Status::Executed, Some(ADVICE))
    );
    for _ in 0..2 {
        let again = ask().await;
        assert_eq!(again.status, Status::Replayed);
        assert_eq!(
            (&again.body, again.retry_after),
            (&first.body, Some(ADVICE))
        );
    }
    // It is an answer like any other to who asks what is known.
    let known = client(&serving).peek(key("declined"), &PAY).await.unwrap();
    assert_eq!(known, Known::Completed(Err("no funds".to_owned())));
}

const ADVICE: Duration = Duration::from_millis(4_321);

// E1: what the network holds back for longer than anything is remembered is refused when it comes.
#[tokio::test]
async fn a_duplicate_that_comes_after_the_horizon_is_stale_and_pays_nothing() {
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_options(
        MemoryOptions::new().clock(clock.clone()),
    ));
    let paid = Arc::default();
    let serving = serve(Arc::clone(&store) as Arc<dyn Store>, paying(&paid)).await;
    let client = client(&serving);
    let sent = Ticket::new(key("order-1"))
        .first_sent(store.now())
        .store(store.id());
    clock.advance(Duration::from_secs(1));
    assert_eq!(client.resume(sent.clone(), &PAY, &7).await.unwrap(), 7);
    clock.advance(RetentionOptions::default().horizon * 2);
    store.confirm_clock().await.unwrap();
    store.sweep().await.unwrap();
    for _ in 0..2 {
        let late = client.resume(sent.clone(), &PAY, &7).await;
        assert!(
            matches!(
                &late,
                Err(CallFailure::Refused {
                    status: Status::Stale,
                    ..
                }) | Err(CallFailure::OutcomeUnknown(_))
            ),
            "{late:?}"
        );
        let known = client.peek(sent.clone(), &PAY).await.unwrap();
        assert_eq!(known, Known::Stale);
    }
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

// E5: a client takes the time from its server. Whatever its own clock says, an hour more or less, a
// new call is neither stale nor ahead, and an old one does not become new.
#[tokio::test]
async fn a_client_whose_clock_is_an_hour_off_is_neither_refused_nor_believed() {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let here = SystemClock.now();
    for server_is_ahead in [false, true] {
        let at = if server_is_ahead {
            here.plus(HOUR)
        } else {
            here.minus(HOUR)
        };
        let clock = Arc::new(ManualClock::new(at));
        let store = Arc::new(MemoryStore::with_options(
            MemoryOptions::new().clock(clock.clone()),
        ));
        clock.advance(Duration::from_secs(1));
        let paid = Arc::default();
        let serving = serve(Arc::clone(&store) as Arc<dyn Store>, paying(&paid)).await;
        for number in 0..3 {
            let client = client(&serving);
            let name = format!("order-{number}");
            for _ in 0..2 {
                let ticket = Ticket::never_sent(key(&name));
                assert_eq!(client.resume(ticket, &PAY, &7).await.unwrap(), 7);
            }
        }
        assert_eq!(paid.load(Ordering::SeqCst), 3);
    }
}
