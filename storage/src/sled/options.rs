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
    pub(super) log_bytes: u64,
    pub(super) restored: bool,
    pub(super) retention: RetentionOptions,
}

// === impl SledOptions ===

impl SledOptions {
    /// The wall clock, the default limits and retention, 16 MiB of sled's pages in memory, 8 MiB in
    /// each file of the log.
    pub fn new() -> Self {
        Self {
            cache_bytes: CACHE_BYTES,
            clock: Arc::new(SystemClock),
            limits: StoreLimits::default(),
            log_bytes: LOG_BYTES,
            restored: false,
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

    /// How many bytes are written to a file of the log before it is carried over, in bytes; at least
    /// 64 KiB, at most 64 MiB. There are two files, and what is in them is in memory as well. A small
    /// one is carried over more often; a large one takes longer to be read after a crash.
    pub const fn log_bytes(mut self, bytes: u64) -> Self {
        self.log_bytes = if bytes < LOG_BYTES_MIN {
            LOG_BYTES_MIN
        } else if bytes > LOG_BYTES_MAX {
            LOG_BYTES_MAX
        } else {
            bytes
        };
        self
    }

    /// Says that the directory is a copy that was made earlier, and that the store may have served
    /// since: for the first opening after a backup was restored, and no other.
    ///
    /// Nothing in a store shows that it is older than another that is gone, and what that one has
    /// executed since is not known here. So every call that was first sent before this opening, says
    /// so, and has no record is stale: refused, never executed. Calls that do not say when they were
    /// first sent cannot be told from new ones. Fencing tokens and sessions go on above all that the
    /// other can have given. The clock must not be behind the one of the store that is gone.
    pub const fn restored_copy(mut self) -> Self {
        self.restored = true;
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

/// sled's own default is 1 GiB, which a guest in somebody's server must not take. In sled is only
/// what is open: some ten thousand calls fit into this.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// A fifth of a second of calls where there are very many.
const LOG_BYTES: u64 = 8 * 1024 * 1024;
/// Some dozen calls.
const LOG_BYTES_MIN: u64 = 64 * 1024;
/// Half a second of reading at an opening.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
