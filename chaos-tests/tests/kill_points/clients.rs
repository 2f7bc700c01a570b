//! Clients who go on until they know: what each call was told, in the order of telling.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use onlyonce::middleware::client::{
    AttemptTimeoutLayer, Backoff, BackoffOptions, EnforceDeadlineLayer, RetryBudget,
};
use onlyonce::middleware::stack::{self, ClientStack};
use onlyonce::rpc::{CallFailure, Channel, ChannelOptions, Client, ClientAdapter, Known, Method};
use onlyonce::storage::IdempotencyKey;
use onlyonce_chaos::ledger::{Effect, Effects, Ending, History, Operation};
use onlyonce_chaos::seed::digest;
use parking_lot::Mutex;

use super::orders::{Declined, Order, PAY, Receipt};

/// What the clients of a run were told.
#[derive(Default)]
pub struct Told {
    endings: Mutex<BTreeMap<u64, Vec<Ending>>>,
}

/// What clients do besides calling until they know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habits {
    /// Nothing: whatever happens twice was made so by a kill.
    None,
    /// They call together with a twin, ask questions, and call again.
    Usual,
}

/// Makes all calls. Each is made again and again under its key until something is known of it.
/// Gives the clients back: a server that is told to stop still has its connections.
pub async fn work(address: SocketAddr, told: Arc<Told>, habits: Habits) -> Vec<(Client, Client)> {
    let next = Arc::new(AtomicU64::new(0));
    let worker = || {
        let clients = (client(address), client(address));
        let (told, next) = (Arc::clone(&told), Arc::clone(&next));
        async move {
            loop {
                let operation = next.fetch_add(1, Ordering::Relaxed);
                if operation >= CALLS {
                    return clients;
                }
                let order = Order { operation };
                match habits {
                    // Nothing hands it a transaction.
                    Habits::None => told.note(order, call_by(&PAY, &clients.0, order).await),
                    Habits::Usual => go_through(&clients, &told, order).await,
                }
            }
        }
    };
    join_all((0..WORKERS).map(|_| worker())).await
}

/// Asks for every answer once more: what was told must be told again.
pub async fn ask_again(client: &Client, told: &Told) {
    for operation in 0..CALLS {
        let order = Order { operation };
        // Whose key nobody kept is asked about no more.
        if !order.is_in_session() {
            told.note(order, call(client, order).await);
        }
    }
}

async fn go_through((client, twin): &(Client, Client), told: &Told, order: Order) {
    if order.is_asked_about() {
        let asking = ask_until_told(twin, told, order);
        let (ending, ()) = tokio::join!(call(client, order), asking);
        told.note(order, ending);
        told.note(order, call(client, order).await);
    } else if order.has_twin() {
        let endings = join_all([call(client, order), call(twin, order)]).await;
        endings
            .into_iter()
            .for_each(|ending| told.note(order, ending));
    } else if order.is_in_session() {
        told.note(order, ending(order, client.call(&PAY, &order).await));
    } else {
        told.note(order, call(client, order).await);
    }
}

/// Asks what became of a call that somebody else is making. What is told so counts like an answer.
async fn ask_until_told(client: &Client, told: &Told, order: Order) {
    loop {
        let ending = match client.peek(key(order), &order.method()).await {
            Ok(Known::Completed(Ok(receipt))) => Ending::Answered(text(&receipt).into()),
            Ok(Known::Completed(Err(Declined))) => Ending::Declined("declined".into()),
            Ok(Known::InDoubt(_)) => Ending::InDoubt,
            // Not yet, or the server is being killed.
            Ok(_) | Err(_) => {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
        };
        return told.note(order, ending);
    }
}

async fn call(client: &Client, order: Order) -> Ending {
    call_by(&order.method(), client, order).await
}

async fn call_by(
    method: &Method<Order, Receipt, Declined>,
    client: &Client,
    order: Order,
) -> Ending {
    ending(order, client.call_as(key(order), method, &order).await)
}

pub fn ending(order: Order, ended: Result<Receipt, CallFailure<Declined>>) -> Ending {
    match ended {
        Ok(receipt) => Ending::Answered(text(&receipt).into()),
        Err(CallFailure::Fault(_)) => Ending::Declined("declined".into()),
        Err(CallFailure::InDoubt(_)) => Ending::InDoubt,
        Err(CallFailure::OutcomeUnknown(_)) => Ending::Unknown,
        Err(failure) => panic!("operation {}: {failure:?}", order.operation),
    }
}

pub fn key(order: Order) -> IdempotencyKey {
    IdempotencyKey::parse(&format!("order-{}", order.operation)).unwrap()
}

/// A receipt in few words.
pub fn text(Receipt { entry, paper }: &Receipt) -> String {
    format!("entry {entry}, paper {:016x}", digest(paper.as_bytes()))
}

fn client(address: impl Display) -> Client {
    let channel = Channel::new(address.to_string(), ChannelOptions::default());
    Client::in_sessions(&channel, layers())
}

/// Attempts and budget have no end: a server that is down comes back.
pub fn layers() -> ClientStack<ClientAdapter> {
    let backoff = Backoff::new(BackoffOptions {
        base: Duration::from_millis(10),
        factor: 2,
        cap: Duration::from_millis(50),
    })
    .unwrap();
    stack::client(ClientAdapter)
        .with_deadline(EnforceDeadlineLayer::new().with_timeout(PATIENCE))
        .with_attempt_timeout(AttemptTimeoutLayer::new().with_timeout(PATIENCE))
        .with_retry(|retry| {
            retry
                .with_attempts_max(NonZeroU32::MAX)
                .with_budget(RetryBudget::unlimited())
                .with_backoff(backoff)
        })
}

// === impl Told ===

impl Told {
    pub fn note(&self, order: Order, ending: Ending) {
        self.endings
            .lock()
            .entry(order.operation)
            .or_default()
            .push(ending);
    }

    /// What clients were told of each operation.
    pub fn endings(&self) -> BTreeMap<u64, Vec<Ending>> {
        self.endings.lock().clone()
    }

    pub fn history(&self) -> History {
        let operation = |(operation, endings): (u64, Vec<Ending>)| {
            let attempts = u32::try_from(endings.len()).unwrap();
            endings.into_iter().fold(
                Operation::new(operation, payload(operation)).attempts(attempts),
                Operation::ended,
            )
        };
        self.endings().into_iter().map(operation).collect()
    }
}

/// What is in the till, for the checker.
pub fn effects(till: Vec<(u64, Receipt)>) -> Effects {
    let effect = |(operation, receipt)| Effect::new(operation, payload(operation), text(&receipt));
    till.into_iter().map(effect).collect()
}

fn payload(operation: u64) -> String {
    format!("pay {operation}")
}

/// Few enough that a run takes half a second, enough for several groups of each kind.
pub const CALLS: u64 = 48;

/// Calls that are in flight at once, and so may be in doubt after a kill.
pub const WORKERS: u64 = 8;

/// So often that a question finds a call between any two of its points.
const ASK_AGAIN: Duration = Duration::from_millis(2);

/// Longer than any run on a loaded machine; a call that takes it is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
