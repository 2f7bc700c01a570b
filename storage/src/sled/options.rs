//! The settings of a [`SledStore`](super::SledStore).

use std::sync::Arc;

use crate::{Clock, RetentionOptions, StoreLimits, SystemClock};

/// The settings of a [`SledStore`](super::SledStore).
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a store is opened with them"]
pub struct SledOptions {
    pub(super) cache_bytes: u64,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: StoreLimits,
    pub(super) retention: RetentionOptions,
}

// === impl SledOptions ===

impl SledOptions {
    /// The wall clock, the default limits and retention, 128 MiB of pages in memory.
    pub fn new() -> Self {
        Self {
            cache_bytes: CACHE_BYTES,
            clock: Arc::new(SystemClock),
            limits: StoreLimits::default(),
            retention: RetentionOptions::default(),
        }
    }

    /// How many bytes of pages sled keeps in memory (its `cache_capacity`). sled takes it as a
    /// hint: with millions of keys it uses more.
    pub const fn cache_capacity(mut self, bytes: u64) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Takes the time from `clock`.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Keeps to `limits`.
    pub const fn limits(mut self, limits: StoreLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Remembers settled calls for as long as `retention` says, and up to a bucket longer.
    pub const fn retention(mut self, retention: RetentionOptions) -> Self {
        self.retention = retention;
        self
    }
}

impl Default for SledOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// sled's own default is 1 GiB, which a guest in somebody's server must not take. A day of a
/// hundred thousand records with small answers fits into this.
const CACHE_BYTES: u64 = 128 * 1024 * 1024;
