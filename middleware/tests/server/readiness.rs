//! A handler that has no room: what needs none is answered all the same, and what nobody waits for
//! is given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce_middleware::server::{Dedupe, DedupeLayer, Refusal, Served};
use onlyonce_storage::{
    IdempotencyKey, KeyState, MemoryStore, Scope, ScopedKey, SessionRequest, SessionState, Store,
};
use tokio::sync::Notify;
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt};

use crate::protocol::{Ask, Effects, Handler, NoAnswer, Plain, Told, done, send};
use crate::watched::Watched;

/// Has room when the test says so.
#[derive(Clone)]
struct Gate {
    open: Arc<AtomicBool>,
    handler: Handler,
}

impl Service<Ask> for Gate {
    type Response = Told;
    type Error = NoAnswer;
    type Future = <Handler as Service<Ask>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoAnswer>> {
        if self.open.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        self.handler.call(ask)
    }
}

fn gate(effects: &Effects) -> (Gate, Arc<AtomicBool>) {
    let open = Arc::new(AtomicBool::new(true));
    let handler = Handler::applying(effects);
    let gate = Gate {
        open: Arc::clone(&open),
        handler,
    };
    (gate, open)
}

async fn ask<S>(server: &Dedupe<S, Plain>, ask: Ask) -> Told
where
    S: Service<Ask, Response = Told, Error = NoAnswer> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    server.clone().oneshot(ask).await.unwrap()
}

#[tokio::test]
async fn a_completed_call_is_replayed_though_the_handler_has_no_room() {
    let effects = Effects::default();
    let (gate, open) = gate(&effects);
    let server = DedupeLayer::new(Arc::new(MemoryStore::default()), Plain).layer(gate);
    ask(&server, Ask::new("k", "pay")).await;
    open.store(false, Ordering::SeqCst);
    let told = ask(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("pay #1".to_owned(), Served::Replayed));
    let told = ask(&server, Ask::new("k", "pay more")).await;
    assert_eq!(told, Told::Refused(Refusal::Mismatch));
    assert_eq!(effects.total(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_called_off_before_the_handler_has_room_claims_nothing_and_leaves_no_flight()
{
    let effects = Effects::default();
    let (gate, open) = gate(&effects);
    let store = Watched::new(Arc::new(MemoryStore::default()));
    let server = DedupeLayer::new(store.clone(), Plain).layer(gate);
    open.store(false, Ordering::SeqCst);
    for _ in 0..2 {
        let told = ask(&server, Ask::new("k", "pay").within(Duration::from_secs(1))).await;
        assert_eq!(
            told,
            Told::Refused(Refusal::DeadlinePassed { executing: false })
        );
        server.executions().idle().await;
    }
    // A caller without a deadline who goes away.
    let waiting = ask(&server, Ask::new("k", "pay"));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), waiting)
            .await
            .is_err()
    );
    server.executions().idle().await;
    assert_eq!(store.claims.load(Ordering::SeqCst), 0);

    open.store(true, Ordering::SeqCst);
    let told = ask(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("pay #1".to_owned(), Served::Executed));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_another_process_executes_holds_no_room_in_this_ones_handler() {
    let effects = Effects::default();
    let store: Arc<MemoryStore> = Arc::default();
    let held = Arc::new(Notify::new());
    let elsewhere = {
        let held = Arc::clone(&held);
        Handler::new(move |_| {
            let held = Arc::clone(&held);
            async move {
                held.notified().await;
                Ok(done("elsewhere"))
            }
        })
    }
    .over(store.clone());
    let one_at_a_time = ConcurrencyLimit::new(Handler::applying(&effects), 1);
    let here = DedupeLayer::new(store.clone() as Arc<dyn Store>, Plain).layer(one_at_a_time);

    let first = tokio::spawn(async move { send(&elsewhere, Ask::new("k", "pay")).await });
    let scope = Scope::principal("tenant").unwrap();
    let key = ScopedKey::new(scope, IdempotencyKey::parse("k").unwrap());
    while store.peek(key.clone()).await.unwrap() == KeyState::Absent {
        tokio::task::yield_now().await;
    }
    let duplicate = tokio::spawn({
        let here = here.clone();
        async move { ask(&here, Ask::new("k", "pay")).await }
    });
    while here.executions().count() == 0 {
        tokio::task::yield_now().await;
    }
    let other = Ask::new("l", "other").within(Duration::from_secs(1));
    assert_eq!(
        ask(&here, other).await,
        Told::Done("other #1".to_owned(), Served::Executed)
    );
    held.notify_one();
    assert_eq!(
        duplicate.await.unwrap(),
        Told::Done("elsewhere".to_owned(), Served::Replayed)
    );
    first.await.unwrap();
    assert_eq!(effects.of("pay"), 0);
}

// E7: of a call that says nothing about when it was first sent, a store may not be able to tell
// whether it was acknowledged or never made. The claim tells, and needs room.
#[tokio::test]
async fn a_call_that_may_have_been_acknowledged_waits_for_room_and_claims_once() {
    let effects = Effects::default();
    let (gate, open) = gate(&effects);
    let memory = Arc::new(MemoryStore::default());
    let scope = Scope::principal("tenant").unwrap();
    let opened = memory.session(scope.clone(), SessionRequest::Open).await;
    let SessionState::Live { session, .. } = opened.unwrap() else {
        panic!("it has few sessions");
    };
    let acknowledged = SessionRequest::Acknowledge {
        session,
        first_unanswered: 5,
    };
    memory.session(scope, acknowledged).await.unwrap();
    let store = Watched::new(memory);
    store.dawdle.store(true, Ordering::SeqCst);
    let server = DedupeLayer::new(store.clone(), Plain).layer(gate);
    open.store(false, Ordering::SeqCst);
    let first = {
        let server = server.clone();
        tokio::spawn(async move { ask(&server, Ask::new("k", "pay")).await })
    };
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.claims.load(Ordering::SeqCst), 0);
    first.abort();
    let _ = first.await;
    open.store(true, Ordering::SeqCst);
    let told = ask(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("pay #1".to_owned(), Served::Executed));
    assert_eq!(store.claims.load(Ordering::SeqCst), 1);
}
