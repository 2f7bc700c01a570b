//! Whole systems in simulated time: bit for bit the same from the same seed.
//!
//! Hosts, time, crashes and restarts are turmoil's. The wire is not: here it carries *messages*, so
//! that a message is lost, doubled, late or damaged, and not a segment that TCP would make good. What
//! the hosts run is their own code over [`Pipe`]s; how bytes are cut into messages, and which call
//! and attempt one is about, a [`Protocol`] says.
//!
//! ```text
//!   host client-1 ---pipe---.                        .---pipe--- host server
//!   host client-2 ---pipe--- [ host network: the wire ]
//!                              | each message: lost? twice? late? damaged?
//! ```
//!
//! One run is one thread, and nothing of it is shared with another: many run side by side.

mod connection;
mod protocol;
mod run;
mod wire;
mod world;

pub use protocol::{About, Cut, Pipe, Pipes, Protocol, Way};
pub use run::{Order, Run, Strike};
pub use wire::Dialler;
pub use world::World;
