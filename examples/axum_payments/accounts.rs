//! Transfers between accounts that lie in the store itself: effect and answer are one durable write,
//! and no crash leaves a transfer in doubt.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Path as PathOf, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use onlyonce::http::DedupeLayer;
use onlyonce::http::axum::{Transaction, Undone};
use onlyonce::storage::transaction::{RowRange, Table};
use onlyonce::storage::{Scope, SledOptions, SledStore, Store};
use serde::Deserialize;

const ACCOUNTS: Table = Table::new("accounts");

/// What everybody has to begin with.
const GIFT: u64 = 1_000;

#[derive(Debug, Deserialize)]
struct Transfer {
    from: String,
    to: String,
    cents: u64,
}

pub async fn router(folder: &Path) -> Result<Router, Box<dyn Error>> {
    let store = SledStore::open_async(folder.join("accounts"), SledOptions::new()).await?;
    let store: Arc<dyn Store> = Arc::new(store);
    let layer = DedupeLayer::new(store.clone(), Scope::global()).transactional();
    Ok(Router::new()
        .route("/transfers", post(transfer).layer(layer))
        .route("/accounts/{name}", get(balance))
        .with_state(store))
}

async fn transfer(
    Transaction(accounts): Transaction,
    Json(Transfer { from, to, cents }): Json<Transfer>,
) -> Result<StatusCode, Undone> {
    let of = async |name: &str| {
        let row = accounts.get(&ACCOUNTS, name.as_bytes()).await?;
        Ok::<_, Undone>(row.map_or(GIFT, |row| cents_in(&row)))
    };
    // A refusal is an answer for good, and is recorded with no effect.
    let Some(left) = of(&from).await?.checked_sub(cents) else {
        return Ok(StatusCode::CONFLICT);
    };
    accounts.put(&ACCOUNTS, from.as_bytes(), &left.to_be_bytes())?;
    // Read after the write: somebody may pay himself.
    let there = of(&to).await?.saturating_add(cents);
    accounts.put(&ACCOUNTS, to.as_bytes(), &there.to_be_bytes())?;
    Ok(StatusCode::NO_CONTENT)
}

async fn balance(
    State(store): State<Arc<dyn Store>>,
    PathOf(name): PathOf<String>,
) -> Result<String, StatusCode> {
    let tables = store.transactions();
    let tables = tables.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    let rows = tables.read(RowRange::of_key(&ACCOUNTS, name.as_bytes()));
    let rows = rows.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let cents = rows.first().map_or(GIFT, |(_, row)| cents_in(row));
    Ok(cents.to_string())
}

fn cents_in(row: &[u8]) -> u64 {
    row.try_into().map_or(0, u64::from_be_bytes)
}
