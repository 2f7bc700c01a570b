//! The settings of a [`MemoryStore`](super::MemoryStore).

use std::sync::Arc;

use crate::{Clock, RetentionOptions, StoreLimits, SystemClock};

/// The settings of a [`MemoryStore`](crate::MemoryStore): the defaults suit tests and small
/// servers.
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a store is made of them"]
pub struct MemoryOptions {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: StoreLimits,
    pub(super) records_max: usize,
    pub(super) retention: RetentionOptions,
}

// === impl MemoryOptions ===

impl MemoryOptions {
    /// The wall clock, the default limits and retention, at most 1,000,000 records.
    pub fn new() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            limits: StoreLimits::default(),
            records_max: RECORDS_MAX,
            retention: RetentionOptions::default(),
        }
    }

    /// Takes the time from `clock`.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Keeps to `limits`.
    pub fn limits(mut self, limits: StoreLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Keeps at most `records` records; then new keys get
    /// [`StoreError::Unavailable`](crate::StoreError::Unavailable) until a sweep made room.
    pub const fn records_max(mut self, records: usize) -> Self {
        self.records_max = records;
        self
    }

    /// Remembers settled calls for as long as `retention` says.
    pub const fn retention(mut self, retention: RetentionOptions) -> Self {
        self.retention = retention;
        self
    }
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// With small answers half a gigabyte, which a server can spare and notices.
const RECORDS_MAX: usize = 1_000_000;
