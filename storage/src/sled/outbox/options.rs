//! The settings of a [`SledOutbox`](super::SledOutbox).

use std::sync::Arc;

use crate::outbox::OutboxLimits;
use crate::{Clock, SystemClock};

/// The settings of a [`SledOutbox`](super::SledOutbox).
#[derive(Clone, Debug)]
#[must_use = "options do nothing until an outbox is opened with them"]
pub struct OutboxOptions {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: OutboxLimits,
}

// === impl OutboxOptions ===

impl OutboxOptions {
    /// The wall clock and the default limits.
    pub fn new() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            limits: OutboxLimits::default(),
        }
    }

    /// Takes from `clock` when a call was written, which is shown and decides nothing.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Keeps to `limits`. What is kept already stays, also where it is more.
    pub const fn limits(mut self, limits: OutboxLimits) -> Self {
        self.limits = limits;
        self
    }
}

impl Default for OutboxOptions {
    fn default() -> Self {
        Self::new()
    }
}
