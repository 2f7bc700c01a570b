//! Fault injection against real processes: what executors over real sockets do, and what it comes to.
//!
//! `ONLYONCE_CHAOS_CALLS=2000` makes more of it than a test needs: that many calls for the kernel's
//! two runs, ten times as many for the proxy's.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod acknowledged;
mod crash;
mod doctor;
mod judged;
#[cfg(target_os = "linux")]
mod kernel;
mod points;
#[cfg(target_os = "linux")]
mod power;
mod proxy;
mod proxy_command;
mod sizes;
#[cfg(target_os = "linux")]
mod workloads;
