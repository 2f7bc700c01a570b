//! A server over a real socket, and a ledger of effects that is independent of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Body;
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use axum::{Router, extract::State};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use onlyonce_middleware::http::DedupeLayer;
use onlyonce_storage::{MemoryStore, Scope, Store};
use tokio::net::TcpListener;

/// Counts effects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<AtomicU32>);

// === impl Ledger ===

impl Ledger {
    /// An effect; says how many there are now.
    pub(crate) fn apply(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn effects(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

pub(crate) fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

/// A layer over a new store in memory, with one scope for all.
pub(crate) fn layer() -> DedupeLayer {
    DedupeLayer::new(memory(), Scope::global())
}

/// Serves until the test ends, HTTP/1.1 and HTTP/2 with prior knowledge.
pub(crate) async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let router = router.clone();
            tokio::spawn(async move {
                let service = tower::service_fn(move |request: hyper::Request<Incoming>| {
                    tower::ServiceExt::oneshot(router.clone(), request)
                });
                let mut server = auto::Builder::new(TokioExecutor::new());
                server.http1().timer(TokioTimer::new());
                let service = TowerToHyperService::new(service);
                // OK because a client that breaks off is a test's own.
                let _ = server.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    address
}

/// A server with one route, `/pay`, that counts its effects and answers with their number.
pub(crate) async fn paying(layer: DedupeLayer) -> (SocketAddr, Ledger) {
    let ledger = Ledger::default();
    let router = Router::new().route("/pay", counting(&ledger).layer(layer));
    (serve(router).await, ledger)
}

/// A handler that counts its effects and answers with their number.
pub(crate) fn counting(ledger: &Ledger) -> MethodRouter {
    async fn pay(State(ledger): State<Ledger>, body: String) -> String {
        format!("{} #{}", body, ledger.apply())
    }
    post(pay)
        .put(pay)
        .patch(pay)
        .delete(pay)
        .get(pay)
        .with_state(ledger.clone())
}

/// A server with one route, `/pay`, that has an effect and answers like this.
pub(crate) async fn answering<F>(layer: DedupeLayer, answer: F) -> (SocketAddr, Ledger)
where
    F: Fn() -> Response<Body> + Clone + Send + Sync + 'static,
{
    let ledger = Ledger::default();
    let counted = ledger.clone();
    let handler = move || {
        counted.apply();
        let answer = answer();
        async move { answer }
    };
    let router = Router::new().route("/pay", post(handler).layer(layer));
    (serve(router).await, ledger)
}
