//! A server that is not killed, and what it executed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use onlyonce::middleware::stack;
use onlyonce::rpc::{Failure, Incoming, Router, Server, ServerAdapter, Serving};
use onlyonce::storage::{IdempotencyKey, MemoryStore, StoreId, Timestamp};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt, service_fn};

use crate::orders::{Declined, Order, PAY, Receipt, Wish};

/// Every effect, in order.
pub type Effects = Arc<Mutex<Vec<(u64, Receipt)>>>;

/// What the first attempt of each call brought.
type Firsts = Mutex<HashMap<IdempotencyKey, (Timestamp, StoreId)>>;

#[derive(Clone, Default)]
struct Desk {
    effects: Effects,
    refused: Arc<Mutex<HashSet<u64>>>,
}

/// A server, what it executed, and the keys that came again as new calls: a server that had
/// forgotten them would execute them.
pub struct Shop {
    pub serving: Serving,
    pub effects: Effects,
    pub renewed: Arc<Mutex<Vec<IdempotencyKey>>>,
}

pub async fn serve() -> Shop {
    let desk = Desk::default();
    let effects = Arc::clone(&desk.effects);
    let renewed = Arc::<Mutex<Vec<_>>>::default();
    let routes = Router::new(desk).method(&PAY, pay).into_routes();
    let store = Arc::new(MemoryStore::default());
    let layers = stack::server(store, ServerAdapter::new(routes.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder()
        .global_scope()
        .dedupe(layers.executions())
        .build()
        .unwrap();
    let (dedupe, firsts) = (layers.layer(routes), Arc::<Firsts>::default());
    let noted = Arc::clone(&renewed);
    let service = service_fn(move |incoming: Incoming| {
        let key = incoming.key.clone().unwrap().unwrap();
        let brought = (incoming.first_sent.unwrap(), incoming.store.unwrap());
        if *firsts.lock().entry(key.clone()).or_insert(brought) != brought {
            noted.lock().push(key);
        }
        dedupe.clone().oneshot(incoming)
    });
    let serving = server.serve(listener, service).unwrap();
    Shop {
        serving,
        effects,
        renewed,
    }
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
