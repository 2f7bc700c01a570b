//! A call outlives its client: it is durable before its first byte is sent.
//!
//! What is kept, and how it may change, is the vocabulary of
//! [`onlyonce_storage::outbox`]. Here is what the layers do with it: [`NoteSentLayer`] stands between
//! whoever makes attempts and the transport, and lets nothing out of which the outbox does not know
//! that it is being sent; [`policy`] decides, without doing anything, how a kept call goes on and
//! what its end leaves behind; [`KeptCalls`] makes one run of a call at a time, and keeps its answer.

mod kept_calls;
mod note_sent;
pub mod policy;
mod turns;

pub use self::kept_calls::{Ended, KeptCalls, Ran, Unanswered};
pub use self::note_sent::{NoteSent, NoteSentError, NoteSentLayer, Peer, TellPeer};
