//! gRPC over real sockets: tonic's servers and clients, which know nothing of this crate, and what
//! stands between them.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod bank;
mod kit;
mod peer;
mod safe;

mod calls;
mod cuts;
mod entries;
mod journaled;
mod layered;
mod methods;
mod outcomes;
mod python;
mod refusals;
mod replays;
