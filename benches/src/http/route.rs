//! The route, and what stands in front of it.

#![allow(
    unexpected_cfgs,
    reason = "`idempotent_2` is set by hand: the manifest says why"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, StatusCode, header};
use axum::routing::post;
use axum::serve::ListenerExt as _;
use axum_idempotent::{IdempotentLayer, IdempotentOptions};
use bytes::Bytes;
use onlyonce_middleware::http::DedupeLayer;
use onlyonce_middleware::http::axum::{Transaction, Undone};
use onlyonce_storage::sled::{SledOptions, SledStore};
use onlyonce_storage::transaction::Table;
use onlyonce_storage::{MemoryStore, Scope, Store};
use ruts::store::moka::MokaStore;
use ruts::{CookieOptions, SessionLayer};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tower_cookies::CookieManagerLayer;

use crate::calls::bytes;

/// What stands in front of the handler, each with its defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Nothing.
    Bare,
    /// onlyonce, with its store in memory.
    Memory,
    /// onlyonce, with its store on the disk.
    Sled,
    /// onlyonce, whose store on the disk holds the handler's effect too.
    SledTransaction,
    /// `axum-idempotent`, as its README says: by key, with the store in memory that it names.
    AxumIdempotent,
    /// `idempotent`, as its README says, with its store in memory and without a scope.
    #[cfg(idempotent_2)]
    Idempotent,
}

/// A server of one route, which has not been called yet.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    executed: Arc<AtomicU64>,
    _folder: TempDir,
}

// === impl Route ===

impl Route {
    /// All that this program was built with.
    pub const ALL: &[Self] = &[
        Self::Bare,
        Self::Memory,
        Self::AxumIdempotent,
        #[cfg(idempotent_2)]
        Self::Idempotent,
        Self::Sled,
        Self::SledTransaction,
    ];

    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Memory => "memory",
            Self::Sled => "sled",
            Self::SledTransaction => "sled-transaction",
            Self::AxumIdempotent => "axum-idempotent",
            #[cfg(idempotent_2)]
            Self::Idempotent => "idempotent",
        }
    }
}

// === impl Service ===

impl Service {
    /// Serves `route` on a port of its own; its handler takes `handling` for each execution. What
    /// lies on the disk lies under `folder`.
    ///
    /// # Panics
    ///
    /// When it cannot.
    pub async fn start(route: Route, folder: &Path, handling: Duration) -> Self {
        let folder = tempfile::tempdir_in(folder).expect("a folder");
        let executed = Arc::new(AtomicU64::new(0));
        let answer = Bytes::from(bytes(300));
        let pay = {
            let (executed, answer) = (Arc::clone(&executed), answer.clone());
            move |_: Bytes| {
                executed.fetch_add(1, Ordering::Relaxed);
                let answer = answer.clone();
                async move {
                    if !handling.is_zero() {
                        tokio::time::sleep(handling).await;
                    }
                    paid(answer)
                }
            }
        };
        let plain = || Router::new().route("/pay", post(pay.clone()));
        let sled = || -> Arc<dyn Store> {
            let store = SledStore::open(folder.path(), SledOptions::new());
            Arc::new(store.expect("a store"))
        };
        let router: Router = match route {
            Route::Bare => plain(),
            Route::Memory => plain().layer(DedupeLayer::new(
                Arc::new(MemoryStore::new()),
                Scope::global(),
            )),
            Route::Sled => plain().layer(DedupeLayer::new(sled(), Scope::global())),
            Route::SledTransaction => {
                let executed = Arc::clone(&executed);
                let book = async move |Transaction(books): Transaction, _: Bytes| {
                    let number = executed.fetch_add(1, Ordering::Relaxed);
                    books.put(&EFFECTS, &number.to_be_bytes(), &bytes(64))?;
                    Ok::<_, Undone>(paid(answer.clone()))
                };
                let layer = DedupeLayer::new(sled(), Scope::global()).transactional();
                Router::new().route("/pay", post(book)).layer(layer)
            }
            Route::AxumIdempotent => {
                let options = IdempotentOptions::default()
                    .use_idempotency_key_header(Some("Idempotency-Key"), true)
                    .expire_after(60 * 5);
                let sessions = SessionLayer::new(Arc::new(MokaStore::builder().build()))
                    .with_cookie_options(CookieOptions::build().name("session"));
                plain()
                    .layer(IdempotentLayer::<MokaStore>::new(options))
                    .layer(sessions)
                    .layer(CookieManagerLayer::new())
            }
            #[cfg(idempotent_2)]
            Route::Idempotent => {
                let store = idempotent::memory::MemoryStore::builder().try_build();
                let store = store.expect("a store");
                plain().layer(idempotent::middleware::IdempotencyLayer::new(store))
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let listener = listener.tap_io(|stream| {
            stream.set_nodelay(true).expect("a socket option");
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            address,
            executed,
            _folder: folder,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often its handler ran.
    #[must_use]
    pub fn executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }
}

type Paid = (StatusCode, [(HeaderName, &'static str); 2], Bytes);

fn paid(answer: Bytes) -> Paid {
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::LOCATION, "/payments/4711"),
    ];
    (StatusCode::CREATED, headers, answer)
}

const EFFECTS: Table = Table::new("effects");
