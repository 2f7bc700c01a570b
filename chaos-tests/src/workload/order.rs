//! What one call asks for, and its bytes.

use std::fmt;

/// What one call asks for. As bytes it is a line of words: `k17 transfer a1 a2 30`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
// Exhaustive: services build their own.
pub struct Order {
    /// The name of the intent: the call's key. It is in the payload as well, so that the books of a
    /// service that knows of no keys say whose effect they hold.
    pub reference: String,
    /// What is to be done.
    pub demand: Demand,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
// Exhaustive: a service must know them all.
pub enum Demand {
    /// A line goes to the end of a mailbox; the answer is its place.
    Append {
        /// Which mailbox.
        mailbox: String,
        /// What is in the line, one word.
        line: String,
    },
    /// An amount goes from an account to the shop.
    Charge {
        /// Whose account.
        account: String,
        /// How much.
        amount: u64,
    },
    /// What a charge has taken is given back, once.
    Refund {
        /// The reference of the charge.
        charge: String,
    },
    /// An amount goes from one account to another.
    Transfer {
        /// The account that has less afterwards.
        from: String,
        /// The account that has more afterwards.
        to: String,
        /// How much.
        amount: u64,
    },
}

/// A payload that is no order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no order: {0}")]
pub struct OrderError(String);

// === impl Order ===

impl Order {
    /// Reads a payload.
    ///
    /// # Errors
    ///
    /// When it is not what [`Order::to_bytes`] makes.
    pub fn parse(payload: &[u8]) -> Result<Self, OrderError> {
        let wrong = || OrderError(payload.escape_ascii().to_string());
        let text = std::str::from_utf8(payload).map_err(|_| wrong())?;
        let words: Vec<&str> = text.split(' ').collect();
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (reference, demand) = match words.as_slice() {
            [reference, "append", mailbox, line] => {
                let (mailbox, line) = ((*mailbox).into(), (*line).into());
                (reference, Demand::Append { mailbox, line })
            }
            [reference, "charge", account, amount] => {
                let (account, amount) = ((*account).into(), number(amount)?);
                (reference, Demand::Charge { account, amount })
            }
            [reference, "refund", charge] => {
                let charge = (*charge).into();
                (reference, Demand::Refund { charge })
            }
            [reference, "transfer", from, to, amount] => {
                let (from, to, amount) = ((*from).into(), (*to).into(), number(amount)?);
                (reference, Demand::Transfer { from, to, amount })
            }
            _ => return Err(wrong()),
        };
        Ok(Self {
            reference: (*reference).into(),
            demand,
        })
    }

    /// The payload of the call.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reference = &self.reference;
        match &self.demand {
            Demand::Append { mailbox, line } => write!(f, "{reference} append {mailbox} {line}"),
            Demand::Charge { account, amount } => {
                write!(f, "{reference} charge {account} {amount}")
            }
            Demand::Refund { charge } => write!(f, "{reference} refund {charge}"),
            Demand::Transfer { from, to, amount } => {
                write!(f, "{reference} transfer {from} {to} {amount}")
            }
        }
    }
}
