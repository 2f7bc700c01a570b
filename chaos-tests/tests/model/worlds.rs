//! The bounded worlds: each is small in what it does not look at.

use std::sync::Arc;

use crate::mutant::Mutant;
use crate::state::{Faults, Kind};
use crate::world::World;

/// Whether larger bounds are explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    Long,
    Short,
}

/// Retries, duplicates and crashes, over one store with two servers.
pub fn retries(bounds: Bounds) -> World {
    let long = u8::from(bounds == Bounds::Long);
    World {
        name: "retries",
        callers: vec![0, 0],
        servers: vec![0, 0],
        stores: 1,
        ticks: 3 + long,
        attempts: 2,
        stamped: true,
        sweeps: false,
        faults: Faults {
            server_crashes: 1,
            store_crashes: 1,
            words_lost: 1,
            ambiguous: 1,
            declined: long,
            ..Faults::default()
        },
        mutant: Mutant::None,
        meets: vec![
            Kind::Attached,
            Kind::Executed,
            Kind::InDoubt,
            Kind::InDoubtWithAnswer,
            Kind::InProgress,
            Kind::Replayed,
            Kind::Unable,
            Kind::Unrecorded,
        ],
        met: Arc::default(),
    }
}

/// Owners that lose their claim and do not know it: leases, renewals, operators.
pub fn takeovers(bounds: Bounds) -> World {
    let long = u8::from(bounds == Bounds::Long);
    World {
        name: "takeovers",
        callers: vec![0, 0],
        servers: vec![0, 0],
        ticks: 3 + long,
        attempts: 2,
        faults: Faults {
            declined: 1,
            renewals: 1,
            resolutions: 2,
            ..Faults::default()
        },
        meets: vec![
            Kind::Executed,
            Kind::InDoubt,
            Kind::InProgress,
            Kind::NotExecuted,
            Kind::Replayed,
            Kind::Resolved,
        ],
        ..retries(bounds)
    }
}

/// Two requests under one key.
pub fn mismatches(bounds: Bounds) -> World {
    let long = u8::from(bounds == Bounds::Long);
    World {
        name: "mismatches",
        callers: vec![0, 1],
        servers: vec![0, 0],
        ticks: 3,
        attempts: 1 + long,
        faults: Faults {
            declined: 1,
            resolutions: 1,
            words_lost: 1,
            ..Faults::default()
        },
        meets: vec![Kind::Executed, Kind::Mismatch, Kind::NotExecuted],
        ..retries(bounds)
    }
}

/// Answers, tombstones and records that are forgotten, and attempts that come after.
pub fn forgetting(bounds: Bounds) -> World {
    let long = u8::from(bounds == Bounds::Long);
    World {
        name: "forgetting",
        callers: vec![0; 1 + usize::from(long)],
        servers: vec![0],
        ticks: 5 + long,
        attempts: 2,
        sweeps: true,
        faults: Faults {
            seals: 1 + long,
            store_crashes: 1,
            server_crashes: 1,
            resolutions: 1,
            ..Faults::default()
        },
        meets: vec![Kind::Executed, Kind::Replayed, Kind::Sealed, Kind::Stale],
        ..retries(bounds)
    }
}

/// The same, of calls that do not say when they were first sent.
pub fn forgetting_unstamped(bounds: Bounds) -> World {
    World {
        name: "forgetting, unstamped",
        stamped: false,
        ..forgetting(bounds)
    }
}

/// Sealing while attempts are under way.
pub fn seals(bounds: Bounds) -> World {
    let long = u8::from(bounds == Bounds::Long);
    World {
        name: "seals",
        callers: vec![0, 0],
        servers: vec![0, 0],
        ticks: 2 + long,
        attempts: 2,
        faults: Faults {
            seals: 2,
            declined: 1,
            words_lost: 1,
            store_crashes: 1,
            ..Faults::default()
        },
        meets: vec![
            Kind::Executed,
            Kind::NotExecuted,
            Kind::Replayed,
            Kind::Sealed,
            Kind::Stale,
        ],
        ..retries(bounds)
    }
}

/// Two servers behind one address, each with a store of its own, one of which is wiped.
pub fn stores(bounds: Bounds) -> World {
    let long = u8::from(bounds == Bounds::Long);
    World {
        name: "stores",
        callers: vec![0, 0],
        servers: vec![0, 1],
        stores: 2,
        ticks: 3 + long,
        attempts: 2,
        faults: Faults {
            wipes: 1,
            seals: 1,
            server_crashes: long,
            ..Faults::default()
        },
        meets: vec![Kind::Executed, Kind::Misdirected, Kind::Replayed],
        ..retries(bounds)
    }
}

/// The same, of calls that do not say when they were first sent.
pub fn stores_unstamped(bounds: Bounds) -> World {
    World {
        name: "stores, unstamped",
        stamped: false,
        ..stores(bounds)
    }
}

/// All of them.
pub fn all(bounds: Bounds) -> Vec<World> {
    vec![
        retries(bounds),
        takeovers(bounds),
        mismatches(bounds),
        forgetting(bounds),
        forgetting_unstamped(bounds),
        seals(bounds),
        stores(bounds),
        stores_unstamped(bounds),
    ]
}
