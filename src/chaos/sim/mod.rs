//! Our client, our server and our store in simulated time.
//!
//! What runs is the program's own: the client's stack and channel, the server's connections and its
//! dedupe layer, the decisions and the bytes of the store. What is simulated is the wire, the disk,
//! the clock and the lives of the processes.

mod bank;
mod clients;
mod executor;
mod native;
pub mod plans;
mod server;
mod town;

pub use executor::{SimExecutor, SimRun};
