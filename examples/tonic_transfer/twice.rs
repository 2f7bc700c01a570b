//! One transfer, sent twice.

use std::error::Error;
use std::sync::Arc;

use onlyonce::middleware::client::Ticket;
use onlyonce::storage::{IdempotencyKey, MemoryStore};
use tokio::net::TcpListener;
use tonic::Request;

use crate::bank::Transfer;
use crate::client;
use crate::server::{self, Books};

/// Starts a bank, sends it a transfer twice, and says what came of it.
///
/// # Errors
///
/// When a call has no answer.
pub async fn send_twice() -> Result<Vec<String>, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    // What a `MemoryStore` knows dies with its process: in earnest it is a `SledStore`.
    let store = Arc::new(MemoryStore::new());
    let books = Books::default();
    tokio::spawn(server::serve(listener, store, books.clone()));

    let mut lines = Vec::new();
    let mut bank = client::connect(address)?;
    for _ in 0..2 {
        // The same invoice is the same call, also for a program that was started anew.
        let key = IdempotencyKey::derived("invoice", b"4711");
        let mut request = Request::new(Transfer {
            to: "anna".to_owned(),
            cents: 750,
        });
        request.extensions_mut().insert(Ticket::new(key));
        let answer = bank.transfer(request).await?;
        let said = answer.metadata().get("idempotency-status").cloned();
        let said = said.ok_or("the server says nothing of the call")?;
        let receipt = answer.into_inner();
        let (number, balance) = (receipt.number, receipt.balance);
        let said = said.to_str()?;
        lines.push(format!(
            "receipt {number}: anna has {balance} cents ({said})"
        ));
    }
    lines.push(format!("transfers made: {}", books.transfers()));
    Ok(lines)
}
