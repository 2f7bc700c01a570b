//! How much an outbox keeps.

/// The bounds of an outbox. At each of them a new call is refused before it is sent; nothing that is
/// kept is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxLimits {
    /// Calls, whatever their state. Default 10,000: an hour of an outage at three calls a second,
    /// and few enough that all are known in memory (about 500 bytes each).
    pub calls_max: usize,
    /// Bytes of requests and answers together, above which no new call is taken. Answers of calls
    /// that were taken are kept also above it. Default 64 MiB: what opening reads in a fraction of
    /// a second.
    pub bytes_max: u64,
    /// The largest request. Default 1 MiB, which is also the most: what servers take by default.
    pub request_bytes_max: usize,
    /// The largest answer that is kept. Default 1 MiB, which is also the most: what stores record.
    pub answer_bytes_max: usize,
}

// === impl OutboxLimits ===

impl Default for OutboxLimits {
    fn default() -> Self {
        Self {
            calls_max: 10_000,
            bytes_max: 64 * 1024 * 1024,
            request_bytes_max: OUTBOX_BODY_BYTES_LIMIT,
            answer_bytes_max: OUTBOX_BODY_BYTES_LIMIT,
        }
    }
}

/// The largest request or answer that any outbox keeps: two of them fit into what may lie between
/// two syncs of the engine.
pub const OUTBOX_BODY_BYTES_LIMIT: usize = 1024 * 1024;
