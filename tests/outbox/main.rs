//! An outbox over real sockets and a real directory: what is kept is what was asked for, nothing is
//! sent that is not kept, and nothing that may have been executed goes away by itself.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[cfg(test)]
mod shop;

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod failing;
#[cfg(test)]
mod restarts;
