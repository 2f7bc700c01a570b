//! The simulation: it repeats, its faults do what they say, and what they do is survived.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod callers;
mod controls;
mod disk;
mod everything;
mod faults;
mod goals;
mod repeats;
mod schedules;
mod workloads;
