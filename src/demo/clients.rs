//! The two clients that are compared: one that retries as people write it, and ours.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_chaos::ledger::Ending;
use onlyonce_middleware::client::{AttemptTimeoutLayer, EnforceDeadlineLayer, Ticket};
use onlyonce_middleware::stack;
use onlyonce_storage::IdempotencyKey;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use super::bank::{Declined, Receipt, Transfer};
use super::server::TRANSFER;
use super::spread::Spread;
use crate::rpc::{
    CallFailure, ChannelOptions, Client, ClientAdapter, Reply, Request, Status, value,
};

/// How one call ended, after how many attempts.
pub(super) struct Ended {
    pub(super) ending: Ending,
    pub(super) attempts: u32,
    /// What an unfinished call is resumed with.
    pub(super) ticket: Option<Ticket>,
}

/// Retries without a key: each attempt is a new request to the server.
#[derive(Clone)]
pub(super) struct NaiveClient {
    servers: Spread,
}

/// The same calls with a key, through our layers.
#[derive(Clone)]
pub(super) struct KeyedClient {
    client: Client,
}

/// What went over the wire, counted below all layers.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    attempts: Arc<AtomicU64>,
    replayed: Arc<AtomicU64>,
}

// === impl NaiveClient ===

impl NaiveClient {
    pub(super) fn new<'a>(addresses: impl IntoIterator<Item = &'a String>) -> Self {
        Self {
            servers: Spread::new(addresses, &channel_options()),
        }
    }

    pub(super) async fn transfer(&self, transfer: &Transfer) -> Ended {
        let ended = |ending, attempts| Ended {
            ending,
            attempts,
            ticket: None,
        };
        let Ok(arguments) = value::encode(transfer) else {
            return ended(Ending::Unknown, 0);
        };
        for attempt in 1..=ATTEMPTS.get() {
            let request = Request::new(TRANSFER.name(), arguments.clone());
            let answer = timeout(ATTEMPT, self.servers.clone().oneshot(request)).await;
            if let Ok(Ok(reply)) = answer
                && reply.status.carries_answer()
            {
                let ending = match value::decode_result::<Receipt, Declined>(&reply.body) {
                    Ok(result) => told(&result),
                    Err(_) => Ending::Unknown,
                };
                return ended(ending, attempt);
            }
            sleep(PAUSE * attempt).await;
        }
        ended(Ending::Unknown, ATTEMPTS.get())
    }
}

// === impl KeyedClient ===

impl KeyedClient {
    pub(super) fn new<'a>(addresses: impl IntoIterator<Item = &'a String>, seen: Seen) -> Self {
        let servers = Spread::new(addresses, &channel_options());
        let (counting, counted) = (seen.clone(), seen);
        let transport = servers
            .map_request(move |request: Request| {
                counting.attempts.fetch_add(1, Ordering::Relaxed);
                request
            })
            .map_response(move |reply: Reply| {
                if matches!(reply.status, Status::Replayed | Status::Attached) {
                    counted.replayed.fetch_add(1, Ordering::Relaxed);
                }
                reply
            });
        let layers = stack::client(ClientAdapter)
            .with_deadline(EnforceDeadlineLayer::new().with_timeout(CALL))
            .with_attempt_timeout(AttemptTimeoutLayer::new().with_timeout(ATTEMPT))
            .with_retry(|retry| retry.with_attempts_max(ATTEMPTS));
        Self {
            client: Client::with_stack(transport, layers),
        }
    }

    /// One call under the key of its operation.
    pub(super) async fn transfer(&self, transfer: &Transfer) -> Ended {
        let key = IdempotencyKey::derived("demo transfer", &transfer.operation.to_be_bytes());
        self.resume(Ticket::new(key), transfer).await
    }

    /// Goes on with a call that was left open, under the same key.
    pub(super) async fn resume(&self, ticket: Ticket, transfer: &Transfer) -> Ended {
        let failed = match self.client.resume(ticket, &TRANSFER, transfer).await {
            Ok(receipt) => return Ended::answered(&Ok(receipt)),
            Err(CallFailure::Fault(declined)) => return Ended::answered(&Err(declined)),
            Err(failed) => failed,
        };
        let ticket = failed.ticket().cloned();
        let ending = match &failed {
            CallFailure::InDoubt(_) => Ending::InDoubt,
            // It is resumed, so that nobody was told anything final.
            _ => Ending::Unknown,
        };
        Ended {
            ending,
            attempts: 1,
            ticket,
        }
    }
}

// === impl Seen ===

impl Seen {
    pub(super) fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    pub(super) fn replayed(&self) -> u64 {
        self.replayed.load(Ordering::Relaxed)
    }
}

// === impl Ended ===

impl Ended {
    fn answered(result: &Result<Receipt, Declined>) -> Self {
        Self {
            ending: told(result),
            attempts: 1,
            ticket: None,
        }
    }
}

/// The answer as the ledger compares it with the effect.
pub(super) fn receipt_text(receipt: &Receipt) -> String {
    let Receipt {
        entry,
        from_balance,
        to_balance,
    } = receipt;
    format!("entry {entry}, balances {from_balance} and {to_balance}")
}

fn told(result: &Result<Receipt, Declined>) -> Ending {
    match result {
        Ok(receipt) => Ending::Answered(receipt_text(receipt).into()),
        Err(Declined::NoFunds) => Ending::Declined("no funds".into()),
    }
}

fn channel_options() -> ChannelOptions {
    ChannelOptions {
        connect_timeout: ATTEMPT,
        ..ChannelOptions::default()
    }
}

/// Far above what a healthy call takes here, so that a lost answer costs little of the run.
const ATTEMPT: Duration = Duration::from_millis(400);

const CALL: Duration = Duration::from_secs(5);

const ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(3);

const PAUSE: Duration = Duration::from_millis(20);
