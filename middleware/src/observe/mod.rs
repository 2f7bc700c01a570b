//! What can be seen from outside: metrics through the facade `metrics`, spans through `tracing`.
//!
//! All names stand in [`names`]. No key, body or credential is ever in a label or a span.

pub mod client;
pub mod names;
pub mod server;

pub use self::client::{Observe, ObserveLayer};
pub use self::server::{ServeSpan, ServeSpanLayer};
