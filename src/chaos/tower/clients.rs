//! The clients' side: our layers, or retries as people write them.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_chaos::executor::HarnessError;
use onlyonce_chaos::history::{Ending, Happened};
use onlyonce_chaos::scenario::{Mode, Scenario};
use onlyonce_chaos::workload::{Plan, PlannedCall};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

use super::Run;
use super::link::Link;
use super::server::{ORDER, Server};
use crate::middleware::client::{AttemptTimeoutLayer, EnforceDeadlineLayer, Ticket};
use crate::middleware::stack;
use crate::rpc::{CallFailure, Client, ClientAdapter, Request, value};
use crate::storage::IdempotencyKey;

/// One client, and what it has written down: what is over outlives its process.
#[derive(Clone)]
struct Caller {
    run: Run,
    server: Server,
    scenario: Arc<Scenario>,
    calls: Arc<Vec<PlannedCall>>,
    over: Arc<Mutex<BTreeSet<u64>>>,
    ended: Arc<watch::Sender<u64>>,
}

/// Makes all calls of the plan, and comes back when every one has ended.
pub(super) async fn run(
    run: &Run,
    scenario: &Scenario,
    plan: &Arc<Plan>,
    server: &Server,
) -> Result<(), HarnessError> {
    let ended = Arc::new(watch::channel(0_u64).0);
    let scenario = Arc::new(scenario.clone());
    let mut clients = JoinSet::new();
    for number in 1..=scenario.clients {
        let caller = Caller {
            run: run.clone(),
            server: server.clone(),
            scenario: Arc::clone(&scenario),
            calls: Arc::new(plan.of_client(number).cloned().collect()),
            over: Arc::default(),
            ended: Arc::clone(&ended),
        };
        let outages = plan
            .outages
            .iter()
            .filter(|outage| outage.who == format!("client-{number}"));
        let outages: Vec<_> = outages
            .map(|outage| (outage.after_calls, outage.back_after_ms))
            .collect();
        clients.spawn(caller.lives(number, outages));
    }
    let mut open = Vec::new();
    while let Some(client) = clients.join_next().await {
        open.extend(client.map_err(HarnessError::other)?);
    }
    // What nobody knows yet is asked for again when nothing strikes any more. Naive retries cannot
    // ask: they could only do it once more.
    if scenario.mode != Mode::Naive {
        run.end_faults();
        for (caller, call) in open {
            caller.make(&call).await;
        }
    }
    Ok(())
}

// === impl Caller ===

impl Caller {
    /// All lives of its process. What comes back are the calls of which it knows nothing.
    async fn lives(self, number: u32, outages: Vec<(u64, u64)>) -> Vec<(Self, PlannedCall)> {
        let who = format!("client-{number}");
        let lifecycle = |event: &str| {
            let (who, event) = (who.clone(), event.to_owned());
            self.run.note(0, 0, Happened::Lifecycle { who, event });
        };
        let mut open = Vec::new();
        for (after_calls, back_after_ms) in outages {
            let mut ended = self.ended.subscribe();
            // The sender is in `self`, so that it cannot be gone.
            let due = ended.wait_for(|ended| *ended >= after_calls);
            tokio::select! {
                () = self.live(&mut open) => return self.with(open),
                _ = due => {}
            }
            lifecycle("killed");
            sleep(Duration::from_millis(back_after_ms)).await;
            lifecycle("started");
        }
        self.live(&mut open).await;
        self.with(open)
    }

    fn with(&self, open: Vec<PlannedCall>) -> Vec<(Self, PlannedCall)> {
        open.into_iter().map(|call| (self.clone(), call)).collect()
    }

    async fn live(&self, open: &mut Vec<PlannedCall>) {
        for call in self.calls.iter() {
            if self.over.lock().contains(&call.call) {
                continue;
            }
            let pause = self.run.seed().draw(&[PAUSES, call.call]).within(0..=20);
            sleep(Duration::from_millis(pause)).await;
            if self.make(call).await == Ending::Unknown {
                open.push(call.clone());
            }
            self.over.lock().insert(call.call);
            self.ended.send_modify(|ended| *ended += 1);
        }
    }

    async fn make(&self, planned: &PlannedCall) -> Ending {
        let call = planned.call;
        self.run.note(
            call,
            0,
            Happened::Invoked {
                client: planned.client,
                key: planned.key.clone(),
                payload: planned.payload.clone(),
            },
        );
        let link = Link {
            run: self.run.clone(),
            server: self.server.clone(),
            call,
        };
        let ending = if self.scenario.mode == Mode::Naive {
            self.naive(link, planned).await
        } else {
            self.keyed(link, planned).await
        };
        let told = ending.clone();
        self.run.note(call, 0, Happened::Ended { ending: told });
        ending
    }

    async fn keyed(&self, link: Link, planned: &PlannedCall) -> Ending {
        let stack = stack::client(ClientAdapter)
            .with_deadline(EnforceDeadlineLayer::new().with_timeout(self.deadline()))
            .with_attempt_timeout(AttemptTimeoutLayer::new().with_timeout(self.attempt()))
            .with_retry(|retry| retry.with_attempts_max(ATTEMPTS_MAX));
        let client = Client::with_stack(link, stack);
        let Ok(key) = IdempotencyKey::parse(&planned.key) else {
            return Ending::Unknown;
        };
        match client
            .resume(Ticket::never_sent(key), &ORDER, &planned.payload)
            .await
        {
            Ok(answer) => Ending::Answered(answer),
            Err(CallFailure::Fault(answer)) => Ending::Declined(answer),
            Err(CallFailure::InDoubt(_)) => Ending::InDoubt,
            Err(CallFailure::NotExecuted(_)) => Ending::Refused,
            Err(CallFailure::Refused { ticket, .. }) if !ticket.maybe_executed => Ending::Refused,
            // A key that belongs to another request stays refused, also when it is asked again; what
            // one of its own attempts met before is still not known.
            Err(_) => Ending::Unknown,
        }
    }

    /// Each attempt is a request of its own, as long as nobody answers.
    async fn naive(&self, link: Link, planned: &PlannedCall) -> Ending {
        let Ok(arguments) = value::encode(&planned.payload) else {
            return Ending::Unknown;
        };
        let until = Instant::now() + self.deadline();
        for _ in 1..=ATTEMPTS_MAX.get() {
            let request = Request::new(ORDER.name(), arguments.clone());
            let answer = timeout(self.attempt(), link.clone().oneshot(request)).await;
            if let Ok(Ok(reply)) = answer
                && reply.status.carries_answer()
            {
                return match value::decode_result::<Vec<u8>, Vec<u8>>(&reply.body) {
                    Ok(Ok(answer)) => Ending::Answered(answer),
                    Ok(Err(answer)) => Ending::Declined(answer),
                    Err(_) => Ending::Unknown,
                };
            }
            if Instant::now() >= until {
                break;
            }
        }
        Ending::Unknown
    }

    fn deadline(&self) -> Duration {
        Duration::from_millis(self.scenario.deadline_ms)
    }

    fn attempt(&self) -> Duration {
        Duration::from_millis(self.scenario.attempt_ms)
    }
}

/// More than the deadline leaves room for: the deadline ends a call here.
const ATTEMPTS_MAX: NonZeroU32 = NonZeroU32::MIN.saturating_add(29);

const PAUSES: u64 = 0x636c_6965;
