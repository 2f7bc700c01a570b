//! Packets that the kernel really loses, between two network namespaces of one run.
//!
//! The two stand for the server's and the client's machine. They are private: nothing outside can
//! reach them, and nothing of them is left when the value that holds them is dropped, or when the
//! process that holds it dies in whatever way. Where the machine allows user namespaces no root is
//! needed. What a machine cannot do is [`NotRun`](crate::executor::NotRun) with the reason, never passed over.
//!
//! ```text
//!   client's namespace                       server's namespace
//!     10.77.0.2  vb  <====== veth ======>  va  10.77.0.1
//!     input: what comes to the client        input: what comes to the server
//! ```
//!
//! Faults strike at the *receiver's* side: what is dropped where it is sent is noticed by the
//! sender's own TCP, which no lossy network would tell.
//!
//! The seed names the packets that are struck by their ordinals, in each direction
//! ([`Rules::with_seed`]). Which message is in the n-th packet is up to the timing, so that a seed
//! repeats decisions here and no run. The kernel cannot tell calls and attempts apart either; the
//! [proxy](crate::proxy) can.
//!
//! ```no_run
//! use onlyonce_chaos::fault::{Fault, Phase, Place, What, When};
//! use onlyonce_chaos::kernel::{Namespaces, Rules, Side};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let world = Namespaces::pair()?;
//! let loss = Fault::new("loss", Place::Wire, What::PacketLoss).when(When::default().share(0.3));
//! world.apply(&Rules::of([&loss], 7411)?)?;
//!
//! let mut server = world.command(Side::Server, "my-server").arg("10.77.0.1:7411").spawn()?;
//! let status = world.command(Side::Client, "my-client").arg("10.77.0.1:7411").status()?;
//! server.kill()?;
//! server.wait()?;
//!
//! // A fault that struck nothing proves nothing.
//! assert!(status.success() && world.struck()?["loss"] > 0);
//! # Ok(())
//! # }
//! ```

mod namespaces;
mod rules;
mod tools;

pub use namespaces::{CLIENT_ADDRESS, Namespaces, SERVER_ADDRESS, Side};
pub use rules::{Rules, render};
pub use tools::Tools;

#[cfg(test)]
mod tests;
