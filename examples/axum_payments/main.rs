//! A payment service on axum, safe to retry.
//!
//! ```sh
//! cargo run --features axum --example axum_payments
//! curl -i -d '{"to":"bob","cents":250}' -H 'Content-Type: application/json' \
//!     -H 'Idempotency-Key: order-4711' http://127.0.0.1:8080/payments
//! ```
//!
//! The second time curl is told `Idempotency-Status: replayed`, and nothing is paid.
//!
//! `wrapped.rs` is `plain.rs` with five more lines; its payments go elsewhere, so a crash between
//! effect and record leaves a call in doubt. `accounts.rs` keeps its money in the store itself, where
//! nothing is ever in doubt.

mod accounts;
mod books;
mod wrapped;

use std::path::PathBuf;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1);
    let folder = folder.map_or_else(|| PathBuf::from("axum_payments.data"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    let router = wrapped::router(&folder).await?;
    let router = router.merge(accounts::router(&folder).await?);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    println!("payments at http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, router).await?)
}
