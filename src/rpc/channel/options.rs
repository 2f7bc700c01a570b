//! Numbers that a channel goes by, each with its reason.

use std::time::Duration;

use crate::rpc::Credential;

/// How a [`Channel`](super::Channel) connects, and how much it keeps in flight.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelOptions {
    /// Who calls. Default: empty, which only a server with a global scope takes.
    pub credential: Credential,
    /// The session that the client continues. Default: none.
    pub session: Option<u64>,
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
            session: None,
            connect_timeout: Duration::from_millis(3_100),
            in_flight_max: 256,
            frame_bytes_max: 2 * 1024 * 1024,
            arguments_bytes_max: 1024 * 1024,
        }
    }
}
