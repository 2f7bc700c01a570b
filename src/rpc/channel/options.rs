//! Numbers that a channel goes by, each with its reason.

use std::time::Duration;

use crate::rpc::Credential;

/// How a [`Channel`](super::Channel) connects, and how much it keeps in flight.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelOptions {
    /// Who calls. Default: empty, which only a server with a global scope takes.
    pub credential: Credential,
    /// For [`Client::in_sessions`](crate::rpc::Client::in_sessions): how many calls may lie between
    /// the first one whose answer the caller has not got and the newest. More wait. Default 1,024,
    /// which is also the most.
    pub session_window: u32,
    /// How long a call waits for its place in the session. Then it was not executed. Default 30 s:
    /// the default deadline of a call, which begins when it has its place.
    pub session_wait: Duration,
    /// How long resolving, connecting and the handshake may take together. Default 3.1 s: one
    /// lost SYN is sent again after 1 s, a second one after 3 s.
    pub connect_timeout: Duration,
    /// Calls in flight on the connection; the server's limit counts where it is lower. More wait
    /// in `poll_ready`. Default 256. Zero counts as one.
    pub in_flight_max: u32,
    /// The largest frame that is taken from the server, in bytes. Default 2 MiB. Brought into
    /// 4 KiB to 64 MiB.
    pub frame_bytes_max: usize,
    /// The largest arguments that are sent, in bytes. Default 1 MiB. Together with their names
    /// they must also fit into the frames that the server takes.
    pub arguments_bytes_max: usize,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            credential: Credential::none(),
            session_window: 1_024,
            session_wait: Duration::from_secs(30),
            connect_timeout: Duration::from_millis(3_100),
            in_flight_max: 256,
            frame_bytes_max: 2 * 1024 * 1024,
            arguments_bytes_max: 1024 * 1024,
        }
    }
}
