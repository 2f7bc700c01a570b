//! A model of the whole path: callers that retry over a network that loses, doubles and reorders,
//! servers on one store, leases, zombies, crashes, expiry, tombstones and seals. Every state of a
//! bounded world is visited; `src/manual/model.md` says what is in it and what is not.
//!
//! `ONLYONCE_MODEL=long` explores larger bounds.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod mutant;
mod promises;
mod record;
mod runs;
mod server;
mod state;
mod store;
mod world;
mod worlds;
