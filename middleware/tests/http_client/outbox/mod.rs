//! Calls that outlive their client: an outbox in a real directory, over loopback sockets.

mod endings;
mod folder;
mod kept;
mod kills;
mod shop;
