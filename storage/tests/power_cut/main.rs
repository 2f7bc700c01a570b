//! The power is cut while a store writes, and again while it recovers: what was acknowledged is
//! there, byte for byte, and nothing torn is believed.
//!
//! A child process works on an ext4 in an image behind a loop device and says a line for
//! everything that was acknowledged to it. At moments of no meaning the image is copied as the
//! block layer has it (see [`device`]); a copy is what a machine finds after its power was cut. It
//! is mounted, which replays its journal, opened and judged by what had been said until then.
//!
//! `ONLYONCE_POWER_CUTS=1000` makes it a thousand cut points instead of a hundred;
//! `ONLYONCE_POWER_SEED` gives the workload another seed than 1. The seed decides what is asked
//! for; when the power is cut it cannot decide.
#![cfg(all(feature = "sled", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod calls;
mod child;
mod control;
mod device;
mod handlers;
mod neighbour;
mod outbox;
mod recovery;
mod run_options;
mod store;
mod sweeps;
mod transactions;

#[path = "../rig/mod.rs"]
mod rig;
