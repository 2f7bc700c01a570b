//! Fault injection against real processes: what executors over real sockets do, and what it comes to.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod crash;
mod judged;
#[cfg(target_os = "linux")]
mod kernel;
mod proxy;
