//! Clients over real sockets: in the executor's process, or in one of their own.

use std::io::Write as _;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_chaos::goals::{Registry, situations};
use onlyonce_chaos::history::{Ending, Event, Happened};
use onlyonce_chaos::scenario::Workload;
use onlyonce_chaos::{Seed, sometimes};
use onlyonce_middleware::client::{
    AttemptTimeoutLayer, Backoff, BackoffOptions, EnforceDeadlineLayer, RetryBudget, Ticket,
};
use onlyonce_middleware::stack;
use onlyonce_storage::IdempotencyKey;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::naive::Naive;
use super::transfer::{Declined, Receipt, TRANSFER, Transfer};
use crate::rpc::{
    CallFailure, Channel, ChannelOptions, Client, ClientAdapter, Reply, Request, Status,
};

/// What the clients are told.
#[derive(Clone, Debug)]
pub struct ChaosClientsOptions {
    /// The server, or what is in front of it.
    pub address: String,
    /// What the calls follow from.
    pub seed: u64,
    /// What they do.
    pub workload: Workload,
    /// How many calls.
    pub calls: u64,
    /// How many clients, each with a connection of its own.
    pub clients: u32,
    /// How long an attempt waits, in milliseconds.
    pub attempt_ms: u64,
    /// How long a call goes on, in milliseconds.
    pub deadline_ms: u64,
    /// Retry as people write it: the same request again, which nothing dedupes.
    pub naive: bool,
}

/// Where clients say what happens: call, attempt, what; and which situations arose.
#[derive(Clone)]
pub(super) struct Ears {
    pub(super) say: Arc<dyn Fn(u64, u32, Happened) + Send + Sync>,
    pub(super) goals: Registry,
}

/// A line of the clients' process that is no event: every call has ended once.
pub(super) const ALL_ENDED: &str = "all-ended";

/// What begins a line that counts a situation.
pub(super) const GOAL: &str = "goal ";

/// Runs them in this process: events go to standard output, a line each. When every call has ended
/// it waits for a line on standard input before it resumes what is open, and ends when its input
/// does.
///
/// # Errors
///
/// When a client fails in itself.
pub async fn run(options: ChaosClientsOptions) -> Result<(), Box<dyn std::error::Error>> {
    let began = tokio::time::Instant::now();
    let goals = Registry::default();
    let say = Arc::new(move |call: u64, attempt: u32, what: Happened| {
        let at_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let event = Event {
            at_us,
            call,
            attempt,
            what,
        };
        // OK because an event has no map with keys that are no text.
        let line = serde_json::to_string(&event).unwrap_or_default();
        // OK because without anybody who listens this process ends anyway.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    });
    let ears = Ears {
        say,
        goals: goals.clone(),
    };
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let open = tokio::select! {
        open = call_all(&options, &ears) => open?,
        // Whoever started this is gone.
        _ = input.next_line() => return Ok(()),
    };
    writeln!(std::io::stdout().lock(), "{ALL_ENDED}")?;
    if input.next_line().await?.is_some() {
        tokio::select! {
            resumed = resume_all(&options, open, &ears) => resumed?,
            _ = input.next_line() => {}
        }
    }
    for (goal, count) in goals.goals().iter() {
        writeln!(std::io::stdout().lock(), "{GOAL}{count} {goal}")?;
    }
    Ok(())
}

/// A call that nobody knows the outcome of.
pub(super) struct Open {
    call: u64,
    ticket: Ticket,
    transfer: Transfer,
}

/// Makes all calls, each client one after another, and gives what is open afterwards.
pub(super) async fn call_all(
    options: &ChaosClientsOptions,
    ears: &Ears,
) -> Result<Vec<Open>, tokio::task::JoinError> {
    let next = Arc::new(AtomicU64::new(1));
    let mut working = JoinSet::new();
    for number in 1..=options.clients {
        let (next, options) = (Arc::clone(&next), options.clone());
        let one = AnyClient::new(number, &options, ears);
        working.spawn(async move {
            let mut open = Vec::new();
            loop {
                let call = next.fetch_add(1, Ordering::Relaxed);
                if call > options.calls {
                    return open;
                }
                let transfer = Transfer::of(Seed::new(options.seed), options.workload, call);
                open.extend(one.call(call, transfer).await);
            }
        });
    }
    let mut open = Vec::new();
    while let Some(left) = working.join_next().await {
        open.extend(left?);
    }
    Ok(open)
}

/// Goes on with what is open, once, under the same keys. Naive clients do not.
pub(super) async fn resume_all(
    options: &ChaosClientsOptions,
    open: Vec<Open>,
    ears: &Ears,
) -> Result<(), tokio::task::JoinError> {
    if options.naive {
        return Ok(());
    }
    let open = Arc::new(parking_lot::Mutex::new(open));
    let mut working = JoinSet::new();
    for number in 1..=options.clients {
        let (open, one) = (Arc::clone(&open), One::new(number, options, ears));
        working.spawn(async move {
            loop {
                let Some(next) = open.lock().pop() else {
                    return;
                };
                one.make(next.call, next.ticket, next.transfer).await;
            }
        });
    }
    while let Some(ended) = working.join_next().await {
        ended?;
    }
    Ok(())
}

/// One of either kind.
enum AnyClient {
    Keyed(One),
    Naive(Naive),
}

// === impl AnyClient ===

impl AnyClient {
    fn new(number: u32, options: &ChaosClientsOptions, ears: &Ears) -> Self {
        match options.naive {
            true => Self::Naive(Naive::new(number, options, ears)),
            false => Self::Keyed(One::new(number, options, ears)),
        }
    }

    async fn call(&self, call: u64, transfer: Transfer) -> Option<Open> {
        match self {
            Self::Keyed(client) => client.call(call, transfer).await,
            Self::Naive(client) => {
                client.call(call, transfer).await;
                None
            }
        }
    }
}

/// One client of ours.
struct One {
    number: u32,
    client: Client,
    /// The call that is under way: a client has one.
    current: Arc<AtomicU64>,
    ears: Ears,
}

// === impl One ===

impl One {
    fn new(number: u32, options: &ChaosClientsOptions, ears: &Ears) -> Self {
        let attempt = Duration::from_millis(options.attempt_ms);
        let current = Arc::new(AtomicU64::new(0));
        let (sending, told) = (Arc::clone(&current), ears.clone());
        let heard = ears.goals.clone();
        let channel_options = ChannelOptions {
            connect_timeout: attempt,
            ..ChannelOptions::default()
        };
        let transport = Channel::new(options.address.as_str(), channel_options).map_request(
            move |request: Request| {
                let attempt = request
                    .stamp
                    .as_ref()
                    .map_or(1, |stamp| stamp.attempt.get());
                let call = sending.load(Ordering::Relaxed);
                (told.say)(call, attempt, Happened::Sent);
                sometimes!(told.goals, attempt > 1, TRIED_AGAIN);
                request
            },
        );
        let transport = transport.map_response(move |reply: Reply| {
            let known = matches!(reply.status, Status::Replayed | Status::Attached);
            sometimes!(heard, known, REPLY_LOST);
            reply
        });
        let backoff = BackoffOptions {
            base: Duration::from_millis(20),
            factor: 2,
            cap: BACKOFF_CAP,
        };
        let layers = stack::client(ClientAdapter)
            .with_deadline(
                EnforceDeadlineLayer::new()
                    .with_timeout(Duration::from_millis(options.deadline_ms)),
            )
            .with_attempt_timeout(AttemptTimeoutLayer::new().with_timeout(attempt))
            .with_retry(|retry| {
                let retry = retry
                    .with_attempts_max(ATTEMPTS_MAX)
                    .with_budget(RetryBudget::unlimited());
                match Backoff::new(backoff) {
                    Ok(backoff) => retry.with_backoff(backoff),
                    Err(_) => retry,
                }
            });
        Self {
            number,
            client: Client::with_stack(transport, layers),
            current,
            ears: ears.clone(),
        }
    }

    /// One call from its beginning; what is to be resumed if it is open.
    async fn call(&self, call: u64, transfer: Transfer) -> Option<Open> {
        let (client, key) = (self.number, transfer.key.clone());
        let payload = transfer.payload();
        (self.ears.say)(
            call,
            0,
            Happened::Invoked {
                client,
                key,
                payload,
            },
        );
        let key = IdempotencyKey::derived("chaos transfer", transfer.key.as_bytes());
        self.make(call, Ticket::new(key), transfer).await
    }

    async fn make(&self, call: u64, ticket: Ticket, transfer: Transfer) -> Option<Open> {
        self.current.store(call, Ordering::Relaxed);
        let ended = self.client.resume(ticket, &TRANSFER, &transfer).await;
        let (ending, ticket) = told(ended);
        (self.ears.say)(call, 0, Happened::Ended { ending });
        ticket.map(|ticket| Open {
            call,
            ticket,
            transfer,
        })
    }
}

/// What the caller knows now; with a ticket where the call is open.
fn told(ended: Result<Receipt, CallFailure<Declined>>) -> (Ending, Option<Ticket>) {
    let failed = match ended {
        Ok(receipt) => return (Ending::Answered(receipt.answer()), None),
        Err(CallFailure::Fault(Declined::NoFunds)) => {
            return (Ending::Declined(b"no funds".to_vec()), None);
        }
        Err(failed) => failed,
    };
    let ticket = failed.ticket().cloned();
    match failed {
        CallFailure::InDoubt(_) => (Ending::InDoubt, None),
        CallFailure::NotExecuted(_) => (Ending::Refused, None),
        CallFailure::Refused { ticket, .. } if !ticket.maybe_executed => (Ending::Refused, None),
        _ => (Ending::Unknown, ticket),
    }
}

/// The deadline ends a call, not the number of its attempts.
const ATTEMPTS_MAX: NonZeroU32 = NonZeroU32::MIN.saturating_add(999);

/// A run lasts for a minute or two: a client that waits longer meets nothing.
const BACKOFF_CAP: Duration = Duration::from_millis(500);

/// The server had executed it before this attempt came.
const REPLY_LOST: &str = situations::REPLY_LOST;

pub(super) const TRIED_AGAIN: &str = situations::RETRIED;
