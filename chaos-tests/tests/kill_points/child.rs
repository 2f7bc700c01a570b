//! The server's process: this test binary, run again.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use onlyonce::middleware::server::DedupeOptions;
use onlyonce::middleware::stack;
use onlyonce::rpc::{Caller, Failure, Router, Routes, Server, ServerAdapter};
use onlyonce::storage::{Inspect, SledOptions, SledStore, Store};
use onlyonce_storage::{kill_point, points};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tower::Layer;

use super::booked::book;
use super::orders::{BOOK, Declined, Order, PAY, Receipt, Wish};
use super::till::Till;

/// Where the child finds its store and its till.
pub const FOLDER: &str = "ONLYONCE_KILL_POINTS_FOLDER";

/// What stands in front of the handler: see [`Front`].
pub const FRONT: &str = "ONLYONCE_KILL_POINTS_FRONT";

/// What stands in front of the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    Dedupe,
    /// Nothing, although clients are told otherwise: what the layer is there for is missing.
    Pretence,
}

/// The handler's state.
#[derive(Clone)]
pub struct Desk {
    pub till: Till,
    pub refused: Arc<Mutex<HashSet<u64>>>,
}

/// Does nothing when it is run as a test.
#[test]
fn serves_until_it_is_killed_when_it_is_the_child() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Several, also on a small machine: a point at which one stands still holds up only itself.
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let front = Front::named(&std::env::var(FRONT).unwrap());
    runtime.block_on(serve(PathBuf::from(folder), front));
}

async fn serve(folder: PathBuf, front: Front) {
    let store = open(&folder).await;
    say_passed("opened");
    let desk = Desk {
        till: Till::open(&folder),
        refused: Arc::default(),
    };
    let mut options = DedupeOptions::default();
    options.lease = LEASE;
    let routes = routes(desk);
    let adapter = ServerAdapter::new(routes.clone());
    let layers = stack::server_with(store.clone(), adapter, options);
    let (id, clock) = (store.id(), store.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder()
        .global_scope()
        .store(id, move || clock.now())
        .build()
        .unwrap();
    let serving = match front {
        Front::Dedupe => server.serve(listener, layers.layer(routes)),
        Front::Pretence => server.serve(listener, routes),
    };
    let serving = serving.unwrap();
    say(&format!("listening {}", serving.local_addr()));
    // While calls are served. What is due is in the store since it was prepared.
    let sweeping = store.clone();
    let sweep = tokio::spawn(async move {
        // It was away for longer than it remembers.
        sweeping.confirm_clock().await?;
        sweeping.sweep().await
    });
    until_parent_says_stop().await;
    let swept = sweep.await.unwrap().unwrap();
    assert_eq!(swept.paused, None);
    serving.shutdown(PATIENCE).await;
    store.close().await.unwrap();
    say_passed("ended");
}

pub async fn open(folder: &Path) -> Arc<SledStore> {
    // Small, so that it is carried over while calls are served.
    let options = SledOptions::new().log_bytes(64 * 1024);
    let store = SledStore::open_async(folder.join("store"), options).await;
    Arc::new(store.unwrap())
}

fn routes(desk: Desk) -> Routes {
    Router::new(desk)
        .method(&PAY, pay)
        .method_transactional(&BOOK, book)
        .into_routes()
}

pub async fn pay(_: Caller, desk: Desk, order: Order) -> Result<Receipt, Failure<Declined>> {
    kill_point!("handler: called, effect not made");
    match order.wish() {
        Wish::Decline => return Err(Declined.into()),
        Wish::Refuse if desk.refused.lock().insert(order.operation) => {
            return Err(Failure::NotExecuted("not yet".to_owned()));
        }
        Wish::Slow => tokio::time::sleep(SLOW).await,
        Wish::Doubt | Wish::Pay | Wish::Refuse => {}
    }
    let receipt = desk.till.pay(order.operation).await;
    kill_point!("handler: effect durable, not returned");
    if order.wish() == Wish::Doubt {
        return Err(Failure::InDoubt);
    }
    Ok(receipt)
}

// === impl Front ===

impl Front {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dedupe => "dedupe",
            Self::Pretence => "pretence",
        }
    }

    fn named(name: &str) -> Self {
        let known = [Self::Dedupe, Self::Pretence];
        known
            .into_iter()
            .find(|front| front.name() == name)
            .unwrap()
    }
}

pub fn say_passed(when: &str) {
    let passed: BTreeMap<_, _> = points::passed();
    for (name, count) in passed {
        say(&format!("{when} {count} {name}"));
    }
}

/// In one write, so that the parent sees whole lines or none.
pub fn say(text: &str) {
    let line = format!("!{text}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

pub async fn until_parent_says_stop() {
    let mut nothing = [0; 64];
    let mut input = tokio::io::stdin();
    while matches!(input.read(&mut nothing).await, Ok(length) if length > 0) {}
}

/// Renewed every third of it, and so long that a loaded machine does not miss all of them.
pub const LEASE: Duration = Duration::from_millis(2_400);

/// So long that one renewal is due.
const SLOW: Duration = Duration::from_millis(900);

pub const PATIENCE: Duration = Duration::from_secs(10);
