//! The client's stack for HTTP, with real clients over loopback sockets, against servers that are
//! written by hand and misbehave as they are told.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers stand outside of test functions, and are for the modules beside them"
)]

mod answers;
mod bodies;
mod codes;
mod faults;
mod h2_peer;
mod in_between;
mod nested;
mod outbox;
mod pacing;
mod peer;
mod redirects;
mod required;
mod safe;
mod who_dedupes;
