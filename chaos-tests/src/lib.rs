//! Fault injection for any tower service or TCP server, and checkers of what survived.

pub mod proxy;
pub mod seed;

pub use proxy::Proxy;
pub use seed::Seed;
