//! The server's side of HTTP, over real sockets: what the layer promises to clients that know
//! nothing of this crate.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod client;
mod kit;

mod fingerprints;
mod hostile;
mod interrupted;
mod journaled;
mod journaled_kills;
mod layering;
mod outcomes;
mod outside_clients;
mod python_requests;
mod refusals;
mod replays;
mod scopes;
mod transactions;
