//! What a client keeps of its own calls, so that they outlive its process.
//!
//! The rule: **a call is durable, with its key, its bytes and when it was first sent, before the
//! first byte of it is sent; its answer is durable before anybody is told that it is kept; and what
//! may have been executed is never dropped unless somebody says so by name.**
//!
//! A key that dies with its process is as good as no key: whoever starts again chooses another, and
//! the effect happens twice. The time of the first attempt and the store that it met are kept with
//! the key for the same reason: without them a server that has forgotten the call, or one that never
//! knew it, takes it for a new one.
//!
//! ```text
//!  write        mark sent           answer              acknowledge
//!  ----> unsent ---------> sent ------------> answered -------------> (gone)
//!         |  ^              | |  ^                ^
//!  cancel |  | not executed | |  | mark sent      | answer
//!         v  +--------------+ |  |                |
//!      (gone)                 +--+--> in doubt ---+
//!                             |           |
//!                             | give up   | give up       forget although maybe executed
//!                             +-----------+---> unknown --------------------------> (gone)
//! ```
//!
//! This is the vocabulary: what is kept of a call ([`OutboxEntry`]), the legal changes of it
//! ([`OutboxChange`]) and the contract of whatever keeps it ([`OutboxStore`]). `SledOutbox` keeps it
//! in a directory, `PostgresOutbox` in a database.

#[cfg(any(feature = "postgres", feature = "sled"))]
pub(crate) mod change;
#[cfg(any(feature = "postgres", feature = "sled"))]
pub(crate) mod codec;
mod entry;
mod error;
mod limits;
mod store;
#[cfg(feature = "sled")]
pub(crate) mod table;

pub use self::entry::{Body, FirstSent, NewCall, OutboxChange, OutboxEntry, OutboxState, Unknown};
pub use self::error::OutboxError;
pub use self::limits::{OUTBOX_BODY_BYTES_LIMIT, OutboxLimits};
pub use self::store::{OutboxCall, OutboxStore, Written};
