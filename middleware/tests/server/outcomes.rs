//! Which results are recorded, which free the key, and what happens when the store fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use onlyonce_middleware::server::{DedupeLayer, Refusal, Served};
use onlyonce_storage::MemoryStore;
use parking_lot::Mutex;
use tower::{Layer, Service, ServiceExt};

use crate::protocol::{Ask, Effects, Handler, NoAnswer, Plain, Told, done, send};
use crate::watched::Watched;

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::default())
}

/// A handler that plays these results one after the other.
fn playing(results: Vec<Result<Told, NoAnswer>>) -> (Handler, Arc<Mutex<usize>>) {
    let played = Arc::new(Mutex::new(0));
    let results = Arc::new(Mutex::new(results.into_iter()));
    let handler = {
        let played = Arc::clone(&played);
        Handler::new(move |_| {
            *played.lock() += 1;
            let result = results.lock().next();
            async move { result.expect("the handler was called once too often") }
        })
    };
    (handler, played)
}

// D1, D3
#[tokio::test]
async fn a_refusal_before_the_effect_is_not_recorded_and_the_key_works_after_the_fix() {
    let (handler, played) = playing(vec![
        Ok(Told::TryLater(Served::Unprotected)),
        Ok(done("paid")),
    ]);
    let server = handler.over(memory());
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::TryLater(Served::NotExecuted));
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("paid".to_owned(), Served::Executed));
    assert_eq!(*played.lock(), 2);
}

// D1: another body may follow, since nothing was executed.
#[tokio::test]
async fn a_released_key_may_be_used_with_a_corrected_request() {
    let (handler, _) = playing(vec![
        Ok(Told::TryLater(Served::Unprotected)),
        Ok(done("paid")),
    ]);
    let server = handler.over(memory());
    send(&server, Ask::new("k", "pay wrong")).await;
    let told = send(&server, Ask::new("k", "pay right")).await;
    assert_eq!(told, Told::Done("paid".to_owned(), Served::Executed));
}

// D2
#[tokio::test]
async fn a_definitive_failure_is_recorded_and_replayed() {
    let (handler, played) = playing(vec![Ok(Told::Declined(
        "no funds".to_owned(),
        Served::Unprotected,
    ))]);
    let server = handler.over(memory());
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(
        told,
        Told::Declined("no funds".to_owned(), Served::Executed)
    );
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(
        told,
        Told::Declined("no funds".to_owned(), Served::Replayed)
    );
    assert_eq!(*played.lock(), 1);
}

// D4
#[tokio::test]
async fn a_failure_after_a_possible_effect_is_in_doubt_and_its_answer_is_kept() {
    let (handler, played) = playing(vec![
        Ok(Told::Broken("500".to_owned(), Served::Unprotected)),
        Err(NoAnswer),
    ]);
    let server = handler.over(memory());
    for _ in 0..3 {
        let told = send(&server, Ask::new("k", "pay")).await;
        assert_eq!(told, Told::Broken("500".to_owned(), Served::InDoubt));
    }
    assert_eq!(*played.lock(), 1);
    for _ in 0..3 {
        let told = send(&server, Ask::new("l", "pay")).await;
        assert!(
            matches!(told, Told::Refused(Refusal::InDoubt(_))),
            "{told:?}"
        );
    }
    assert_eq!(*played.lock(), 2);
}

// D5
#[tokio::test]
async fn an_inner_release_does_not_free_the_key_of_the_outer_call() {
    // The outer handler commits, then calls an inner service that executes nothing. Only the
    // inner call's owner may release, and only the inner call's key.
    let effects = Effects::default();
    let store = memory();
    let (inner, _) = playing(vec![
        Ok(Told::TryLater(Served::Unprotected)),
        Ok(Told::TryLater(Served::Unprotected)),
    ]);
    let inner = inner.over(store.clone());
    let outer = {
        let (effects, inner) = (effects.clone(), inner.clone());
        Handler::new(move |ask: Ask| {
            let (effects, inner) = (effects.clone(), inner.clone());
            async move {
                effects.apply(&ask.body);
                let told = send(&inner, Ask::new("k/inner", "notify")).await;
                assert_eq!(told, Told::TryLater(Served::NotExecuted));
                Ok(Told::Broken(
                    "inner aborted".to_owned(),
                    Served::Unprotected,
                ))
            }
        })
    }
    .over(store);
    send(&outer, Ask::new("k", "debit")).await;
    let retried = send(&outer, Ask::new("k", "debit")).await;
    assert_eq!(
        retried,
        Told::Broken("inner aborted".to_owned(), Served::InDoubt)
    );
    assert_eq!(effects.of("debit"), 1);
}

// D9
#[tokio::test]
async fn the_refusal_of_a_duplicate_is_never_recorded() {
    let effects = Effects::default();
    let store = Watched::new(memory());
    let server = Handler::applying(&effects).over(store.clone());
    send(&server, Ask::new("k", "pay")).await;
    let settled = store.settlements.load(Ordering::SeqCst);
    for _ in 0..3 {
        send(&server, Ask::new("k", "other")).await;
        send(&server, Ask::new("k", "pay").within(Duration::ZERO)).await;
    }
    assert_eq!(store.settlements.load(Ordering::SeqCst), settled);
    let told = send(&server, Ask::new("k", "pay")).await;
    assert_eq!(told, Told::Done("pay #1".to_owned(), Served::Replayed));
}

// G1
#[tokio::test]
async fn a_store_that_is_down_refuses_with_advice_and_the_handler_does_not_run() {
    let effects = Effects::default();
    let store = Watched::new(memory());
    let server = Handler::applying(&effects).over(store.clone());
    store.refuse_claims.store(true, Ordering::SeqCst);
    let told = send(&server, Ask::new("k", "pay")).await;
    let Told::Refused(Refusal::Unavailable {
        reason,
        retry_after,
    }) = told
    else {
        panic!("{told:?}");
    };
    assert!(reason.contains("connection refused"), "{reason}");
    assert_eq!(retry_after, Duration::from_secs(2));
    assert_eq!(effects.total(), 0);
    store.refuse_claims.store(false, Ordering::SeqCst);
    assert!(matches!(
        send(&server, Ask::new("k", "pay")).await,
        Told::Done(..)
    ));
}

/// Panics unless this very instance was ready.
struct Reserved {
    ready: bool,
    effects: Effects,
}

impl Clone for Reserved {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            effects: self.effects.clone(),
        }
    }
}

impl Service<Ask> for Reserved {
    type Response = Told;
    type Error = NoAnswer;
    type Future = std::future::Ready<Result<Told, NoAnswer>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoAnswer>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without having been ready"
        );
        self.effects.apply(&ask.body);
        std::future::ready(Ok(done(&ask.body)))
    }
}

// H9, P14
#[tokio::test]
async fn the_handler_that_is_called_is_the_instance_that_was_ready() {
    let effects = Effects::default();
    let reserved = Reserved {
        ready: false,
        effects: effects.clone(),
    };
    let server = DedupeLayer::new(memory(), Plain).layer(reserved);
    for n in 0..3 {
        let told = server
            .clone()
            .oneshot(Ask::new(&format!("k{n}"), "pay"))
            .await
            .unwrap();
        assert_eq!(told, Told::Done("pay".to_owned(), Served::Executed));
        let mut read = Ask::new("", "read");
        read.key = None;
        let told = server.clone().oneshot(read).await.unwrap();
        assert_eq!(told, Told::Done("read".to_owned(), Served::Unprotected));
    }
    assert_eq!(effects.of("pay"), 3);
}

/// Is never ready.
#[derive(Clone)]
struct Closed;

impl Service<Ask> for Closed {
    type Response = Told;
    type Error = NoAnswer;
    type Future = std::future::Ready<Result<Told, NoAnswer>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoAnswer>> {
        Poll::Ready(Err(NoAnswer))
    }

    fn call(&mut self, _: Ask) -> Self::Future {
        unreachable!("never ready")
    }
}

#[tokio::test]
async fn a_handler_that_is_never_ready_claims_nothing() {
    let store = Watched::new(memory());
    let server = DedupeLayer::new(store.clone(), Plain).layer(Closed);
    assert_eq!(
        server.clone().oneshot(Ask::new("k", "pay")).await,
        Err(NoAnswer)
    );
    assert_eq!(store.claims.load(Ordering::SeqCst), 0);
}
