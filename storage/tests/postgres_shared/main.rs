//! What the store on PostgreSQL holds beyond the suite: several processes, a database that is killed,
//! frozen, cut off or fails over, and everything that can be wrong when a store is opened.
#![cfg(all(feature = "postgres", feature = "conformance"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod calls;
mod clocks;
mod crashes;
mod cuts;
mod disk;
mod failover;
mod hearing;
mod journal_rows;
mod journals;
mod moving;
mod opening;
mod processes;
mod running;
mod storms;
mod unreachable;

#[path = "../postgres_rig/mod.rs"]
mod postgres_rig;
#[path = "../rig/mod.rs"]
#[allow(dead_code, reason = "one file system is all that is needed here")]
mod rig;
