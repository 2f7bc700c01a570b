//! The service that the orders are for, as a pure machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::order::{Demand, Order};

/// Accounts, mailboxes and charges: all that the orders of this crate need.
///
/// It does whatever it is told, as often as it is told: that duplicates do not reach it is what is
/// tested.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    accounts: BTreeMap<String, i64>,
    charges: BTreeMap<String, (String, u64)>,
}

/// What an order came to.
#[derive(Clone, Debug, PartialEq, Eq)]
// Exhaustive: an executor must tell both apart.
pub enum Reply {
    /// It was done.
    Applied {
        /// What the client is told.
        answer: Vec<u8>,
        /// What it did to which account, for the history.
        legs: Vec<(String, i64)>,
    },
    /// It was refused for good, and nothing was done.
    Declined {
        /// What the client is told.
        answer: Vec<u8>,
    },
}

// === impl Books ===

impl Books {
    /// Books that begin with this.
    #[must_use]
    pub const fn new(opening: BTreeMap<String, i64>) -> Self {
        Self {
            accounts: opening,
            charges: BTreeMap::new(),
        }
    }

    /// Does what the order says, once for each time that it is called.
    pub fn apply(&mut self, order: &Order) -> Reply {
        match &order.demand {
            Demand::Append { mailbox, line } => {
                let lines = self.accounts.entry(mailbox.clone()).or_default();
                *lines += 1;
                let answer = format!("{line} is line {lines} of {mailbox}");
                let legs = vec![(mailbox.clone(), 1)];
                let answer = answer.into_bytes();
                Reply::Applied { answer, legs }
            }
            Demand::Charge { account, amount } => {
                let reply = self.take(account, SHOP, *amount);
                if let Reply::Applied { .. } = reply {
                    let charge = (account.clone(), *amount);
                    self.charges.insert(order.reference.clone(), charge);
                }
                reply
            }
            Demand::Refund { charge } => match self.charges.remove(charge) {
                Some((account, amount)) => self.take(SHOP, &account, amount),
                None => declined(&format!("no charge {charge} to refund")),
            },
            Demand::Transfer { from, to, amount } => self.take(from, to, *amount),
        }
    }

    /// What is on the accounts, and how many lines are in the mailboxes.
    #[must_use]
    pub const fn accounts(&self) -> &BTreeMap<String, i64> {
        &self.accounts
    }

    fn take(&mut self, from: &str, to: &str, amount: u64) -> Reply {
        let here = self.accounts.get(from).copied().unwrap_or(0);
        let there = self.accounts.get(to).copied().unwrap_or(0);
        let Some((less, amount)) = i64::try_from(amount)
            .ok()
            .and_then(|amount| Some((here.checked_sub(amount)?, amount)))
            .filter(|&(less, amount)| less >= 0 && there.checked_add(amount).is_some())
        else {
            return declined("insufficient funds");
        };
        self.accounts.insert(from.to_owned(), less);
        *self.accounts.entry(to.to_owned()).or_default() += amount;
        // What is left is in the answer: who is answered again from a later state says so.
        Reply::Applied {
            answer: format!("{from} has {less}").into_bytes(),
            legs: vec![(from.to_owned(), -amount), (to.to_owned(), amount)],
        }
    }
}

fn declined(why: &str) -> Reply {
    let answer = why.as_bytes().to_vec();
    Reply::Declined { answer }
}

/// The account that charges go to.
pub const SHOP: &str = "shop";
