//! What is refused before anything is executed, and in which words.

use std::sync::Arc;
use std::time::Duration;

use onlyonce_middleware::http::{DedupeLayer, ServingStore};
use onlyonce_middleware::server::{DedupeOptions, Wait};
use onlyonce_storage::{
    Answer, Claim, ClaimOutcome, ClaimRequest, DoubtReason, KeyState, MemoryStore, Question, Scope,
    ScopedKey, SettleError, Store, StoreError, StoreFuture, StoreId, Timestamp,
};
use tokio::sync::Notify;

use crate::client::{Raw, post, request};
use crate::kit::{Ledger, counting, layer, memory, paying, serve};

#[tokio::test]
async fn a_post_or_patch_without_a_key_is_refused_and_other_methods_pass() {
    let (server, ledger) = paying(layer()).await;
    for method in ["POST", "PATCH"] {
        let refused = request(method, "/pay", "").send(server).await;
        assert_eq!((refused.code, refused.said()), (400, "not-executed"));
        assert_eq!(refused.problem(), "key-missing");
        assert_eq!(
            refused.header("content-type"),
            Some("application/problem+json")
        );
    }
    assert_eq!(ledger.effects(), 0);
    for method in ["PUT", "DELETE", "GET"] {
        let passed = request(method, "/pay", "").send(server).await;
        assert_eq!((passed.code, passed.said()), (200, "unprotected"));
    }
    assert_eq!(ledger.effects(), 3);
    // With a key, an unsafe method is protected; a safe one has no use for it.
    for said in ["executed", "replayed"] {
        assert_eq!(
            request("PUT", "/pay", "")
                .key("k")
                .send(server)
                .await
                .said(),
            said
        );
    }
    for _ in 0..2 {
        let passed = request("GET", "/pay", "").key("k").send(server).await;
        assert_eq!(passed.said(), "unprotected");
    }
    assert_eq!(ledger.effects(), 6);
}

#[tokio::test]
async fn where_the_key_is_optional_a_post_without_passes_and_says_so() {
    let (server, ledger) = paying(layer().key_optional()).await;
    for _ in 0..2 {
        assert_eq!(post("/pay", "").send(server).await.said(), "unprotected");
    }
    for said in ["executed", "replayed"] {
        assert_eq!(post("/pay", "").key("k").send(server).await.said(), said);
    }
    assert_eq!(ledger.effects(), 3);
}

// J1
#[tokio::test]
async fn a_key_on_a_batch_is_rejected_and_nothing_is_executed() {
    let (server, ledger) = paying(layer().batch()).await;
    let refused = post("/pay", "[1,2]").json().key("k").send(server).await;
    assert_eq!((refused.code, refused.said()), (400, "not-executed"));
    assert_eq!(refused.problem(), "unreadable");
    assert_eq!(ledger.effects(), 0);
    assert_eq!(
        post("/pay", "[1,2]").json().send(server).await.said(),
        "unprotected"
    );
    assert_eq!(ledger.effects(), 1);
    // A client that is told of a store here would retry what nobody dedupes.
    for request in [
        request("OPTIONS", "/pay", ""),
        post("/pay", "[]"),
        post("/pay", "[]").key("k"),
    ] {
        assert_eq!(request.send(server).await.header("idempotency-store"), None);
    }
}

#[tokio::test]
async fn words_that_cannot_be_read_are_refused_by_name_and_never_ignored() {
    let (server, ledger) = paying(layer()).await;
    for (name, value) in [
        ("idempotency-attempt", "0"),
        ("idempotency-deadline-ms", "soon"),
        ("idempotency-first-sent", "-1"),
        ("idempotency-session", "1"),
        ("idempotency-store", "mine"),
    ] {
        let refused = post("/pay", "")
            .key("k")
            .header(name, value)
            .send(server)
            .await;
        assert_eq!(
            (refused.code, refused.said()),
            (400, "not-executed"),
            "{name}"
        );
        assert!(refused.text().contains(name), "{}", refused.text());
    }
    assert_eq!(ledger.effects(), 0);
}

#[tokio::test]
async fn what_the_store_cannot_take_is_refused_with_its_own_status() {
    let store = memory();
    let (server, ledger) = paying(DedupeLayer::new(Arc::clone(&store), Scope::global())).await;
    let now = store.now().as_millis();
    let other = format!("\"{}\"", StoreId::from_bytes([9; 16]));
    let pay = || post("/pay", "").key("k");
    let ahead = (now + 3_600_000).to_string();
    for (request, code, said, problem) in [
        (
            pay().header("idempotency-deadline-ms", "0"),
            504,
            "not-executed",
            "deadline-passed",
        ),
        (
            pay().header("idempotency-store", &other),
            421,
            "not-executed",
            "misdirected",
        ),
        (
            pay().header("idempotency-first-sent", "1"),
            412,
            "stale",
            "stale",
        ),
        (
            pay().header("idempotency-first-sent", &ahead),
            400,
            "not-executed",
            "first-sent-ahead",
        ),
        (
            pay().header("idempotency-session", "5, 1, 1"),
            412,
            "not-executed",
            "unknown-session",
        ),
    ] {
        let refused = request.send(server).await;
        assert_eq!((refused.code, refused.said()), (code, said), "{request:?}");
        assert_eq!(refused.problem(), problem);
    }
    assert_eq!(ledger.effects(), 0);
    // Said rightly, they are taken.
    let here = format!("\"{}\"; now={now}", store.id());
    let first = pay()
        .header("idempotency-store", &here)
        .header("idempotency-first-sent", &now.to_string())
        .header("idempotency-deadline-ms", "18446744073709551615")
        .send(server)
        .await;
    assert_eq!(first.said(), "executed");
}

#[tokio::test]
async fn every_answer_names_the_store_and_its_time() {
    let store = memory();
    let (server, _) = paying(DedupeLayer::new(Arc::clone(&store), Scope::global())).await;
    let before = store.now();
    for request in [
        post("/pay", "").key("k"),
        post("/pay", "").key("k"),
        post("/pay", "other").key("k"),
        post("/pay", ""),
        request("GET", "/pay", ""),
        // There is no handler for it: 405, and it signals all the same.
        request("OPTIONS", "/pay", ""),
    ] {
        let reply = request.send(server).await;
        let mut headers = http::HeaderMap::new();
        let said = reply.header("idempotency-store").unwrap();
        headers.insert("idempotency-store", said.parse().unwrap());
        let said = ServingStore::of(&headers).unwrap();
        assert_eq!(said.id, store.id());
        assert!(said.now.unwrap() >= before && said.now.unwrap() <= store.now());
    }
    let options = request("OPTIONS", "/pay", "").send(server).await;
    assert_eq!((options.code, options.said()), (405, "unprotected"));
}

// A3
#[tokio::test]
async fn a_duplicate_of_a_call_in_progress_is_told_to_ask_again_and_then_gets_the_answer() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, goes_on) = (Arc::clone(&begun), Arc::clone(&go_on));
    let handler = async move || {
        begins.notify_one();
        goes_on.notified().await;
        "paid"
    };
    let mut options = DedupeOptions::default();
    options.wait = Wait::No;
    let layer = DedupeLayer::with_options(memory(), Scope::global(), options);
    let route = axum::routing::post(handler).layer(layer);
    let server = serve(axum::Router::new().route("/pay", route)).await;
    let pay = || post("/pay", "").key("k");
    let owner = tokio::spawn(async move { pay().send(server).await });
    begun.notified().await;

    let early = pay().send(server).await;
    assert_eq!((early.code, early.said()), (409, "in-progress"));
    assert_eq!(early.problem(), "in-progress");
    assert_eq!(early.header("retry-after"), Some("1"));
    let millis: u64 = early.header("retry-after-ms").unwrap().parse().unwrap();
    assert!(millis <= 1_000);
    // The deadline of a caller may pass while the handler runs.
    let late = pay()
        .header("idempotency-deadline-ms", "1")
        .send(server)
        .await;
    assert_eq!(late.said(), "in-progress");

    go_on.notify_one();
    assert_eq!(owner.await.unwrap().said(), "executed");
    assert_eq!(pay().send(server).await.said(), "replayed");
}

#[tokio::test]
async fn the_servers_own_deadline_holds_for_calls_that_say_none() {
    let handler = || std::future::pending::<String>();
    let layer = layer().deadline_max(Duration::from_millis(100));
    let route = axum::routing::post(handler).layer(layer);
    let server = serve(axum::Router::new().route("/pay", route)).await;
    for request in [
        post("/pay", "").key("k"),
        post("/pay", "")
            .key("l")
            .header("idempotency-deadline-ms", "60000"),
    ] {
        let late = request.send(server).await;
        assert_eq!((late.code, late.said()), (504, "in-progress"));
    }
}

/// A store of which nothing can be had.
#[derive(Debug)]
struct Down(MemoryStore);

impl Down {
    fn fails<T: Send + 'static, E: From<StoreError> + Send + 'static>() -> StoreFuture<'static, T, E>
    {
        Box::pin(async {
            Err(E::from(StoreError::Unavailable {
                reason: "no route".to_owned(),
                retry_after: Duration::from_millis(2_500),
            }))
        })
    }
}

impl Store for Down {
    fn id(&self) -> StoreId {
        self.0.id()
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn claim(&self, _: ClaimRequest) -> StoreFuture<'_, ClaimOutcome> {
        Self::fails()
    }

    fn renew<'a>(&'a self, _: &'a mut Claim, _: Duration) -> StoreFuture<'a, (), SettleError> {
        Self::fails()
    }

    fn complete(&self, _: Claim, _: Answer) -> StoreFuture<'_, (), SettleError> {
        Self::fails()
    }

    fn release(&self, _: Claim) -> StoreFuture<'_, (), SettleError> {
        Self::fails()
    }

    fn doubt(
        &self,
        _: Claim,
        _: DoubtReason,
        _: Option<Answer>,
    ) -> StoreFuture<'_, (), SettleError> {
        Self::fails()
    }

    fn ask(&self, _: Question, _: ScopedKey, _: Option<Timestamp>) -> StoreFuture<'_, KeyState> {
        Self::fails()
    }
}

// G1
#[tokio::test]
async fn a_store_that_is_down_is_503_with_advice_and_the_handler_does_not_run() {
    let ledger = Ledger::default();
    let layer = DedupeLayer::new(Arc::new(Down(MemoryStore::new())), Scope::global());
    let router = axum::Router::new().route("/pay", counting(&ledger).layer(layer));
    let server = serve(router).await;
    let refused = post("/pay", "").key("k").send(server).await;
    assert_eq!((refused.code, refused.said()), (503, "not-executed"));
    assert_eq!(refused.problem(), "unavailable");
    assert_eq!(refused.header("retry-after"), Some("3"));
    assert_eq!(refused.header("retry-after-ms"), Some("2500"));
    assert_eq!(ledger.effects(), 0);
}

#[tokio::test]
async fn problems_name_neither_key_nor_content() {
    let (server, _) = paying(layer().body_bytes_max(40)).await;
    post("/pay", "secret-body")
        .key("secret-key")
        .send(server)
        .await;
    let requests: [Raw; 4] = [
        post("/pay", "secret-other").key("secret-key"),
        post("/pay", "secret-body").key("secret key"),
        post("/pay", "secret-body".repeat(10)).key("secret-key"),
        post("/pay", "secret-body")
            .key("secret-key")
            .header("idempotency-attempt", "secret"),
    ];
    for request in requests {
        let refused = request.send(server).await;
        assert!(refused.code >= 400);
        assert!(!refused.text().contains("secret"), "{}", refused.text());
    }
}
