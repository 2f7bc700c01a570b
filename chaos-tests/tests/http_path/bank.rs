//! Servers that take payments, and the books of all of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::routing::post;
use onlyonce::http::DedupeLayer;
use onlyonce::http::axum::{Transaction, Undone};
use onlyonce::storage::transaction::{Row, RowRange, Table};
use onlyonce::storage::{IdempotencyKey, Scope, SledOptions, SledStore, Store};
use onlyonce_chaos::ledger::{Effect, Effects};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// The rows that `/book` writes: one for each run, under a number of the run's own.
const BOOKED: Table = Table::new("booked");

/// What the handlers of all servers of a test did. No part of it is in any store.
#[derive(Clone, Debug, Default)]
pub struct Books(Arc<Mutex<Effects>>);

/// A server on a runtime of its own, which can be killed.
#[derive(Debug)]
pub struct Bank {
    pub addr: SocketAddr,
    runtime: Option<Runtime>,
}

/// Where a store is opened, and opened again.
#[derive(Debug)]
pub struct Folder(TempDir);

// === impl Books ===

impl Books {
    pub fn effects(&self) -> Effects {
        self.0.lock().clone()
    }

    fn enter(&self, key: &IdempotencyKey, order: &str) -> String {
        let mut effects = self.0.lock();
        let receipt = format!("receipt {} for {order}", effects.len() + 1);
        let key = key.as_str().to_owned();
        effects.push(Effect::new(key, order.to_owned(), receipt.clone()));
        receipt
    }
}

// === impl Bank ===

impl Bank {
    /// `/pay` enters payments into `books`; `/book` writes them into the store, in a transaction.
    pub fn open(store: Arc<dyn Store>, books: &Books) -> Self {
        let layer = DedupeLayer::new(store, Scope::global());
        let router = Router::new()
            .route("/pay", post(pay).layer(layer.clone()))
            .route("/book", post(book).layer(layer.transactional()))
            .with_state(books.clone());
        Self::serve(router)
    }

    /// The same without the layer: every request is executed.
    pub fn unprotected(books: &Books) -> Self {
        Self::serve(
            Router::new()
                .route("/pay", post(pay_by_header))
                .with_state(books.clone()),
        )
    }

    /// The server dies: its connections and executions are dropped where they wait.
    pub async fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        let killing = move || runtime.shutdown_timeout(Duration::from_secs(10));
        tokio::task::spawn_blocking(killing).await.unwrap();
    }

    fn serve(router: Router) -> Self {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
        Self {
            addr,
            runtime: Some(runtime),
        }
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn pay(
    State(books): State<Books>,
    Extension(key): Extension<IdempotencyKey>,
    order: String,
) -> String {
    books.enter(&key, &order)
}

async fn pay_by_header(
    State(books): State<Books>,
    headers: axum::http::HeaderMap,
    order: String,
) -> String {
    let key = headers["idempotency-key"].to_str().unwrap();
    let key = IdempotencyKey::parse(key.trim_matches('"')).unwrap();
    books.enter(&key, &order)
}

async fn book(
    Transaction(rows): Transaction,
    State(books): State<Books>,
    order: String,
) -> Result<(StatusCode, String), Undone> {
    // A run that comes to nothing has a number too, so that two that came to something show.
    let run = {
        let mut effects = books.0.lock();
        effects.push(Effect::new(format!("run of {order}"), "", ""));
        effects.len()
    };
    rows.put(&BOOKED, format!("{order} by run {run}").as_bytes(), b"")?;
    Ok((StatusCode::CREATED, format!("booked {order} by run {run}")))
}

/// What `/book` wrote: one line for each run that was committed.
pub async fn booked(store: &SledStore) -> Vec<String> {
    let tables = store.transactions().unwrap();
    let all = RowRange::new::<&[u8]>(&BOOKED, &.., usize::MAX);
    let rows: Vec<Row> = tables.read(all).await.unwrap();
    let lines = rows.iter().map(|(key, _)| String::from_utf8_lossy(key));
    lines.map(|line| format!("booked {line}")).collect()
}

// === impl Folder ===

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Waits until the incarnation before has let go of it.
    pub async fn open(&self) -> Arc<SledStore> {
        let mut tries = 0;
        loop {
            let path = self.0.path().join("store");
            match SledStore::open_async(path, SledOptions::new()).await {
                Ok(store) => return Arc::new(store),
                Err(error) if tries == 200 => panic!("the store does not open: {error}"),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
}
