//! Clients in sessions: the server forgets what their callers have, and nothing is executed twice.

use std::sync::Arc;
use std::time::Duration;

use onlyonce::middleware::server::DedupeOptions;
use onlyonce::rpc::{CallFailure, ChannelOptions, Client, Credential, Known, Server};
use onlyonce::storage::{
    IdempotencyKey, KeyState, ManualClock, MemoryOptions, MemoryStore, Scope, ScopedKey,
    SessionCall, SessionRequest, SessionState, Store, StoreLimits,
};
use onlyonce_chaos::proxy::{Direction, Fault, Plan, Rule};
use tokio::time::sleep;

use super::lost::handshake;
use super::shop::{ClientOptions, PAY, Shop, Wish, key, network, payment};
use super::stores::{Folder, on_every_store};

on_every_store![
    // E7
    what_its_caller_has_is_forgotten_after_a_pause,
    // E7
    a_call_under_a_key_of_the_callers_own_is_remembered,
    // E7
    a_call_that_lost_its_answer_is_remembered_for_its_ticket,
    // E7, E14
    many_calls_through_a_network_that_cuts_are_paid_once_each,
    // E14
    a_full_window_holds_back_its_client_and_nobody_forgets,
    // E13
    a_client_resumes_its_session_after_a_reconnect,
];

/// Whatever key the server saw first.
fn first_key(shop: &Shop) -> ScopedKey {
    let key = shop.seen()[0].key.clone().unwrap();
    scoped(key)
}

fn scoped(key: IdempotencyKey) -> ScopedKey {
    let scope = Scope::global().operation(PAY.name()).unwrap();
    ScopedKey::new(scope, key)
}

/// Nothing is left of it, so that nobody can say whether it happened.
async fn becomes_stale(store: &dyn Store, key: &ScopedKey) {
    for _ in 0..100 {
        if store.peek(key.clone()).await.unwrap() == KeyState::Stale {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("the answer is still kept after five seconds");
}

async fn what_its_caller_has_is_forgotten_after_a_pause(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store.clone()).await;
    let client = ClientOptions::default().in_sessions(serving.local_addr());
    client.call(&PAY, &payment(1, Wish::Pay)).await.unwrap();
    client
        .call(&PAY, &payment(2, Wish::Decline))
        .await
        .unwrap_err();
    let places: Vec<_> = shop.seen().iter().map(|seen| seen.session).collect();
    let Some(first @ SessionCall { session, .. }) = places[0] else {
        panic!("the first call is in a session");
    };
    assert_eq!((first.sequence, first.first_unanswered), (1, 1));
    let second = SessionCall {
        session,
        sequence: 2,
        first_unanswered: 2,
    };
    assert_eq!(places[1], Some(second));
    // The second call acknowledged the first one, and a message does the second.
    let keys: Vec<_> = shop
        .seen()
        .into_iter()
        .filter_map(|seen| seen.key)
        .collect();
    for key in keys {
        becomes_stale(&*store, &scoped(key)).await;
    }
    assert_eq!(shop.runs(), 2);
}

async fn a_call_under_a_key_of_the_callers_own_is_remembered(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store.clone()).await;
    let client = ClientOptions::default().in_sessions(serving.local_addr());
    let pay = payment(1, Wish::Pay);
    let first = client.call_as(key("order-1"), &PAY, &pay).await.unwrap();
    for _ in 0..3 {
        client.call(&PAY, &payment(2, Wish::Pay)).await.unwrap();
    }
    let again = client.call_as(key("order-1"), &PAY, &pay).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(shop.paid(1), 1);
    assert_eq!(shop.seen()[0].session, None);
}

async fn a_call_that_lost_its_answer_is_remembered_for_its_ticket(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store.clone()).await;
    let answers = handshake(&serving).await.0 + 1;
    let lost = Rule::new(Direction::ToClient, Fault::Reset).after_bytes(answers);
    let proxy = network(&serving, Plan::none().rule(lost.nth(1))).await;
    let client = ClientOptions::attempts(1).in_sessions(proxy.addr());
    let pay = payment(1, Wish::Pay);
    let failed = client.call(&PAY, &pay).await.unwrap_err();
    let CallFailure::OutcomeUnknown(failed) = failed else {
        panic!("{failed:?}");
    };
    for operation in 2..10 {
        client
            .call(&PAY, &payment(operation, Wish::Pay))
            .await
            .unwrap();
    }
    let known = client.peek(failed.ticket.clone(), &PAY).await.unwrap();
    assert!(matches!(known, Known::Completed(Ok(_))), "{known:?}");
    let paid = client.resume(failed.ticket, &PAY, &pay).await.unwrap();
    assert_eq!(shop.payments()[0], (pay, paid));
    assert_eq!(shop.paid(1), 1);
}

async fn many_calls_through_a_network_that_cuts_are_paid_once_each(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store.clone()).await;
    let cut = |direction| {
        Rule::new(direction, Fault::Reset)
            .after_bytes(2_000)
            .first(20)
    };
    let plan = Plan::none()
        .rule(cut(Direction::ToClient))
        .rule(cut(Direction::ToServer));
    let proxy = network(&serving, plan).await;
    let mut options = ClientOptions::attempts(30);
    options.channel.session_window = 16;
    let client = options.in_sessions(proxy.addr());
    let callers: Vec<_> = (0..8_u64)
        .map(|caller| {
            let client = client.clone();
            tokio::spawn(async move {
                for number in 0..100 {
                    let operation = caller * 1_000 + number;
                    let paid = client.call(&PAY, &payment(operation, Wish::Pay)).await;
                    paid.unwrap_or_else(|failure| panic!("{operation}: {failure:?}"));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(proxy.stats().connections > 10, "{:?}", proxy.stats());
    for caller in 0..8 {
        for number in 0..100 {
            assert_eq!(shop.paid(caller * 1_000 + number), 1);
        }
    }
    let seen = shop.seen();
    let first = seen[0].session.unwrap().session;
    let mut again = 0;
    for seen in &seen {
        let place = seen.session.expect("every attempt is in the session");
        assert_eq!(place.session, first, "it is resumed");
        assert!(place.sequence - place.first_unanswered < 16, "{place:?}");
        again += usize::from(seen.attempt > 1);
    }
    assert!(again > 0, "some call was sent again");
}

async fn a_full_window_holds_back_its_client_and_nobody_forgets(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store.clone()).await;
    let mut channel = ChannelOptions::default();
    channel.session_window = 3;
    channel.session_wait = Duration::from_millis(300);
    let options = ClientOptions {
        channel,
        ..ClientOptions::default()
    };
    let client = options.in_sessions(serving.local_addr());
    let slow = {
        let client = client.clone();
        tokio::spawn(async move { client.call(&PAY, &payment(1, Wish::Hold)).await })
    };
    shop.until_runs(1).await;
    for operation in [2, 3] {
        client
            .call(&PAY, &payment(operation, Wish::Pay))
            .await
            .unwrap();
    }
    // Two are behind the slow one: the next waits, and says that it was not executed.
    let failed = client.call(&PAY, &payment(4, Wish::Pay)).await.unwrap_err();
    let CallFailure::NotExecuted(failed) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(failed.attempts, 0);
    assert_eq!(shop.paid(4), 0);
    assert!(!failed.ticket.maybe_executed);
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.call(&PAY, &payment(5, Wish::Pay)).await })
    };
    sleep(Duration::from_millis(50)).await;
    assert_eq!(shop.paid(5), 0, "it waits");
    shop.open_gate();
    slow.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!((shop.paid(1), shop.paid(5)), (1, 1));
}

async fn a_client_resumes_its_session_after_a_reconnect(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store.clone()).await;
    let proxy = network(&serving, Plan::none()).await;
    let client = ClientOptions::attempts(10).in_sessions(proxy.addr());
    for operation in 1..=4 {
        client
            .call(&PAY, &payment(operation, Wish::Pay))
            .await
            .unwrap();
        proxy.cut();
    }
    let seen = shop.seen();
    let first = seen[0].session.unwrap();
    for (seen, sequence) in seen.iter().zip(1..) {
        let place = SessionCall {
            session: first.session,
            sequence,
            first_unanswered: sequence,
        };
        assert_eq!(seen.session, Some(place));
    }
    assert_eq!(proxy.stats().connections, 4);
}

/// E13: a client whose session has expired goes on, in another, and pays once.
#[tokio::test]
async fn a_client_outlives_its_session() {
    let clock = Arc::new(ManualClock::default());
    let options = MemoryOptions::new().clock(clock.clone());
    let store = Arc::new(MemoryStore::with_options(options));
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let client = ClientOptions::default().in_sessions(serving.local_addr());
    client.call(&PAY, &payment(1, Wish::Pay)).await.unwrap();
    clock.advance(Duration::from_secs(2 * 60 * 60));
    client.call(&PAY, &payment(2, Wish::Pay)).await.unwrap();
    client.call(&PAY, &payment(3, Wish::Pay)).await.unwrap();
    for operation in 1..=3 {
        assert_eq!(shop.paid(operation), 1);
    }
    let sessions: Vec<_> = shop
        .seen()
        .iter()
        .map(|seen| seen.session.map(|place| place.session))
        .collect();
    // The second call learns it, and is made again without a session.
    let (first, last) = (sessions[0], sessions[3]);
    assert_eq!(sessions, [first, first, None, last]);
    assert!(last > first, "{sessions:?}");
}

/// A server that has no sessions is called as before; so is one whose store has none left.
#[tokio::test]
async fn a_server_without_sessions_is_called_as_by_any_client() {
    let shop = Shop::new();
    let limits = StoreLimits::default().sessions_max(1);
    let store = MemoryStore::with_options(MemoryOptions::new().limits(limits));
    let serving = shop.serve(Arc::new(store.clone())).await;
    let lucky = ClientOptions::default().in_sessions(serving.local_addr());
    lucky.call(&PAY, &payment(1, Wish::Pay)).await.unwrap();
    let client = ClientOptions::default().in_sessions(serving.local_addr());
    for operation in 2..=4 {
        client
            .call(&PAY, &payment(operation, Wish::Pay))
            .await
            .unwrap();
    }
    for seen in &shop.seen()[1..] {
        assert_eq!(seen.session, None);
        let key = scoped(seen.key.clone().unwrap());
        let state = store.peek(key).await.unwrap();
        assert!(matches!(state, KeyState::Completed(_)), "{state:?}");
    }
    let bare = shop.serve_unprotected().await;
    let client = ClientOptions::default().in_sessions(bare.local_addr());
    client.call(&PAY, &payment(9, Wish::Pay)).await.unwrap();
    assert_eq!(shop.paid(9), 1);
}

/// Two principals never share a session, also where one says the other's number.
#[tokio::test]
async fn two_principals_have_sessions_of_their_own() {
    let shop = Shop::new();
    let builder = Server::builder().authenticate(|credential| {
        let name = std::str::from_utf8(credential).ok()?;
        Scope::principal(name).ok()
    });
    let store = Arc::new(MemoryStore::new());
    let options = DedupeOptions::default();
    let serving = shop.serve_with(builder, store, options).await;
    let client = |name: &'static str| -> Client {
        let mut options = ClientOptions::default();
        options.channel.credential = Credential::new(name).unwrap();
        options.in_sessions(serving.local_addr())
    };
    let (alice, bob) = (client("alice"), client("bob"));
    for operation in 1..=3 {
        alice
            .call(&PAY, &payment(operation, Wish::Pay))
            .await
            .unwrap();
        bob.call(&PAY, &payment(operation, Wish::Pay))
            .await
            .unwrap();
    }
    let sessions: Vec<_> = shop
        .seen()
        .iter()
        .map(|seen| seen.session.unwrap().session)
        .collect();
    assert_eq!(sessions, [1, 2, 1, 2, 1, 2]);
    assert_eq!(shop.paid(1), 2);
}

/// A restart of the server keeps the session: what was acknowledged stays stale, and the client goes
/// on.
#[tokio::test]
async fn a_session_outlives_its_server() {
    let folder = Folder::new();
    let shop = Shop::new();
    let first = {
        let store = folder.open().await;
        let serving = shop.serve(store.clone()).await;
        let client = ClientOptions::default().in_sessions(serving.local_addr());
        for operation in 1..=5 {
            client
                .call(&PAY, &payment(operation, Wish::Pay))
                .await
                .unwrap();
        }
        drop(serving);
        store.close().await.unwrap();
        first_key(&shop)
    };
    let store = folder.open().await;
    assert_eq!(store.peek(first).await.unwrap(), KeyState::Stale);
    let place = shop.seen()[4].session.unwrap();
    let resumed = SessionRequest::Resume {
        session: place.session,
    };
    let state = store.session(Scope::global(), resumed).await.unwrap();
    let live = SessionState::Live {
        session: place.session,
        first_unanswered: 5,
    };
    assert_eq!(state, live);
}
