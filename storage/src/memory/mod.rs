//! The store that keeps its records in memory: the reference for all others.
//!
//! What it acknowledges survives nothing but the caller. Use it in tests, and where the effect
//! dies with the process as well; anything else needs a durable store. It decides through the same
//! pure core as the durable stores, with groups of one operation under one mutex.

mod options;
mod store;

pub use self::options::MemoryOptions;
pub use self::store::MemoryStore;
