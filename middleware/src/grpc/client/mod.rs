//! Calls over gRPC that are safe to retry.
//!
//! [`stack()`] puts the client's layers around a transport: [`tower()`] over a channel of tonic's, or
//! [`hyper`](crate::http::client::hyper()). What comes out is a tower service that a generated client of
//! tonic takes in place of the channel. `src/manual/grpc.md` is the page for users.
//!
//! What is particular to gRPC, beside what [`http::client`](crate::http::client) does with bodies,
//! peers and answers:
//!
//! * Which methods are unary and have effects is not on the wire, so they are named. Calls of all
//!   others go to the transport as they are, with neither key nor retry.
//! * What became of a call stands in its trailers, so an answer is read to its end before anything is
//!   made of it. `idempotency-status` is read first.
//! * A peer is not asked whether it dedupes: gRPC has no question for it. It is known by its answers.
//!   See [`Stack::asking_peers`].
//!
//! # The first call to a method
//!
//! Until a method's server has answered once, nobody knows whether it dedupes. So of the first calls to
//! it only what provably was not processed is sent again: where no connection was made, or the server
//! refused the stream. They carry no `idempotency-first-sent` either, which is a time on the server's
//! clock; without it they are protected until the server's horizon, and not for ever. And a key that
//! may have been sent before is not sent at all: say [`Ticket::never_sent`], or that peers dedupe.
//!
//! [`Ticket::never_sent`]: crate::client::Ticket::never_sent

mod classify;
mod error;
mod stack;
mod tower;
mod wire;

pub use self::error::Error;
pub use self::stack::{Client, Stack, stack};
pub use self::tower::{Tower, tower};
