//! Lets the effect of a call happen at most once per key.
//!
//! The first attempt of a call claims its key in the [`Store`](onlyonce_storage::Store), runs the
//! handler in a task of its own, records the answer durably and only then answers. Every other
//! attempt is answered from the execution in progress or from the record, never by the handler.
//!
//! # What it does not do
//!
//! It looks up nothing before it claims: looking, executing and then storing lets two concurrent
//! attempts both execute. It does not go on without its store: a store that cannot be reached
//! refuses the call before the handler runs. It does not free a key because a handler failed: a
//! panic, an error without an answer or a lost lease leaves the call in doubt, and says so.
//!
//! # Place in the order
//!
//! Inside authentication (which gives the scope) and load shedding (what that refuses must not be
//! recorded), outside everything that has effects. A timeout belongs outside it: inside, it would
//! cut an effect half-way, which is recorded as in doubt.
//!
//! # Cancellation
//!
//! Dropping a response future leaves the execution running to its end. One that has not begun,
//! because the handler has no room or another process executes the call, is given up: nothing was
//! executed. A runtime that shuts down leaves what was running in doubt; [`Executions::idle`] says
//! when nothing is.

mod executions;
mod flight;
mod layer;
mod options;
mod owner;
mod scheduled;
#[cfg(test)]
mod schedules;
mod service;

pub use self::executions::Executions;
pub use self::layer::DedupeLayer;
pub use self::options::{DedupeOptions, Wait};
pub(crate) use self::owner::far;
pub use self::service::{Dedupe, ResponseFuture};
