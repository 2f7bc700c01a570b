//! The client's layers, over a scripted peer and a paused clock.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers stand outside of test functions, and are for the modules beside them"
)]

mod backoff;
mod budget;
mod deadline;
mod observe;
mod outcome;
mod protocol;
mod readiness;
mod retry;
