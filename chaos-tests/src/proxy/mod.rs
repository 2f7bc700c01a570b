//! A seeded TCP proxy that loses answers, cuts frames, delays, slices and goes silent.
//!
//! Faults start at bytes and connections that the seed decides, never at chunks or times: the
//! network may cut the stream as it likes, the same bytes get through. What is *not* repeated is
//! time: which connection is the third one, and what its client has sent when another one is cut,
//! is up to the machine.
//!
//! [`Proxy`] knows bytes. [`FrameProxy`] knows messages: it loses, doubles, delays, corrupts and cuts
//! off those of a call and an attempt, in the words of [`fault`](crate::fault).
//!
//! ```text
//!            ToServer: answers must be lost *after* this went through
//!   client ===================================================> server
//!          <----------------- x <==============================
//!            ToClient: DropRest from byte n on
//! ```
//!
//! ```
//! use onlyonce_chaos::proxy::{Direction, Fault, Plan, Proxy, Rule};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # async fn example() -> std::io::Result<()> {
//! let server = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let plan = Plan::none()
//!     // The first client never hears of its answer,
//!     .rule(Rule::answer_lost(0).nth(1))
//!     // and some of the others are reset in the middle of a frame.
//!     .rule(
//!         Rule::new(Direction::ToServer, Fault::Reset).after_bytes_within(1..=64).probability(0.1),
//!     );
//! let proxy = Proxy::builder(server.local_addr()?).seed(42).plan(plan).listen("127.0.0.1:0").await?;
//!
//! let mut client = tokio::net::TcpStream::connect(proxy.addr()).await?;
//! client.write_all(b"transfer").await?;
//!
//! let (mut accepted, _) = server.accept().await?;
//! let mut request = [0; 8];
//! accepted.read_exact(&mut request).await?;
//! assert_eq!(&request, b"transfer");
//! accepted.write_all(b"done").await?;
//! drop(accepted);
//!
//! // The effect has happened; the client will wait in vain, until it gives up.
//! assert!(client.try_read(&mut [0; 4]).is_err());
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
//! #     .block_on(example()).unwrap();
//! ```

mod connection;
mod flow;
mod frame_fate;
mod frame_pipe;
mod frame_proxy;
mod framing;
mod http1;
mod naming;
mod pipe;
mod plan;
mod server;
mod stats;

pub use frame_proxy::{FrameProxy, FrameProxyBuilder, FrameStats, Strike};
pub use framing::{Counts, Endianness, Framing, LengthPrefix};
pub use http1::header;
pub use naming::Naming;
pub use plan::{Direction, Fault, FaultKind, Plan, Rule, Script, Step};
pub use server::{Proxy, ProxyBuilder};
pub use stats::Stats;

#[cfg(test)]
mod frame_tests;
#[cfg(test)]
mod tests;
