//! What the wire carries: pipes, and how their bytes are cut into messages.

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// One end of a connection, as a host has it.
pub type Pipe = DuplexStream;

/// The connections that come to a host.
pub type Pipes = mpsc::UnboundedReceiver<Pipe>;

/// In which direction a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From client to server.
    Up,
    /// From server to client.
    Down,
}

/// What is at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A message that is not all there.
    More,
    /// A message.
    Message {
        /// How long it is, in bytes.
        bytes: usize,
        /// How many of its first bytes say what it is: whoever reads others there notices it.
        head: usize,
        /// Whose it is; `None` of one that is about no call.
        about: Option<About>,
        /// Whether it says that what is still on the way on this connection is not taken. What comes
        /// by another path then would make that a lie, and TCP has no other path.
        disowns: bool,
    },
}

/// Which call and attempt a message is about, each from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The call's ordinal within the run.
    pub call: u64,
    /// The attempt's within the call.
    pub attempt: u32,
}

/// Cuts the bytes of one connection into messages.
pub trait Protocol: Send {
    /// What these bytes, the first of which begins a message, begin with. Each message is asked for
    /// until it is all there, and then not again.
    fn cut(&mut self, way: Way, bytes: &[u8]) -> Cut;
}
