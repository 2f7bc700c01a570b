//! A server that counts its effects, one that answers what it is told, and an outbox that is opened
//! again and again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use onlyonce::middleware::client::{AttemptTimeoutLayer, EnforceDeadlineLayer};
use onlyonce::middleware::stack;
use onlyonce::rpc::{
    Channel, ChannelOptions, ClientAdapter, Failure, Incoming, Method, Outbox, Reply, Router,
    Server, ServerAdapter, Serving, Status,
};
use onlyonce::storage::outbox::{OutboxEntry, OutboxState, OutboxStore};
use onlyonce::storage::{
    IdempotencyKey, MemoryStore, OutboxOptions, Scope, SledOutbox, StoreId, Timestamp,
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tower::{Layer, service_fn};

pub const PAY: Method<u64, u64, String> = Method::new("shop.pay");

/// Pays as often as its handler is called. More than 1,000 is declined, and 13 is in doubt.
pub async fn shop(store: Arc<MemoryStore>, paid: Arc<AtomicU32>) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    shop_at(listener, store, paid)
}

pub fn shop_at(listener: TcpListener, store: Arc<MemoryStore>, paid: Arc<AtomicU32>) -> Serving {
    let routes = Router::new(paid)
        .method(&PAY, |_, paid: Arc<AtomicU32>, cents: u64| async move {
            if cents > 1_000 {
                return Err(Failure::Fault("too much".to_owned()));
            }
            let paid = paid.fetch_add(1, Ordering::SeqCst) + 1;
            match cents {
                13 => Err(Failure::InDoubt),
                _ => Ok(u64::from(paid) * 10_000 + cents),
            }
        })
        .into_routes();
    let layers = stack::server(store, ServerAdapter::new(routes.clone()));
    let server = Server::builder()
        .global_scope()
        .dedupe(layers.executions())
        .build()
        .unwrap();
    server.serve(listener, layers.layer(routes)).unwrap()
}

/// What one attempt brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub key: IdempotencyKey,
    pub method: String,
    pub arguments: Bytes,
    pub first_sent: Option<Timestamp>,
    pub store: Option<StoreId>,
}

/// What a scripted server answers.
#[derive(Clone, Copy, Debug)]
pub enum Line {
    /// 7.
    Answer,
    Refuse(Status),
    /// Nothing, ever.
    Silence,
}

/// A server that answers what it is told, and its clock.
pub struct Scripted {
    pub serving: Serving,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub script: Arc<Mutex<VecDeque<Line>>>,
    pub now: Arc<AtomicU64>,
}

/// After its script it answers 7. Without a store it says that it does not dedupe.
pub async fn scripted(
    store: impl Into<Option<StoreId>>,
    script: impl IntoIterator<Item = Line>,
) -> Scripted {
    let seen = Arc::<Mutex<Vec<Seen>>>::default();
    let script = Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>()));
    let now = Arc::new(AtomicU64::new(START));
    let clock = Arc::clone(&now);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (noted, lines) = (Arc::clone(&seen), Arc::clone(&script));
    let service = service_fn(move |incoming: Incoming| {
        noted.lock().push(Seen {
            key: incoming.key.unwrap().unwrap(),
            method: incoming.method.to_string(),
            arguments: incoming.arguments,
            first_sent: incoming.first_sent,
            store: incoming.store,
        });
        let line = lines.lock().pop_front().unwrap_or(Line::Answer);
        async move {
            Ok::<_, Infallible>(match line {
                // A reply, which is 7.
                Line::Answer => Reply::new(Status::Executed, Bytes::from_static(&[0, 7])),
                Line::Refuse(status) => Reply::refusal(status, "as told"),
                Line::Silence => std::future::pending().await,
            })
        }
    });
    let mut server = Server::builder().global_scope();
    if let Some(store) = store.into() {
        server = server.store(store, move || {
            Timestamp::from_millis(clock.load(Ordering::SeqCst))
        });
    }
    let serving = server.build().unwrap().serve(listener, service).unwrap();
    Scripted {
        serving,
        seen,
        script,
        now,
    }
}

/// A directory, and the outbox in it as often as it is opened.
pub struct Folder(TempDir);

/// One opening of it, and the client over it.
pub struct Opened {
    pub kept: Arc<SledOutbox>,
    pub outbox: Outbox,
}

// === impl Folder ===

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Opens it, towards the server at `address`.
    pub async fn open(&self, address: impl Display) -> Opened {
        self.open_with(address, OutboxOptions::new()).await
    }

    pub async fn open_with(&self, address: impl Display, options: OutboxOptions) -> Opened {
        let kept = SledOutbox::open_async(self.path(), Scope::global(), options).await;
        let kept = Arc::new(kept.unwrap());
        let outbox = client(&address, Arc::<SledOutbox>::clone(&kept));
        Opened { kept, outbox }
    }
}

/// Makes one attempt a run, which does not last long.
pub fn client(address: &impl Display, kept: Arc<dyn OutboxStore>) -> Outbox {
    let stack = stack::client(ClientAdapter)
        .with_deadline(EnforceDeadlineLayer::new().with_timeout(Duration::from_secs(20)))
        .with_attempt_timeout(AttemptTimeoutLayer::new().with_timeout(Duration::from_secs(10)))
        .with_retry(|retry| retry.with_attempts_max(NonZeroU32::MIN));
    let channel = Channel::new(address.to_string(), ChannelOptions::default());
    Outbox::with_stack(channel, stack, kept, HORIZON)
}

// === impl Opened ===

impl Opened {
    /// As if the process had ended.
    pub async fn end(self) {
        drop(self.outbox);
        self.kept.close().await.unwrap();
    }

    pub async fn calls(&self) -> Vec<OutboxEntry> {
        let pending = self.outbox.pending().await.unwrap();
        pending.into_iter().map(|pending| pending.call).collect()
    }

    /// The state of the only call.
    pub async fn state(&self) -> OutboxState {
        let mut calls = self.calls().await;
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls.remove(0).state
    }

    /// The key of the only call.
    pub async fn key(&self) -> IdempotencyKey {
        let mut calls = self.calls().await;
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls.remove(0).key
    }
}

// === impl Scripted ===

impl Scripted {
    pub fn address(&self) -> String {
        self.serving.local_addr().to_string()
    }

    /// Waits until so many attempts have come.
    pub async fn seen(&self, count: usize) -> Vec<Seen> {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while self.seen.lock().len() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        waited.await.unwrap();
        self.seen.lock().clone()
    }
}

/// Nobody listens there.
pub const NOBODY: &str = "127.0.0.1:9";

pub const HORIZON: Duration = Duration::from_secs(3_600);

/// What a scripted server's clock shows at first.
pub const START: u64 = 1_000_000_000;
