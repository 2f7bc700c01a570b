//! The disk fails under a store: it loses a write and says so once, it is full, it can no longer
//! be written to, it does not give back what it was given.
//!
//! Then a store says why, acknowledges nothing more, and when it is opened again on a disk that is
//! whole it has everything that it acknowledged.
#![cfg(all(feature = "sled", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod calls;
mod failed_sync;
mod full_disk;
mod full_outbox;
mod read_only;
mod unreadable;

#[path = "../rig/mod.rs"]
mod rig;
