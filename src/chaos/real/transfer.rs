//! What is called: transfers between accounts, which follow from the seed.

use std::num::NonZeroU32;

use onlyonce_chaos::Seed;
use onlyonce_chaos::scenario::Workload;
use serde::{Deserialize, Serialize};

use crate::rpc::{Method, value};

/// What a client asks for. Its key goes into the books along with the effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transfer {
    /// The call's ordinal, for faults that are about one call.
    pub(super) call: u64,
    pub(super) key: String,
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) amount: i64,
    /// Which attempt this is where nothing else tells: naive clients say it here. Otherwise 0, on
    /// every attempt of a call.
    pub(super) attempt: u32,
}

/// The answer: the line in the books, and the balances behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receipt {
    pub(super) entry: u64,
    pub(super) from_balance: i64,
    pub(super) to_balance: i64,
}

/// Why a transfer is declined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Declined {
    NoFunds,
}

/// One effect, as the books have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) transfer: Transfer,
    pub(super) receipt: Receipt,
}

pub(super) const TRANSFER: Method<Transfer, Receipt, Declined> = Method::new("chaos.transfer");

// === impl Transfer ===

impl Transfer {
    /// What this call of the workload asks for.
    pub(super) fn of(seed: Seed, workload: Workload, call: u64) -> Self {
        // Of a hot key all calls are one.
        let intent = match workload {
            Workload::HotKey => 1,
            _ => call,
        };
        let draw = |what, last: u32| {
            let drawn = seed.draw(&[what, intent]).within(0..=u64::from(last));
            u32::try_from(drawn).unwrap_or(last)
        };
        let from = draw(FROM, ACCOUNTS - 1);
        Self {
            call: intent,
            key: format!("transfer-{}-{intent}", seed.value()),
            from,
            // Never to itself: one of the other accounts.
            to: (from + 1 + draw(TO, ACCOUNTS - 2)) % ACCOUNTS,
            amount: 1 + i64::from(draw(AMOUNT, 499)),
            attempt: 0,
        }
    }

    /// As histories and books compare it.
    pub(super) fn payload(&self) -> Vec<u8> {
        let Self {
            from, to, amount, ..
        } = self;
        format!("{amount} from {from} to {to}").into_bytes()
    }

    /// Which attempt it is, if the frame that carries it says this.
    pub(super) fn attempt_or(&self, framed: NonZeroU32) -> u32 {
        match self.attempt {
            0 => framed.get(),
            said => said,
        }
    }

    pub(super) fn legs(&self) -> Vec<(String, i64)> {
        vec![
            (account(self.from), -self.amount),
            (account(self.to), self.amount),
        ]
    }
}

// === impl Receipt ===

impl Receipt {
    /// As histories and books compare it.
    pub(super) fn answer(&self) -> Vec<u8> {
        let Self {
            entry,
            from_balance,
            to_balance,
        } = self;
        format!("entry {entry}, balances {from_balance} and {to_balance}").into_bytes()
    }
}

/// What these arguments are about, for whoever hears them go by.
pub(in super::super) fn call_and_attempt(
    arguments: &[u8],
    framed: NonZeroU32,
) -> Option<(u64, u32)> {
    let transfer: Transfer = value::decode(arguments).ok()?;
    Some((transfer.call, transfer.attempt_or(framed)))
}

/// The account's name in a history.
pub(super) fn account(number: u32) -> String {
    format!("account-{number}")
}

/// Many enough that transfers rarely meet, few enough that a wrong balance shows.
pub(super) const ACCOUNTS: u32 = 64;

/// What each account begins with: most transfers are covered, and some are not.
pub(super) const OPENING: i64 = 1_500;

const FROM: u64 = 1;
const TO: u64 = 2;
const AMOUNT: u64 = 3;
