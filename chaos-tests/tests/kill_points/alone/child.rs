//! The server's process for one call: this test binary, run again. On one thread, so that what is
//! at a point is not overtaken by what comes after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use onlyonce::admin::AdminSocket;
use onlyonce::middleware::stack;
use onlyonce::rpc::Serving;
use onlyonce::rpc::{
    Caller, Doubt, Failure, Reconciled, Router, Routes, Server, ServerAdapter, ServerOptions,
};
use onlyonce::storage::{Inspect, SledStore};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tower::Layer;

use super::scripts::{CHECK, Check, is_resolved};
use crate::booked::book;
use crate::child::{self, Desk, FOLDER, PATIENCE, say, say_passed, until_parent_says_stop};
use crate::orders::{BOOK, Declined, Order, PAY, Receipt};
use crate::till::Till;

/// Whether it sweeps.
pub const SWEEPS: &str = "ONLYONCE_KILL_POINTS_SWEEPS";

/// A server that serves.
pub struct Shop {
    serving: Serving,
    socket: AdminSocket,
    store: Arc<SledStore>,
}

/// Does nothing when it is run as a test.
#[test]
fn serves_alone_until_it_is_killed_when_it_is_the_child() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(live(PathBuf::from(folder)));
}

async fn live(folder: PathBuf) {
    let store = child::open(&folder).await;
    say_passed("opened");
    let shop = Shop::open(store.clone(), &folder).await;
    say(&format!("listening {}", shop.address()));
    if std::env::var(SWEEPS).is_ok() {
        // It was away for longer than it remembers.
        store.confirm_clock().await.unwrap();
        store.sweep().await.unwrap();
    }
    until_parent_says_stop().await;
    say_passed("served");
    shop.close().await;
    say_passed("ended");
}

// === impl Shop ===

impl Shop {
    pub async fn open(store: Arc<SledStore>, folder: &Path) -> Self {
        let desk = Desk {
            till: Till::open(folder),
            refused: Arc::default(),
        };
        let routes = routes(desk, folder.to_owned());
        let adapter = ServerAdapter::new(routes.clone());
        let mut options = onlyonce::middleware::server::DedupeOptions::default();
        options.lease = child::LEASE;
        let layers = stack::server_with(store.clone(), adapter, options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::builder()
            .global_scope()
            .dedupe(layers.executions())
            .options(asked_alone())
            .build()
            .unwrap();
        let serving = server.serve(listener, layers.layer(routes)).unwrap();
        let socket = AdminSocket::serve(store.clone(), folder.join("store")).unwrap();
        Self {
            serving,
            socket,
            store,
        }
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.serving.local_addr()
    }

    /// Closes it beside whatever comes next: a store with tables takes seconds to be free, and
    /// nobody opens this one again.
    pub fn leave(self, folder: TempDir) {
        tokio::spawn(async move {
            self.close().await;
            drop(folder);
        });
    }

    async fn close(self) {
        self.socket.close().await;
        self.serving.shutdown(PATIENCE).await;
        self.store.close().await.unwrap();
    }
}

/// The store is asked for the one call alone.
fn asked_alone() -> ServerOptions {
    let mut options = ServerOptions::default();
    options.finish_abandoned = false;
    options
}

fn routes(desk: Desk, folder: PathBuf) -> Routes {
    let asked = folder.clone();
    Router::new(desk)
        .method(&PAY, child::pay)
        .method_transactional(&BOOK, book)
        .method_reconciled(
            &CHECK,
            move |caller, desk, order| check(caller, desk, order, folder.clone()),
            move |doubt, _, order| look(doubt, order, asked.clone()),
        )
        .into_routes()
}

/// In doubt the first time that it runs.
async fn check(
    caller: Caller,
    desk: Desk,
    order: Order,
    folder: PathBuf,
) -> Result<Receipt, Failure<Declined>> {
    let again = caller.execution.is_some_and(|run| run.is_rerun()) || is_resolved(&folder);
    match Check::of(order) {
        Check::Applied if !again => {
            desk.till.pay(order.operation).await;
            Err(Failure::InDoubt)
        }
        Check::ForNothing if again && desk.refused.lock().insert(order.operation) => {
            Err(Failure::NotExecuted("not yet".to_owned()))
        }
        _ if again => Ok(desk.till.pay(order.operation).await),
        _ => Err(Failure::InDoubt),
    }
}

/// What became of it outside: the till knows.
async fn look(
    _: Doubt,
    order: Order,
    folder: PathBuf,
) -> Result<Reconciled<Receipt, Declined>, String> {
    if Check::of(order) == Check::Resolved {
        return Ok(Reconciled::StillUnknown);
    }
    let paid = Till::read(&folder);
    let paid = paid.into_iter().find(|(of, _)| *of == order.operation);
    Ok(match paid {
        Some((_, receipt)) => Reconciled::Applied(Ok(receipt)),
        None => Reconciled::NotApplied,
    })
}
