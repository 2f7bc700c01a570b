//! Numbers that a server goes by, each with its reason.

use std::time::Duration;

/// How much a [`Server`](super::Server) takes on, and how long it waits for its peers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Connections at once. Default 1,024: the usual limit of open files. One more is refused with
    /// a text. Zero counts as one.
    pub connections_max: u32,
    /// Connections whose handshake is not finished. Default 256: a peer that opens connections and
    /// says nothing holds each for at most `handshake_timeout`. One more is closed at once. Zero
    /// counts as one.
    pub handshakes_max: u32,
    /// How long a handshake may take. Default 3.1 s, as long as clients wait.
    pub handshake_timeout: Duration,
    /// Calls in flight on one connection. Default 256. One more is answered
    /// [`Status::Unavailable`](crate::rpc::Status::Unavailable). Zero counts as one.
    pub in_flight_max: u32,
    /// Bytes of arguments of all calls in flight, on all connections together. Default 256 MiB:
    /// without it 1,024 connections with 256 calls of 1 MiB each come to 256 GiB. One call more is
    /// answered [`Status::Unavailable`](crate::rpc::Status::Unavailable). At least
    /// `arguments_bytes_max`. Beside it each connection holds one frame that is being read and
    /// one batch of replies; executions whose caller's connection is gone are not counted.
    pub in_flight_bytes_max: usize,
    /// The largest frame that is taken from a client, in bytes. Default 2 MiB. Brought into 4 KiB
    /// to 64 MiB.
    pub frame_bytes_max: usize,
    /// The largest arguments, in bytes. Default 1 MiB. Above it the call is answered
    /// [`Status::TooLarge`](crate::rpc::Status::TooLarge).
    pub arguments_bytes_max: usize,
    /// The largest body of a reply, in bytes. Default 1 MiB: what a store records by default.
    /// Above it, or above what the client takes, the call is answered
    /// [`Status::AnswerTooLarge`](crate::rpc::Status::AnswerTooLarge).
    pub answer_bytes_max: usize,
    /// How long a peer may take none of the bytes that are written to it. Then its connection is
    /// closed. Default 10 s.
    pub write_timeout: Duration,
    /// Whether the server goes on by itself with journaled calls that stand still in its store, when
    /// it starts and every ten seconds or so: see
    /// [`Router::method_journaled`](crate::rpc::Router::method_journaled). Default true; without it
    /// such a call stands still until somebody asks for it. Only a server that was told of its
    /// executions with [`dedupe`](super::ServerBuilder::dedupe) does.
    pub finish_abandoned: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            handshakes_max: 256,
            handshake_timeout: Duration::from_millis(3_100),
            in_flight_max: 256,
            in_flight_bytes_max: 256 * 1024 * 1024,
            frame_bytes_max: 2 * 1024 * 1024,
            arguments_bytes_max: 1024 * 1024,
            answer_bytes_max: 1024 * 1024,
            write_timeout: Duration::from_secs(10),
            finish_abandoned: true,
        }
    }
}
