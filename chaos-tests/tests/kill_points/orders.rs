//! What is called, and how each call shall go.

use onlyonce::rpc::Method;
use serde::{Deserialize, Serialize};

pub const PAY: Method<Order, Receipt, Declined> = Method::new("till.pay");

/// The same with the effect in the server's own store.
pub const BOOK: Method<Order, Receipt, Declined> = Method::new("store.book");

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub operation: u64,
}

/// Its entry is a new one for every effect: an answer that comes twice was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub entry: u64,
    /// Some answers are longer than what a store writes in one piece.
    pub paper: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declined;

/// How the handler shall end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Decline,
    /// It pays and then says that it does not know.
    Doubt,
    Pay,
    /// It executes nothing the first time that this process sees the call.
    Refuse,
    /// It pays after longer than a lease goes without renewal.
    Slow,
}

// === impl Receipt ===

impl Receipt {
    pub fn new(operation: u64, entry: u64) -> Self {
        let lines = if operation % 6 == 5 { 500 } else { 0 };
        let paper = format!("entry {entry} of operation {operation}\n").repeat(lines);
        Self { entry, paper }
    }
}

// === impl Order ===

impl Order {
    pub const fn wish(self) -> Wish {
        match self.operation % 12 {
            2 => Wish::Refuse,
            // Once: others are served meanwhile.
            4 if self.operation < 12 => Wish::Slow,
            7 => Wish::Doubt,
            9 => Wish::Decline,
            _ => Wish::Pay,
        }
    }

    /// Whether its effect lies in the server's store. Some follow one another, so that they meet.
    pub const fn is_booked(self) -> bool {
        matches!(self.operation % 12, 0 | 10 | 11)
    }

    pub const fn method(self) -> Method<Self, Receipt, Declined> {
        if self.is_booked() { BOOK } else { PAY }
    }

    /// Whether two clients make this call at once.
    pub const fn has_twin(self) -> bool {
        self.operation.is_multiple_of(4)
    }

    /// Whether it is made once, in a session, under a key that nobody else has. The others are made
    /// as by any client.
    pub const fn is_in_session(self) -> bool {
        self.operation.is_multiple_of(3) && !self.has_twin() && !self.is_asked_about()
    }

    /// Whether a second client asks what became of it all the while.
    pub const fn is_asked_about(self) -> bool {
        self.operation % 5 == 1
    }
}
