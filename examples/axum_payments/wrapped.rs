//! Payments behind onlyonce: a request that is sent twice with one key pays once.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use onlyonce::http::DedupeLayer;
use onlyonce::storage::{Scope, SledOptions, SledStore};

use super::books::{Books, Payment, Receipt};

pub async fn router(folder: &Path) -> Result<Router, Box<dyn Error>> {
    let books = Books::open(&folder.join("books.txt"))?;
    let store = SledStore::open_async(folder.join("payments"), SledOptions::new()).await?;
    Ok(Router::new()
        .route("/payments", post(pay))
        .route("/payments/count", get(count))
        .layer(DedupeLayer::new(Arc::new(store), Scope::global()))
        .with_state(books))
}

async fn pay(
    State(books): State<Books>,
    Json(payment): Json<Payment>,
) -> Result<(StatusCode, Json<Receipt>), StatusCode> {
    if payment.cents == 0 {
        return Err(StatusCode::UNPROCESSABLE_ENTITY);
    }
    let receipt = books.pay(&payment);
    let receipt = receipt.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok((StatusCode::CREATED, Json(receipt)))
}

async fn count(State(books): State<Books>) -> String {
    books.lines().to_string()
}
