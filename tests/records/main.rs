//! `onlyonce records` as its user meets it: a process, beside a server that owns the store, one
//! that was killed, and none.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod alone;
mod beside_a_server;
mod hostile;
mod manual;
mod program;
mod store;
