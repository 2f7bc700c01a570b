//! What is called: orders to a bank, which follow from the seed.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use onlyonce_chaos::Seed;
use onlyonce_chaos::scenario::Workload;
use onlyonce_chaos::workload::{Demand, Order};
use serde::{Deserialize, Serialize};

use crate::rpc::{Method, value};

/// What a client asks for. Its key goes into the books along with the effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    /// The call's ordinal, for faults that are about one call.
    pub(super) call: u64,
    pub(super) key: String,
    /// An [`Order`] as bytes: the payload of the call, as histories and books compare it.
    pub(super) order: Vec<u8>,
    /// Which attempt this is where nothing else tells: naive clients say it here. Otherwise 0, on
    /// every attempt of a call.
    pub(super) attempt: u32,
}

/// The answer: the line in the books, and what the bank says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receipt {
    pub(super) entry: u64,
    pub(super) said: Vec<u8>,
}

/// Why an order is declined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Declined {
    pub(super) why: Vec<u8>,
}

/// One effect, as the books have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) asked: Asked,
    pub(super) receipt: Receipt,
    /// What it did to which account.
    pub(super) legs: Vec<(String, i64)>,
    /// What was on these accounts afterwards.
    pub(super) after: Vec<(String, i64)>,
}

pub(super) const ORDER: Method<Asked, Receipt, Declined> = Method::new("chaos.order");

// === impl Asked ===

impl Asked {
    /// What this call of the workload asks for.
    pub(super) fn of(seed: Seed, workload: Workload, call: u64) -> Self {
        // Of a hot key all calls are one.
        let intent = match workload {
            Workload::HotKey => 1,
            _ => call,
        };
        let draw = |what, last: u64| seed.draw(&[what, intent]).within(0..=last);
        let key = |call: u64| format!("order-{}-{call}", seed.value());
        let from = draw(FROM, ACCOUNTS - 1);
        let amount = 1 + draw(AMOUNT, 499);
        let demand = match workload {
            Workload::Mailbox => Demand::Append {
                mailbox: format!("box-{}", draw(FROM, MAILBOXES - 1)),
                line: format!("line-{intent}"),
            },
            // Every third call gives back what one of the last two took.
            Workload::Refunds if call.is_multiple_of(3) => Demand::Refund {
                charge: key(call - 1 - draw(TO, 1)),
            },
            Workload::Refunds => Demand::Charge {
                account: account(from),
                amount,
            },
            _ => Demand::Transfer {
                from: account(from),
                // Never to itself: one of the other accounts.
                to: account((from + 1 + draw(TO, ACCOUNTS - 2)) % ACCOUNTS),
                amount,
            },
        };
        let key = key(intent);
        let reference = key.clone();
        Self {
            call: intent,
            key,
            order: Order { reference, demand }.to_bytes(),
            attempt: 0,
        }
    }

    /// Which attempt it is, if the frame that carries it says this.
    pub(super) fn attempt_or(&self, framed: NonZeroU32) -> u32 {
        match self.attempt {
            0 => framed.get(),
            said => said,
        }
    }
}

// === impl Receipt ===

impl Receipt {
    /// As histories and books compare it.
    pub(super) fn answer(&self) -> Vec<u8> {
        let said = self.said.escape_ascii();
        format!("entry {}: {said}", self.entry).into_bytes()
    }
}

/// What these arguments are about, for whoever hears them go by.
pub(in super::super) fn call_and_attempt(
    arguments: &[u8],
    framed: NonZeroU32,
) -> Option<(u64, u32)> {
    let asked: Asked = value::decode(arguments).ok()?;
    Some((asked.call, asked.attempt_or(framed)))
}

/// What is on the accounts in the beginning. Mailboxes are empty, and the shop has nothing.
pub(super) fn opening() -> BTreeMap<String, i64> {
    (0..ACCOUNTS)
        .map(|number| (account(number), OPENING))
        .collect()
}

fn account(number: u64) -> String {
    format!("account-{number}")
}

/// Many enough that transfers rarely meet, few enough that a wrong balance shows.
const ACCOUNTS: u64 = 64;

const MAILBOXES: u64 = 4;

/// What each account begins with: most orders are covered, and some are not.
pub(super) const OPENING: i64 = 1_500;

const FROM: u64 = 1;
const TO: u64 = 2;
const AMOUNT: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(workload: Workload, call: u64) -> Demand {
        let asked = Asked::of(Seed::new(7), workload, call);
        Order::parse(&asked.order).unwrap().demand
    }

    #[test]
    fn a_refund_is_one_of_a_charge_that_was_asked_for_just_before() {
        for call in (3..300).step_by(3) {
            let Demand::Refund { charge } = demand(Workload::Refunds, call) else {
                panic!("call {call} is no refund");
            };
            let charges = [call - 1, call - 2];
            let keys = charges.map(|call| Asked::of(Seed::new(7), Workload::Refunds, call).key);
            assert!(keys.contains(&charge), "{charge} of {keys:?}");
            for call in charges {
                assert!(matches!(
                    demand(Workload::Refunds, call),
                    Demand::Charge { .. }
                ));
            }
        }
    }

    #[test]
    fn every_workload_asks_for_the_same_again_and_only_a_hot_key_for_one_thing() {
        for workload in Workload::ALL {
            let asked = |call| Asked::of(Seed::new(7), workload, call);
            assert_eq!(asked(5), asked(5), "{}", workload.name());
            let one = asked(5) == asked(6);
            assert_eq!(one, workload == Workload::HotKey, "{}", workload.name());
        }
    }
}
