//! A server is killed with SIGKILL at every named point of the code, started again over what it
//! left, and judged by what its clients were told and what is on its disk.
//!
//! The points are read from the sources (`sources.rs`), so that one that is added is killed at
//! without anybody thinking of it; one that the workload does not reach fails the test. Those of the
//! client's outbox are killed at in a client (`outbox/`), those of a journal in a server of its own
//! (`journal/`), all others in a server. Seeds and
//! schedules are printed; `ONLYONCE_KILL_SEED` repeats one.
//!
//! `alone/` kills one call at each point, and holds what is found against the tables of the manual;
//! `ONLYONCE_KILL_POINT` takes one point alone. The points at which a doubt is ended are killed at
//! only there: the crowd ends none.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[cfg(test)]
mod alone;
#[cfg(test)]
mod booked;
#[cfg(test)]
mod child;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod folder;
#[cfg(test)]
mod journal;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod orders;
#[cfg(test)]
mod outbox;
#[cfg(test)]
mod process;
#[cfg(test)]
mod run;
#[cfg(test)]
mod sources;
#[cfg(test)]
mod till;
