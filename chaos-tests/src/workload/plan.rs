//! Who asks for what, in which order, and who goes down when.

use std::collections::BTreeMap;

use super::order::{Demand, Order};
use crate::scenario::{Mode, Scenario, Workload};
use crate::seed::Seed;

/// All calls of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// What is on the accounts in the beginning.
    pub opening: BTreeMap<String, i64>,
    /// The calls, in the order of their ordinals. A client makes its own ones one after the other;
    /// clients go side by side.
    pub calls: Vec<PlannedCall>,
    /// Who goes down, in the order in which they do. These are part of the workload; faults of the
    /// scenario come on top.
    pub outages: Vec<PlannedOutage>,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
// Exhaustive: tests build them.
pub struct PlannedCall {
    /// Its ordinal, from 1.
    pub call: u64,
    /// Which client makes it, from 1.
    pub client: u32,
    /// Its idempotency key. Twins, and calls that use a key for something else, share one.
    pub key: String,
    /// What it asks for: an [`Order`] as bytes.
    pub payload: Vec<u8>,
}

/// Somebody goes down and comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
// Exhaustive: tests build them.
pub struct PlannedOutage {
    /// When so many calls of the run have ended. Counted, not timed: a simulation and a real machine
    /// take different times for the same calls.
    pub after_calls: u64,
    /// Who: `server-1`, `client-3`.
    pub who: String,
    /// How long it stays down, in milliseconds.
    pub back_after_ms: u64,
}

// === impl Plan ===

impl Plan {
    /// The calls of a scenario, which follow from the seed alone.
    ///
    /// The naive control has no keys, and so neither twins nor keys that are used twice: what is
    /// duplicated there was duplicated by faults.
    #[must_use]
    pub fn new(scenario: &Scenario, seed: Seed) -> Self {
        let seed = seed.derive(&[WORKLOAD]);
        let clients = u64::from(scenario.clients);
        let mut calls: Vec<PlannedCall> = Vec::with_capacity(scenario.calls as usize);
        for call in 1..=scenario.calls {
            let draw = |about| seed.draw(&[CALL, call, about]);
            let client = (call - 1) % clients + 1;
            let naive = scenario.mode == Mode::Naive;
            let repeats =
                !naive && !matches!(scenario.workload, Workload::HotKey | Workload::Refunds);
            let share = draw(WHICH).unit();
            let (key, payload) = match calls.len().checked_sub(1) {
                // A twin of one that may still be under way, or that is over for long.
                Some(last) if repeats && share < TWINS => {
                    let twin = &calls[draw(WHOSE).within(0..=last as u64) as usize];
                    (twin.key.clone(), twin.payload.clone())
                }
                // Somebody who uses a key for something else: it must be refused.
                Some(last) if repeats && share < TWINS + POISON => {
                    let other = &calls[draw(WHOSE).within(0..=last as u64) as usize];
                    (other.key.clone(), order(scenario, seed, call, &other.key))
                }
                _ => {
                    let key = match scenario.workload {
                        Workload::HotKey if !naive => "hot".to_owned(),
                        _ => format!("k{call}"),
                    };
                    let payload = order(scenario, seed, call, &key);
                    (key, payload)
                }
            };
            // OK because there are at most `clients` of them, which is a `u32`.
            let client = u32::try_from(client).unwrap_or(u32::MAX);
            calls.push(PlannedCall {
                call,
                client,
                key,
                payload,
            });
        }
        let opening = match scenario.workload {
            Workload::Mailbox => BTreeMap::new(),
            _ => (1..=ACCOUNTS)
                .map(|account| (format!("a{account}"), OPENING))
                .collect(),
        };
        Self {
            opening,
            calls,
            outages: outages(scenario, seed),
        }
    }

    /// The calls of one client, in the order in which it makes them.
    pub fn of_client(&self, client: u32) -> impl Iterator<Item = &PlannedCall> {
        self.calls.iter().filter(move |call| call.client == client)
    }
}

fn order(scenario: &Scenario, seed: Seed, call: u64, key: &str) -> Vec<u8> {
    let draw = |about| seed.draw(&[ORDER, call, about]);
    let account = |about| format!("a{}", draw(about).within(1..=ACCOUNTS));
    // Some ask for more than there is: "no" is an answer as well, and must stay the same.
    let amount = if draw(1).happens(DECLINED) {
        TOO_MUCH
    } else {
        draw(2).within(1..=50)
    };
    let demand = match scenario.workload {
        Workload::Mailbox => Demand::Append {
            mailbox: format!("box{}", draw(3).within(1..=MAILBOXES)),
            line: format!("line{call}"),
        },
        // Every third call gives back what one of the last ones took.
        Workload::Refunds if call.is_multiple_of(3) => Demand::Refund {
            charge: format!("k{}", call - draw(4).within(1..=2)),
        },
        Workload::Refunds => Demand::Charge {
            account: account(5),
            amount,
        },
        // All callers of the one key want the same.
        Workload::HotKey => Demand::Transfer {
            from: "a1".into(),
            to: "a2".into(),
            amount: 30,
        },
        Workload::Outbox | Workload::RollingRestarts | Workload::Transfers => {
            let from = draw(6).within(1..=ACCOUNTS);
            let to = (from + draw(7).within(1..=ACCOUNTS - 1) - 1) % ACCOUNTS + 1;
            Demand::Transfer {
                from: format!("a{from}"),
                to: format!("a{to}"),
                amount,
            }
        }
    };
    Order {
        reference: key.to_owned(),
        demand,
    }
    .to_bytes()
}

fn outages(scenario: &Scenario, seed: Seed) -> Vec<PlannedOutage> {
    let calls = scenario.calls;
    let who: Vec<String> = match scenario.workload {
        // Half of the clients go down once, at least one of them.
        Workload::Outbox => (1..=scenario.clients.div_ceil(2))
            .map(|client| format!("client-{client}"))
            .collect(),
        Workload::RollingRestarts => (1..=SERVERS)
            .map(|server| format!("server-{server}"))
            .collect(),
        Workload::HotKey | Workload::Mailbox | Workload::Refunds | Workload::Transfers => {
            Vec::new()
        }
    };
    let parts = who.len() as u64 + 1;
    let outage = |(at, who): (u64, String)| PlannedOutage {
        // Nobody goes down before anything was asked.
        after_calls: (calls * at / parts).max(1),
        who,
        back_after_ms: seed.draw(&[OUTAGE, at]).within(50..=500),
    };
    (1..).zip(who).map(outage).collect()
}

const ACCOUNTS: u64 = 8;
const MAILBOXES: u64 = 4;

/// So much that a run never empties an account by asking for small amounts.
const OPENING: i64 = 1_000_000;
const TOO_MUCH: u64 = 1_000_000_000;

/// How many servers a rolling restart goes through; one that has fewer takes the ordinals round.
const SERVERS: u64 = 3;

// Shares of the calls.
const DECLINED: f64 = 0.05;
const POISON: f64 = 0.02;
const TWINS: f64 = 0.05;

// What is drawn.
const WORKLOAD: u64 = 0x776f_726b;
const CALL: u64 = 1;
const ORDER: u64 = 2;
const OUTAGE: u64 = 3;
const WHICH: u64 = 1;
const WHOSE: u64 = 2;
