//! A server that is not killed, and what it executed.

use std::collections::HashSet;
use std::sync::Arc;

use onlyonce::middleware::stack;
use onlyonce::rpc::{Failure, Router, Server, ServerAdapter, Serving};
use onlyonce::storage::MemoryStore;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tower::Layer;

use crate::orders::{Declined, Order, PAY, Receipt, Wish};

/// Every effect, in order.
pub type Effects = Arc<Mutex<Vec<(u64, Receipt)>>>;

#[derive(Clone, Default)]
struct Desk {
    effects: Effects,
    refused: Arc<Mutex<HashSet<u64>>>,
}

pub async fn serve() -> (Serving, Effects) {
    let desk = Desk::default();
    let effects = Arc::clone(&desk.effects);
    let routes = Router::new(desk).method(&PAY, pay).into_routes();
    let store = Arc::new(MemoryStore::default());
    let layers = stack::server(store, ServerAdapter::new(routes.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder()
        .global_scope()
        .dedupe(layers.executions())
        .build()
        .unwrap();
    let serving = server.serve(listener, layers.layer(routes)).unwrap();
    (serving, effects)
}

async fn pay(
    _: onlyonce::rpc::Caller,
    desk: Desk,
    order: Order,
) -> Result<Receipt, Failure<Declined>> {
    match order.wish() {
        Wish::Decline => return Err(Declined.into()),
        Wish::Refuse if desk.refused.lock().insert(order.operation) => {
            return Err(Failure::NotExecuted("not yet".to_owned()));
        }
        Wish::Doubt | Wish::Pay | Wish::Refuse | Wish::Slow => {}
    }
    let receipt = {
        let mut effects = desk.effects.lock();
        let receipt = Receipt::new(order.operation, effects.len() as u64 + 1);
        effects.push((order.operation, receipt.clone()));
        receipt
    };
    match order.wish() {
        Wish::Doubt => Err(Failure::InDoubt),
        _ => Ok(receipt),
    }
}
