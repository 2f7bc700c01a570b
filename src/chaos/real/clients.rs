//! Clients over real sockets: in the executor's process, or in one of their own.

use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use onlyonce_chaos::goals::{Registry, situations};
use onlyonce_chaos::history::{Ending, Event, Happened};
use onlyonce_chaos::scenario::Workload;
use onlyonce_chaos::{Seed, sometimes};
use onlyonce_middleware::client::{
    AttemptTimeoutLayer, Backoff, BackoffOptions, EnforceDeadlineLayer, RetryBudget, Ticket,
};
use onlyonce_middleware::stack::{self, ClientStack};
use onlyonce_storage::IdempotencyKey;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::commits;
use super::naive::Naive;
use super::order::{Asked, Declined, ORDER, Receipt};
use super::outbox;
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
    /// When the run began, in microseconds of the clock that all processes of a machine share (that of
    /// `CLOCK_MONOTONIC`).
    pub began_us: u64,
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
    /// Where they keep what they know, so that they can be killed and started again. Without it what
    /// they know dies with their process.
    pub folder: Option<PathBuf>,
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
    let began_us = options.began_us;
    let goals = Registry::default();
    let say = Arc::new(move |call: u64, attempt: u32, what: Happened| {
        let at_us = commits::now_us().saturating_sub(began_us);
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
    let calling = async {
        Ok::<_, outbox::Failed>(match &options.folder {
            Some(folder) => AnyOpen::Kept(outbox::call_all(&options, folder, &ears).await?),
            None => AnyOpen::Known(call_all(&options, &ears).await?),
        })
    };
    let open = tokio::select! {
        open = calling => open.map_err(|error| -> Box<dyn std::error::Error> { error })?,
        // Whoever started this is gone.
        _ = input.next_line() => return Ok(()),
    };
    writeln!(std::io::stdout().lock(), "{ALL_ENDED}")?;
    if input.next_line().await?.is_some() {
        let resuming = async {
            match open {
                AnyOpen::Kept(open) => outbox::resume_all(open).await,
                AnyOpen::Known(open) => Ok(resume_all(&options, open, &ears).await?),
            }
        };
        tokio::select! {
            resumed = resuming => resumed.map_err(|error| -> Box<dyn std::error::Error> { error })?,
            _ = input.next_line() => {}
        }
    }
    for (goal, count) in goals.goals().iter() {
        writeln!(std::io::stdout().lock(), "{GOAL}{count} {goal}")?;
    }
    Ok(())
}

/// What is open, in memory or in outboxes.
enum AnyOpen {
    Kept(outbox::Open),
    Known(Vec<Open>),
}

/// A call that nobody knows the outcome of.
pub(super) struct Open {
    call: u64,
    ticket: Ticket,
    asked: Asked,
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
                let asked = Asked::of(Seed::new(options.seed), options.workload, call);
                open.extend(one.call(call, asked).await);
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
                one.make(next.call, next.ticket, next.asked).await;
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

    async fn call(&self, call: u64, asked: Asked) -> Option<Open> {
        match self {
            Self::Keyed(client) => client.call(call, asked).await,
            Self::Naive(client) => {
                client.call(call, asked).await;
                None
            }
        }
    }
}

/// One client of ours.
///
/// Those with odd numbers call in sessions: the server may forget a call once it is answered, and a
/// copy of it that comes later is refused. Nobody else uses the key of such a call, so that there are
/// none where all calls have one key.
struct One {
    number: u32,
    client: Client,
    in_sessions: bool,
    /// The call that is under way: a client has one.
    current: Arc<AtomicU64>,
    ears: Ears,
}

// === impl One ===

impl One {
    fn new(number: u32, options: &ChaosClientsOptions, ears: &Ears) -> Self {
        let current = Arc::new(AtomicU64::new(0));
        let (sending, told) = (Arc::clone(&current), ears.clone());
        let heard = ears.goals.clone();
        let numbered = Arc::new(AtomicU32::new(0));
        let made = Arc::clone(&numbered);
        let of_many = options.workload == Workload::HotKey;
        let overheard = move |channel: Channel| {
            let requests = channel.map_request(move |request: Request| {
                let attempt = request
                    .stamp
                    .as_ref()
                    .map_or(1, |stamp| stamp.attempt.get());
                let call = sending.load(Ordering::Relaxed);
                numbered.store(attempt, Ordering::Relaxed);
                (told.say)(call, attempt, Happened::Sent);
                sometimes!(told.goals, attempt > 1, TRIED_AGAIN);
                request
            });
            requests.map_response(move |reply: Reply| {
                // Of a key that many have, another one's call may have been answered.
                let again = made.load(Ordering::Relaxed) > 1 && !of_many;
                let known = again && reply.status == Status::Replayed;
                sometimes!(heard, known, REPLY_LOST);
                reply
            })
        };
        let in_sessions = number % 2 == 1 && options.workload != Workload::HotKey;
        let (channel, layers) = (channel(options), layers(options));
        Self {
            number,
            client: match in_sessions {
                true => Client::in_sessions_through(&channel, layers, overheard),
                false => Client::with_stack(overheard(channel), layers),
            },
            in_sessions,
            current,
            ears: ears.clone(),
        }
    }

    /// One call from its beginning; what is to be resumed if it is open.
    async fn call(&self, call: u64, asked: Asked) -> Option<Open> {
        let (client, key) = (self.number, asked.key.clone());
        let payload = asked.order.clone();
        (self.ears.say)(
            call,
            0,
            Happened::Invoked {
                client,
                key,
                payload,
            },
        );
        let key = IdempotencyKey::derived("chaos order", asked.key.as_bytes());
        if !self.in_sessions {
            return self.make(call, Ticket::new(key), asked).await;
        }
        self.current.store(call, Ordering::Relaxed);
        let ticket = Ticket::never_sent(key);
        let ended = self.client.call_once_as(ticket, &ORDER, &asked).await;
        let is_answered = ended.is_ok();
        let open = self.end(call, ended, asked);
        if is_answered {
            // What is answered the next call acknowledges, or a word of its own.
            (self.ears.say)(call, 0, Happened::Acknowledged);
        }
        open
    }

    async fn make(&self, call: u64, ticket: Ticket, asked: Asked) -> Option<Open> {
        self.current.store(call, Ordering::Relaxed);
        let ended = self.client.resume(ticket, &ORDER, &asked).await;
        self.end(call, ended, asked)
    }

    fn end(
        &self,
        call: u64,
        ended: Result<Receipt, CallFailure<Declined>>,
        asked: Asked,
    ) -> Option<Open> {
        let (ending, ticket) = told(ended);
        (self.ears.say)(call, 0, Happened::Ended { ending });
        ticket.map(|ticket| Open {
            call,
            ticket,
            asked,
        })
    }
}

/// A connection of one client's own.
pub(super) fn channel(options: &ChaosClientsOptions) -> Channel {
    let channel_options = ChannelOptions {
        connect_timeout: Duration::from_millis(options.attempt_ms),
        ..ChannelOptions::default()
    };
    Channel::new(options.address.as_str(), channel_options)
}

/// Our layers, with the scenario's times: the deadline ends a call.
pub(super) fn layers(options: &ChaosClientsOptions) -> ClientStack<ClientAdapter> {
    let attempt = Duration::from_millis(options.attempt_ms);
    let backoff = BackoffOptions {
        base: Duration::from_millis(20),
        factor: 2,
        cap: BACKOFF_CAP,
    };
    stack::client(ClientAdapter)
        .with_deadline(
            EnforceDeadlineLayer::new().with_timeout(Duration::from_millis(options.deadline_ms)),
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
        })
}

/// What the caller knows now; with a ticket where the call is open.
fn told(ended: Result<Receipt, CallFailure<Declined>>) -> (Ending, Option<Ticket>) {
    let failed = match ended {
        Ok(receipt) => return (Ending::Answered(receipt.answer()), None),
        Err(CallFailure::Fault(Declined { why })) => return (Ending::Declined(why), None),
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
pub(super) const REPLY_LOST: &str = situations::REPLY_LOST;

pub(super) const TRIED_AGAIN: &str = situations::RETRIED;
