//! Routes of axum.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use onlyonce::http::DedupeLayer;
use onlyonce::http::axum::{Transaction, Undone};
use onlyonce::storage::Scope;
use onlyonce::storage::postgres::PostgresStore;
use tokio::net::TcpListener;

use crate::Bank;

/// Takes from alice's account, and ends as the body says.
async fn withdraw(
    State(bank): State<Arc<Bank>>,
    Transaction(calls): Transaction,
    cents: String,
) -> Result<Response, Undone> {
    let cents: i64 = cents.parse().unwrap_or(0);
    let take = bank.sql(
        "UPDATE {schema}.accounts SET cents = cents - $1
        WHERE name = 'alice' AND cents >= $1 RETURNING cents",
    );
    let left = calls.sql()?.query_opt(&take, &[&cents]).await?;
    Ok(match left {
        _ if cents == 13 => StatusCode::BAD_GATEWAY.into_response(),
        Some(row) => row.get::<_, i64>("cents").to_string().into_response(),
        None => (StatusCode::CONFLICT, "not enough").into_response(),
    })
}

/// The address of a server.
async fn serve(bank: &Arc<Bank>, store: Arc<PostgresStore>) -> String {
    let layer = DedupeLayer::new(store, Scope::global()).transactional();
    let routes = Router::new()
        .route("/withdrawals", post(withdraw).layer(layer))
        .with_state(Arc::clone(bank));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}/withdrawals")
}

async fn asked(address: &str, key: &str, body: &str) -> (u16, String, String) {
    let response = reqwest::Client::new()
        .post(address)
        .header("idempotency-key", format!("\"{key}\""))
        .body(body.to_owned())
        .send()
        .await
        .unwrap();
    let status = response.headers().get("idempotency-status").cloned();
    let status = status.map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    (
        response.status().as_u16(),
        status,
        response.text().await.unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn effect_and_answer_of_a_route_are_one_commit_and_any_server_replays_it() {
    let Some(bank) = Bank::open().await else {
        return;
    };
    let here = serve(&bank, bank.store().await).await;
    let there = serve(&bank, bank.store().await).await;
    let executed = asked(&here, "a", "30").await;
    assert_eq!(executed, (200, "executed".to_owned(), "70".to_owned()));
    let replayed = asked(&there, "a", "30").await;
    assert_eq!(replayed, (200, "replayed".to_owned(), "70".to_owned()));
    // A refusal for good is recorded.
    let refused = asked(&there, "b", "500").await;
    assert_eq!((refused.0, &*refused.1), (409, "executed"));
    assert_eq!(asked(&here, "b", "500").await.1, "replayed");
    // What is no answer for good has no effect, and leaves no doubt.
    let broken = asked(&here, "c", "13").await;
    assert_eq!((broken.0, &*broken.1), (502, "not-executed"));
    assert_eq!(bank.cents("alice").await, 70);
    let records = "SELECT count(*) FROM {schema}.records";
    assert_eq!(bank.number(records).await, 2);
}
