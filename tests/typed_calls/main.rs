//! Typed methods over real sockets: what a user of the native RPC writes.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod calls;
mod delayed;
mod servers;
mod tickets;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::middleware::client::EnforceDeadlineLayer;
use onlyonce::middleware::stack;
use onlyonce::rpc::{
    Channel, ChannelOptions, Client, ClientAdapter, Failure, Incoming, Method, Reply, Router,
    Routes, Server, ServerAdapter, Serving,
};
use onlyonce::storage::{IdempotencyKey, MemoryStore};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower::{Layer as _, Service};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Payment {
    cents: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Declined {
    NoFunds { missing: u64 },
}

impl fmt::Display for Declined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::NoFunds { missing } = self;
        write!(f, "{missing} cents are missing")
    }
}

const PAY: Method<Payment, u32, Declined> = Method::new("pay");
const COUNT: Method<(), u32> = Method::new("count");

/// Pays once for each call of the handler; the counter is the ledger.
async fn serve(paid: &Arc<AtomicU32>) -> Serving {
    serve_on(Arc::new(MemoryStore::default()), paid).await
}

async fn serve_on(store: Arc<MemoryStore>, paid: &Arc<AtomicU32>) -> Serving {
    let routes = Router::new(Arc::clone(paid))
        .method(
            &PAY,
            |_, paid: Arc<AtomicU32>, payment: Payment| async move {
                match payment.cents {
                    0 => Err(Failure::NotExecuted("nothing to pay".to_owned())),
                    1..=1_000 => Ok(paid.fetch_add(1, Ordering::SeqCst) + 1),
                    1_001 => Err(Failure::InDoubt),
                    cents => {
                        paid.fetch_add(1, Ordering::SeqCst);
                        Err(Declined::NoFunds {
                            missing: cents - 1_000,
                        }
                        .into())
                    }
                }
            },
        )
        .read_only(&COUNT, |_, paid: Arc<AtomicU32>, ()| async move {
            Ok(paid.load(Ordering::SeqCst))
        })
        .into_routes();
    serve_behind(store, routes.clone(), routes).await
}

/// Serves `service`, behind the layer, as what handles the methods of `routes`.
async fn serve_behind<S>(store: Arc<MemoryStore>, routes: Routes, service: S) -> Serving
where
    S: Service<Incoming, Response = Reply, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let layers = stack::server(store, ServerAdapter::new(routes));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder()
        .global_scope()
        .dedupe(layers.executions())
        .build()
        .unwrap();
    server.serve(listener, layers.layer(service)).unwrap()
}

/// A client whose calls end after `timeout`.
fn hasty_client(serving: &Serving, timeout: Duration) -> Client {
    let channel = Channel::new(serving.local_addr().to_string(), ChannelOptions::default());
    let deadline = EnforceDeadlineLayer::new().with_timeout(timeout);
    Client::with_stack(
        channel,
        stack::client(ClientAdapter).with_deadline(deadline),
    )
}

fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::parse(text).unwrap()
}
