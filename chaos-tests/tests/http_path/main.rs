//! The whole path over HTTP: the client's stack on both transports, a network that fails, axum with
//! the dedupe layer over a durable store, and books that nothing under test can see.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[cfg(test)]
mod bank;
#[cfg(test)]
mod teller;

#[cfg(test)]
mod cancelled;
#[cfg(test)]
mod cuts;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod storms;
