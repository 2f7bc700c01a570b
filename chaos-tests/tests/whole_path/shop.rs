//! A shop that takes payments and keeps books, and clients of it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onlyonce::middleware::client::{
    AttemptTimeoutLayer, Backoff, BackoffOptions, EnforceDeadlineLayer, RetryBudget,
};
use onlyonce::middleware::server::{DedupeOptions, Wait};
use onlyonce::middleware::stack::{self, ClientStack};
use onlyonce::rpc::{
    Caller, Channel, ChannelOptions, Client, ClientAdapter, Failure, Incoming, Method, Router,
    Routes, Server, ServerAdapter, ServerBuilder, Serving, Verb,
};
use onlyonce::storage::{IdempotencyKey, SessionCall, Store, StoreId, Timestamp};
use onlyonce_chaos::Proxy;
use onlyonce_chaos::proxy::Plan;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::{Layer, ServiceExt};

pub const PAY: Method<Payment, Receipt, Declined> = Method::new("shop.pay");

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    pub operation: u64,
    pub amount: u64,
    pub wish: Wish,
}

/// How the handler shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    Decline,
    /// The payment is made; the answer waits for [`Shop::open_gate`].
    Hold,
    Panic,
    Pay,
    /// Not executed, while [`Shop::refuse`] says so.
    Refuse,
}

/// Its entry is a new one for every payment made: an answer that comes twice was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub entry: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declined {
    /// As a receipt's entry.
    pub run: u64,
}

/// An attempt as it reached a server, before anything of the layer looked at it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub verb: Verb,
    pub key: Option<IdempotencyKey>,
    pub attempt: u32,
    pub first_sent: Option<Timestamp>,
    pub store: Option<StoreId>,
    pub session: Option<SessionCall>,
    pub arguments: Bytes,
}

/// The handler's state. Cloning it is cheap; all servers of a test share one.
#[derive(Clone)]
pub struct Shop(Arc<Books>);

struct Books {
    payments: Mutex<Vec<(Payment, Receipt)>>,
    runs: watch::Sender<u64>,
    seen: watch::Sender<Vec<Seen>>,
    gate: watch::Sender<bool>,
    refuses: Mutex<bool>,
}

// === impl Shop ===

impl Shop {
    pub fn new() -> Self {
        Self(Arc::new(Books {
            payments: Mutex::default(),
            runs: watch::Sender::new(0),
            seen: watch::Sender::new(Vec::new()),
            gate: watch::Sender::new(false),
            refuses: Mutex::new(false),
        }))
    }

    /// What was paid, in order.
    pub fn payments(&self) -> Vec<(Payment, Receipt)> {
        self.0.payments.lock().clone()
    }

    /// How often an operation was paid.
    pub fn paid(&self, operation: u64) -> usize {
        let payments = self.0.payments.lock();
        payments
            .iter()
            .filter(|(payment, _)| payment.operation == operation)
            .count()
    }

    /// How often the handler began.
    pub fn runs(&self) -> u64 {
        *self.0.runs.borrow()
    }

    pub async fn until_runs(&self, runs: u64) {
        self.0
            .runs
            .subscribe()
            .wait_for(|now| *now >= runs)
            .await
            .unwrap();
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen.borrow().clone()
    }

    pub async fn until_seen(&self, attempts: usize) {
        let mut seen = self.0.seen.subscribe();
        seen.wait_for(|seen| seen.len() >= attempts).await.unwrap();
    }

    pub fn open_gate(&self) {
        self.0.gate.send_replace(true);
    }

    pub fn refuse(&self, refuses: bool) {
        *self.0.refuses.lock() = refuses;
    }

    pub fn routes(&self) -> Routes {
        Router::new(self.clone())
            .method(&PAY, Self::pay)
            .into_routes()
    }

    async fn pay(_: Caller, shop: Self, payment: Payment) -> Result<Receipt, Failure<Declined>> {
        let books = shop.0;
        let mut run = 0;
        books.runs.send_modify(|runs| {
            *runs += 1;
            run = *runs;
        });
        match payment.wish {
            Wish::Decline => return Err(Declined { run }.into()),
            Wish::Refuse if *books.refuses.lock() => {
                return Err(Failure::NotExecuted("not today".to_owned()));
            }
            Wish::Hold | Wish::Panic | Wish::Pay | Wish::Refuse => {}
        }
        let receipt = {
            let mut payments = books.payments.lock();
            let entry = payments.len() as u64 + 1;
            payments.push((payment.clone(), Receipt { entry }));
            Receipt { entry }
        };
        assert_ne!(payment.wish, Wish::Panic, "the handler was told to panic");
        if payment.wish == Wish::Hold {
            books.gate.subscribe().wait_for(|open| *open).await.unwrap();
        }
        Ok(receipt)
    }

    fn note(&self, incoming: &Incoming) {
        let seen = Seen {
            verb: incoming.verb,
            key: incoming.key.clone().and_then(Result::ok),
            attempt: incoming.attempt.get(),
            first_sent: incoming.first_sent,
            store: incoming.store,
            session: incoming.session,
            arguments: incoming.arguments.clone(),
        };
        self.0.seen.send_modify(|all| all.push(seen));
    }

    /// Serves with the layer over `store`, for everybody.
    pub async fn serve(&self, store: Arc<dyn Store>) -> Serving {
        self.serve_with(
            Server::builder().global_scope(),
            store,
            DedupeOptions::default(),
        )
        .await
    }

    /// As [`serve`](Self::serve), and duplicates of a running call are sent away at once.
    pub async fn serve_impatiently(&self, store: Arc<dyn Store>) -> Serving {
        let mut options = DedupeOptions::default();
        options.wait = Wait::No;
        self.serve_with(Server::builder().global_scope(), store, options)
            .await
    }

    pub async fn serve_with(
        &self,
        builder: ServerBuilder,
        store: Arc<dyn Store>,
        options: DedupeOptions,
    ) -> Serving {
        let routes = self.routes();
        let layers = stack::server_with(store, ServerAdapter::new(routes.clone()), options);
        let builder = builder.dedupe(layers.executions());
        let service = layers.layer(routes).map_request(noting(self));
        builder
            .build()
            .unwrap()
            .serve(listener().await, service)
            .unwrap()
    }

    /// Serves without the layer: every request is executed.
    pub async fn serve_unprotected(&self) -> Serving {
        let service = self.routes().map_request(noting(self));
        let server = Server::builder().global_scope().build().unwrap();
        server.serve(listener().await, service).unwrap()
    }
}

fn noting(shop: &Shop) -> impl Fn(Incoming) -> Incoming + Clone + Send + 'static {
    let shop = shop.clone();
    move |incoming| {
        shop.note(&incoming);
        incoming
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub fn payment(operation: u64, wish: Wish) -> Payment {
    Payment {
        operation,
        amount: 100 + operation,
        wish,
    }
}

pub fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::parse(name).unwrap()
}

/// The network in front of a server.
pub async fn network(serving: &Serving, plan: Plan) -> Proxy {
    let proxy = Proxy::builder(serving.local_addr()).seed(42).plan(plan);
    proxy.listen("127.0.0.1:0").await.unwrap()
}

pub fn client(address: impl Display) -> Client {
    ClientOptions::default().client(address)
}

pub fn channel(address: impl Display) -> Channel {
    Channel::new(address.to_string(), ChannelOptions::default())
}

/// How a test's client differs from the defaults: attempts and waits are short, and the budget has
/// no end, so that what ends a call is what the test is about.
pub struct ClientOptions {
    pub attempts_max: u32,
    pub attempt_timeout: Duration,
    pub budget: RetryBudget,
    pub channel: ChannelOptions,
    pub timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            attempt_timeout: Duration::from_secs(10),
            budget: RetryBudget::unlimited(),
            channel: ChannelOptions::default(),
            timeout: Duration::from_secs(30),
        }
    }
}

impl ClientOptions {
    /// For a network that swallows answers: a lost one costs the test a blink.
    pub fn quick(attempts_max: u32) -> Self {
        let attempt_timeout = Duration::from_millis(200);
        let mut channel = ChannelOptions::default();
        channel.connect_timeout = attempt_timeout;
        Self {
            attempts_max,
            attempt_timeout,
            channel,
            ..Self::default()
        }
    }

    pub fn attempts(attempts_max: u32) -> Self {
        Self {
            attempts_max,
            ..Self::default()
        }
    }

    pub fn client(self, address: impl Display) -> Client {
        let (channel, layers) = self.parts(address);
        Client::with_stack(channel, layers)
    }

    /// The same, in sessions.
    pub fn in_sessions(self, address: impl Display) -> Client {
        let (channel, layers) = self.parts(address);
        Client::in_sessions(&channel, layers)
    }

    fn parts(self, address: impl Display) -> (Channel, ClientStack<ClientAdapter>) {
        let attempts_max = NonZeroU32::new(self.attempts_max).unwrap();
        let backoff = Backoff::new(BackoffOptions {
            base: Duration::from_millis(5),
            factor: 2,
            cap: Duration::from_millis(100),
        })
        .unwrap();
        let layers = stack::client(ClientAdapter)
            .with_deadline(EnforceDeadlineLayer::new().with_timeout(self.timeout))
            .with_attempt_timeout(AttemptTimeoutLayer::new().with_timeout(self.attempt_timeout))
            .with_retry(|retry| {
                retry
                    .with_attempts_max(attempts_max)
                    .with_budget(self.budget)
                    .with_backoff(backoff)
            });
        (Channel::new(address.to_string(), self.channel), layers)
    }
}
