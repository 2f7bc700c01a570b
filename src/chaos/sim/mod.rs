//! Our client, our server and our store in simulated time.
//!
//! What runs is the program's own: the client's stack and channel, the server's connections and its
//! dedupe layer, the decisions and the bytes of the store. What is simulated is the wire, the disk,
//! the clock and the lives of the processes.

mod attempts;
mod bank;
pub mod campaign;
mod clients;
mod defects;
mod executor;
pub mod exhaust;
#[cfg(feature = "mutants")]
pub mod mutants;
mod native;
pub mod plans;
mod server;
pub mod shrink;
mod strikes;
mod town;
mod unrecorded;

pub use executor::{SimExecutor, SimRun};
