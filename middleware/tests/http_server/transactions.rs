//! Handlers whose effects lie in the store.

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::post as route_post;
use http::StatusCode;
use onlyonce_middleware::http::axum::{Transaction, Undone};
use onlyonce_middleware::http::{DedupeLayer, Definitive};
use onlyonce_storage::transaction::{RowRange, Table};
use onlyonce_storage::{Scope, SledOptions, SledStore, Store};

use crate::client::post;
use crate::kit::{Ledger, memory, serve};

const ACCOUNTS: Table = Table::new("accounts");

async fn balance(store: &Arc<dyn Store>) -> u64 {
    let store = store.transactions().unwrap();
    let rows = store
        .read(RowRange::of_key(&ACCOUNTS, b"alice"))
        .await
        .unwrap();
    rows.first().map_or(0, |(_, value)| {
        u64::from_be_bytes(value[..].try_into().unwrap())
    })
}

/// Pays in one cent, and ends as it is told.
async fn pay(Transaction(accounts): Transaction, how: String) -> Result<Response, Undone> {
    let balance = accounts.get(&ACCOUNTS, b"alice").await?;
    let balance = balance.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().unwrap()));
    accounts.put(&ACCOUNTS, b"alice", &(balance + 1).to_be_bytes())?;
    Ok(match how.as_str() {
        "created" => (StatusCode::CREATED, format!("{}", balance + 1)).into_response(),
        "see-other" => (StatusCode::SEE_OTHER, [("location", "/1")]).into_response(),
        "refused" => (StatusCode::CONFLICT, "refused").into_response(),
        "unauthorized" => (StatusCode::UNAUTHORIZED, "who?").into_response(),
        "broken" => (StatusCode::BAD_GATEWAY, "broken").into_response(),
        "final" => (StatusCode::INTERNAL_SERVER_ERROR, Definitive, "final").into_response(),
        "large" => "x".repeat(2 << 20).into_response(),
        "too-much" => {
            accounts.put(&ACCOUNTS, b"alice", &[0; 100_000])?;
            "not reached".into_response()
        }
        _ => panic!("as it was told"),
    })
}

async fn on_both_stores(check: impl AsyncFn(Arc<dyn Store>)) {
    check(memory()).await;
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open_async(folder.path(), SledOptions::new()).await;
    check(Arc::new(store.unwrap())).await;
}

#[tokio::test]
async fn effect_and_answer_of_a_transaction_are_recorded_together_or_not_at_all() {
    on_both_stores(async |store| {
        let layer = DedupeLayer::new(Arc::clone(&store), Scope::global()).transactional();
        let router = Router::new().route("/pay", route_post(pay).layer(layer));
        let server = serve(router).await;
        let mut applied = 0;
        for (how, code, first, again, effect) in [
            ("created", 201, "executed", "replayed", 1),
            ("see-other", 303, "executed", "replayed", 1),
            // An answer for good, with no effect.
            ("refused", 409, "executed", "replayed", 0),
            ("final", 500, "executed", "replayed", 0),
            // Nothing for good: rolled back, and free.
            ("unauthorized", 401, "not-executed", "not-executed", 0),
            ("broken", 502, "not-executed", "not-executed", 0),
            ("too-much", 503, "not-executed", "not-executed", 0),
            ("large", 503, "not-executed", "not-executed", 0),
            ("panic", 503, "not-executed", "not-executed", 0),
        ] {
            for said in [first, again] {
                let reply = post("/pay", how).key(how).send(server).await;
                assert_eq!((how, reply.code, reply.said()), (how, code, said));
            }
            applied += effect;
            assert_eq!(balance(&store).await, applied, "{how}");
        }
    })
    .await;
}

#[tokio::test]
async fn concurrent_transactions_lose_no_update_and_duplicates_apply_nothing() {
    on_both_stores(async |store| {
        let layer = DedupeLayer::new(Arc::clone(&store), Scope::global()).transactional();
        let router = Router::new().route("/pay", route_post(pay).layer(layer));
        let server = serve(router).await;
        let calls = (0..8).flat_map(|call| [call, call]).map(|call| {
            tokio::spawn(async move {
                let request = post("/pay", "created").key(&format!("k{call}"));
                loop {
                    let reply = request.send(server).await;
                    // Eight in a row that lost: the client comes again.
                    if reply.code == 201 {
                        return reply.body;
                    }
                    assert_eq!((reply.code, reply.said()), (503, "not-executed"));
                }
            })
        });
        let mut bodies = futures_util::future::join_all(calls).await;
        bodies.sort_by_key(|body| body.as_ref().unwrap().clone());
        let bodies: Vec<_> = bodies.into_iter().map(Result::unwrap).collect();
        // Two callers each have one answer, and all answers differ.
        let expected: Vec<_> = (1..=8)
            .flat_map(|n| [n, n])
            .map(|n| format!("{n}").into_bytes())
            .collect();
        assert_eq!(bodies, expected);
        assert_eq!(balance(&store).await, 8);
    })
    .await;
}

#[tokio::test]
async fn a_route_that_is_not_transactional_says_so_before_the_effect() {
    let ledger = Ledger::default();
    let counted = ledger.clone();
    let handler = async move |_: Transaction| {
        counted.apply();
        "paid"
    };
    let layer = DedupeLayer::new(memory(), Scope::global());
    let server = serve(Router::new().route("/pay", route_post(handler).layer(layer))).await;
    for _ in 0..2 {
        let reply = post("/pay", "").key("k").send(server).await;
        // The key is not in doubt for it.
        assert_eq!((reply.code, reply.said()), (500, "not-executed"));
    }
    assert_eq!(ledger.effects(), 0);
}

/// Answers a refusal, and leaves somebody behind who goes on writing.
async fn refuse_and_leave_a_writer(Transaction(accounts): Transaction) -> StatusCode {
    let (begun, begins) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let mut begun = Some(begun);
        while accounts
            .put(&ACCOUNTS, b"alice", &1_u64.to_be_bytes())
            .is_ok()
        {
            begun.take().map(|begun| begun.send(()));
        }
    });
    begins.await.unwrap();
    StatusCode::CONFLICT
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_still_writes_when_the_handler_has_refused_changes_nothing() {
    let store = memory();
    let layer = DedupeLayer::new(Arc::clone(&store), Scope::global()).transactional();
    let handler = route_post(refuse_and_leave_a_writer).layer(layer);
    let server = serve(Router::new().route("/pay", handler)).await;
    for number in 0..300 {
        let refused = post("/pay", "").key(&format!("refused-{number}"));
        let reply = refused.send(server).await;
        assert_eq!((reply.code, reply.said()), (409, "executed"));
        assert_eq!(balance(&store).await, 0, "call {number}");
    }
}
