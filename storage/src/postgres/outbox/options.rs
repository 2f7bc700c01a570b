//! The settings of a [`PostgresOutbox`](super::PostgresOutbox).

use std::sync::Arc;
use std::time::Duration;

use crate::outbox::OutboxLimits;
use crate::postgres::PostgresOptions;
use crate::{Clock, SystemClock};

/// The settings of a [`PostgresOutbox`](super::PostgresOutbox).
#[derive(Clone, Debug)]
#[must_use = "options do nothing until an outbox is opened with them"]
pub struct PostgresOutboxOptions {
    pub(super) after_failover: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) database: PostgresOptions,
    pub(super) lease: Duration,
    pub(super) limits: OutboxLimits,
    pub(super) name: String,
}

// === impl PostgresOutboxOptions ===

impl PostgresOutboxOptions {
    /// The outbox `name` in the store's schema of `database`: 1 to 255 bytes, such as the name of the
    /// instance whose calls it keeps. Several processes that make calls at the same time have one each.
    pub fn new(database: PostgresOptions, name: impl Into<String>) -> Self {
        Self {
            after_failover: false,
            clock: Arc::new(SystemClock),
            database,
            lease: LEASE,
            limits: OutboxLimits::default(),
            name: name.into(),
        }
    }

    /// Opens it also where the database has failed over, or was restored, since it was last opened: it
    /// may not have what was acknowledged. Calls that it has as never sent may have been sent there, so
    /// their outcome is then unknown; a call that it does not have is nobody's.
    ///
    /// A call whose removal was lost is there again: one that stands there as sent or in doubt is sent
    /// again when it is resumed, under its key and with the time of its first attempt. Look through the
    /// list before all are resumed, and forget those that are done.
    pub const fn after_failover(mut self) -> Self {
        self.after_failover = true;
        self
    }

    /// Takes from `clock` when a call was written, which is shown and decides nothing.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// For how long nobody else may open it after this process was last heard of, on the database's
    /// clock. Default 30 s, as long as a call is leased by default: who takes over after a crash waits
    /// for as long. At least 1 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(LEASE_MIN);
        self
    }

    /// Keeps to `limits`. What is kept already stays, also where it is more.
    pub const fn limits(mut self, limits: OutboxLimits) -> Self {
        self.limits = limits;
        self
    }
}

const LEASE: Duration = Duration::from_secs(30);
const LEASE_MIN: Duration = Duration::from_secs(1);
