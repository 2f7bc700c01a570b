//! Calls whose effect is a transaction of the store's own database: effect, claim and answer are one
//! commit, whatever happens to the handler, the server, the connection or the database.
#![cfg(all(feature = "postgres", feature = "conformance"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod bank;
mod endings;
mod in_doubt;
mod interrupted;
mod keeping;
mod one_statement;
mod pooler;
mod racers;
mod refused;
mod settled;
mod statement_races;

#[path = "../postgres_shared/calls.rs"]
mod calls;
#[path = "../postgres_rig/mod.rs"]
mod postgres_rig;
