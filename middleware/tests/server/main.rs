//! The server's half: what the dedupe layer promises, over a store in memory.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod doubts;
mod elsewhere;
mod journaled_calls;
mod protocol;
mod watched;

mod concurrency;
mod endings;
mod hand_over_edges;
mod handed_over;
mod identity;
mod journaled_answers;
mod journaling;
mod journals_finished;
mod journals_too_old;
mod leases;
mod observe;
mod outcomes;
mod readiness;
mod reconciling;
mod reordered_steps;
mod reruns;
mod transacting;
