//! The other server, which is not killed, and its effects.

use std::net::SocketAddr;
use std::sync::Arc;

use onlyonce::middleware::stack;
use onlyonce::rpc::{Caller, Failure, Method, Router, Server, ServerAdapter, Serving};
use onlyonce::storage::MemoryStore;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tower::Layer;

use crate::orders::{Declined, Order};

/// Books an entry: the number of the effect.
pub const CHARGE: Method<Order, u64, Declined> = Method::new("bank.charge");

/// A bank that is open.
pub struct Bank {
    serving: Serving,
    effects: Effects,
}

/// The operations that were charged, in order.
type Effects = Arc<Mutex<Vec<u64>>>;

impl Bank {
    pub async fn open() -> Self {
        let effects = Effects::default();
        let routes = Router::new(Arc::clone(&effects)).method(&CHARGE, charge);
        let routes = routes.into_routes();
        let store = Arc::new(MemoryStore::default());
        let layers = stack::server(store, ServerAdapter::new(routes.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::builder()
            .global_scope()
            .dedupe(layers.executions())
            .build()
            .unwrap();
        let serving = server.serve(listener, layers.layer(routes)).unwrap();
        Self { serving, effects }
    }

    pub const fn address(&self) -> SocketAddr {
        self.serving.local_addr()
    }

    /// How often an operation was charged.
    pub fn charged(&self, operation: u64) -> usize {
        let effects = self.effects.lock();
        effects.iter().filter(|of| **of == operation).count()
    }
}

async fn charge(_: Caller, effects: Effects, order: Order) -> Result<u64, Failure<Declined>> {
    let mut effects = effects.lock();
    effects.push(order.operation);
    Ok(effects.len() as u64)
}
