//! What the world looks like at one moment: small, and hashed by the million.

use std::collections::{BTreeMap, BTreeSet};

use onlyonce_storage::{FencingToken, Timestamp};

use crate::record::Row;

/// One moment. There is one key: two keys meet in nothing but quotas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Moment {
    /// Ticks since the beginning.
    pub tick: u8,
    pub stores: Vec<StoreHalf>,
    pub servers: Vec<Server>,
    pub callers: Vec<Caller>,
    pub outside: Outside,
    pub told: Told,
    pub faults: Faults,
}

/// The store of one key: what a crash cannot take, and what is decided and applied.
///
/// The two differ only where a mutant tells before it is durable: see `store.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreHalf {
    /// Its identity.
    pub id: u8,
    pub incarnation: u64,
    pub forgotten_until: Timestamp,
    pub applied: Option<Row>,
    pub durable: Option<Row>,
}

/// One process that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Server {
    /// Which store it is joined to.
    pub store: usize,
    /// What it executes, by the request's body: a flight is named by key and fingerprint.
    pub flights: BTreeMap<Body, Flight>,
}

/// One execution in a server, and who waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flight {
    /// The caller who began it, while it waits.
    pub lead: Option<usize>,
    /// The others who wait.
    pub waiting: BTreeSet<usize>,
    /// What the request said of its call.
    pub ticket: Ticket,
    pub step: Step,
}

/// Where an execution stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// A word to the store is under way. It may take for ever.
    Asking(Word),
    /// The handler runs under this claim; it has answered this far, or not at all.
    Running {
        token: FencingToken,
        effect: Option<Value>,
    },
}

/// What a server asks a store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Word {
    Claim,
    Complete {
        token: FencingToken,
        value: Value,
    },
    Doubt {
        token: FencingToken,
        value: Option<Value>,
    },
    /// What became of a claim that was refused as fenced.
    Fenced {
        token: FencingToken,
    },
    Release {
        token: FencingToken,
    },
}

/// A process of the client. All callers with the same body share the ticket of one call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller {
    pub body: Body,
    pub phase: Phase,
    /// How many attempts it has sent. Each may arrive anywhere, at any time, any number of times.
    pub attempts: u8,
    pub ticket: Option<Ticket>,
}

/// Where a caller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// It has an answer, or gave up.
    Ended,
    Fresh,
    /// Its attempt was refused, and may be repeated.
    Refused,
    Waiting,
}

/// What every attempt of a call carries, unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    /// The store of the first attempt.
    pub store: u8,
    /// When it was first sent, on that store's clock; `None` where the client cannot say it.
    pub first_sent: Option<Timestamp>,
    /// When it was really sent.
    pub sent_at: u8,
}

impl Moment {
    /// One name for all states that differ only in how callers and servers are numbered: those that
    /// ask for the same, and those on the same store, are alike.
    pub fn canonical(mut self) -> Self {
        self.servers.sort();
        let mut best = self;
        for at in 1..best.callers.len() {
            if best.callers[at - 1].body != best.callers[at].body {
                continue;
            }
            let swapped = best.swapped(at - 1, at);
            if (&swapped.callers, &swapped.servers) < (&best.callers, &best.servers) {
                best = swapped;
            }
        }
        best
    }

    fn swapped(&self, one: usize, other: usize) -> Self {
        let renamed = |caller: usize| match caller {
            caller if caller == one => other,
            caller if caller == other => one,
            caller => caller,
        };
        let mut swapped = self.clone();
        swapped.callers.swap(one, other);
        for flight in swapped
            .servers
            .iter_mut()
            .flat_map(|server| server.flights.values_mut())
        {
            flight.lead = flight.lead.map(renamed);
            flight.waiting = flight.waiting.iter().copied().map(renamed).collect();
        }
        swapped.servers.sort();
        swapped
    }
}

/// The system in which handlers have their effects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outside {
    /// The effects that happened, of whatever request.
    pub effects: Vec<Body>,
    /// It refuses these tokens and older ones, because an operator said so.
    pub refuses: Option<FencingToken>,
}

/// What callers were told, ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Told {
    /// Answers, but not those that were marked *unrecorded*: `(who asked, what)`.
    pub answers: BTreeSet<(Body, Value)>,
    /// That the key is sealed: it has not happened and never will.
    pub sealed: bool,
    /// Kinds of answers that this step gave, for the run to count: a set of [`Kind::bit`].
    pub kinds: u32,
}

/// How an attempt ended, as far as a run wants to have met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Attached,
    Executed,
    InDoubt,
    InDoubtWithAnswer,
    InProgress,
    Mismatch,
    Misdirected,
    NotExecuted,
    Replayed,
    Resolved,
    Sealed,
    Stale,
    Unable,
    Unrecorded,
}

/// How much more may go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    pub server_crashes: u8,
    pub store_crashes: u8,
    /// Words of a store that get lost on the way to a server, with or without their change.
    pub words_lost: u8,
    pub wipes: u8,
    /// Handlers that end without saying what they did.
    pub ambiguous: u8,
    pub resolutions: u8,
    pub seals: u8,
    pub renewals: u8,
    /// Handlers that end without an effect, and say so.
    pub declined: u8,
}

impl Kind {
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The kinds in a set of bits.
    pub fn set(bits: u32) -> BTreeSet<Self> {
        let all = [
            Self::Attached,
            Self::Executed,
            Self::InDoubt,
            Self::InDoubtWithAnswer,
            Self::InProgress,
            Self::Mismatch,
            Self::Misdirected,
            Self::NotExecuted,
            Self::Replayed,
            Self::Resolved,
            Self::Sealed,
            Self::Stale,
            Self::Unable,
            Self::Unrecorded,
        ];
        all.into_iter()
            .filter(|kind| bits & kind.bit() != 0)
            .collect()
    }
}

/// What a request asks for: what its fingerprint tells apart.
pub type Body = u8;

/// An answer. It names the body that it answers and whose word it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value {
    pub body: Body,
    /// The how many-th effect of the world it tells of, or [`OPERATOR`].
    pub of: u8,
}

/// An answer that an operator made up from the books: equal to no handler's.
pub const OPERATOR: u8 = u8::MAX;
