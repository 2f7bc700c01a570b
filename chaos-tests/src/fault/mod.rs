//! One vocabulary for every executor: a fault is where, when and what.
//!
//! Where the wire, the tower layer, the kernel, the simulation and a killed process do the same
//! thing, they say the same words, and they decide it in the same way: by a hash of the seed, the
//! fault's name, the key, the attempt and the phase. So a seed meets the same faults whatever else
//! is in the plan, on any number of threads, and a plan that is shrunk keeps the decisions of what
//! is left.
//!
//! ```text
//!   client            wire             server                disk
//!     | request-sent -->|                |                     |
//!     |                 |-- request-received                   |
//!     |                 |                |-- effect-durable -->|
//!     |                 |<-- reply-sent -|                     |
//!     |<- reply-received|                |                     |
//! ```

mod decide;
mod text;
mod words;

pub use decide::Subject;
pub use text::FaultTextError;
pub use words::{Fault, Phase, Place, What, When};
