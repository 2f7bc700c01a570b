//! Targets of this module's parsers. See [`crate::fuzzing`].

pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod message;
pub(crate) mod value;

mod trickle;
