//! `onlyonce records` as its user meets it: a process, beside a server that owns the store, one
//! that was killed, and none; and on a database that servers share.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod alone;
mod beside_a_server;
mod hostile;
mod manual;
mod program;
mod shared;
mod steps;
mod store;
#[path = "../temporary_postgres/mod.rs"]
mod temporary_postgres;
