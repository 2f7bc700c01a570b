//! A client with an outbox is killed with SIGKILL at every named point of it, started again over what
//! it left, and judged by what it noted and what was executed.
//!
//! The server lives all the while: whatever is executed twice, lost or told otherwise is the
//! client's doing.

pub mod child;
mod kills;
pub mod notes;
pub mod server;
