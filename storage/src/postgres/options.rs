//! The settings of a [`PostgresStore`](super::PostgresStore).

use std::fmt;
use std::time::Duration;

#[cfg(feature = "conformance")]
use std::sync::Arc;

#[cfg(feature = "conformance")]
use crate::Clock;
use crate::{RetentionOptions, StoreLimits};

/// The settings of a [`PostgresStore`](super::PostgresStore).
///
/// All processes of a store should have the same retention and limits: each applies its own.
#[derive(Clone)]
#[must_use = "options do nothing until a store is opened with them"]
pub struct PostgresOptions {
    pub(super) answer_within: Duration,
    pub(super) behind_pooler: bool,
    pub(super) connections_max: usize,
    pub(super) isolation: Isolation,
    pub(super) limits: StoreLimits,
    pub(super) listens: bool,
    pub(super) retention: RetentionOptions,
    pub(super) schema: String,
    #[cfg(feature = "postgres-tls")]
    pub(super) tls: super::tls::Prepared,
    pub(super) url: String,
    #[cfg(feature = "conformance")]
    pub(super) clock: Option<Arc<dyn Clock>>,
}

/// What the statements of one transaction see of others that run at the same time. PostgreSQL's own
/// levels, by its own names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Each statement sees what was committed before it. Who reads and then decides, reads with
    /// `FOR UPDATE`.
    #[default]
    ReadCommitted,
    /// All statements see what was committed before the first. Who changes a row that was changed
    /// since runs again.
    RepeatableRead,
    /// As if one had run after the other; who was in another's way runs again.
    Serializable,
}

// === impl Isolation ===

impl Isolation {
    pub(super) const fn begin(self) -> &'static str {
        match self {
            Self::ReadCommitted => "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE",
            Self::RepeatableRead => "BEGIN ISOLATION LEVEL REPEATABLE READ, READ WRITE",
            Self::Serializable => "BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE",
        }
    }
}

// === impl PostgresOptions ===

impl PostgresOptions {
    /// The store in the schema `onlyonce` of the database at `url`: `postgres://USER@HOST/DATABASE`,
    /// or `host=… dbname=…`. Several hosts may be named for a database that fails over, with
    /// `target_session_attrs=read-write`.
    ///
    /// On the store's connections `enable_seqscan` and `jit` are off, for statements of handlers too.
    ///
    /// With the feature `postgres-tls` the connection is encrypted where the address says so:
    ///
    /// - `sslmode=verify-full`: the server must show a certificate for the host's name, of an authority
    ///   in the file `sslrootcert`, or of those that the system believes where none is named;
    /// - `sslmode=require` with a `sslrootcert`: the same;
    /// - `sslmode=require` alone: encrypted, but whoever answers is believed. That keeps out who only
    ///   listens;
    /// - none, `prefer` and `disable`: not encrypted. A Unix socket never is.
    ///
    /// Without that feature an address that demands encryption is refused when the store is opened.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            answer_within: ANSWER_WITHIN,
            behind_pooler: false,
            connections_max: CONNECTIONS_MAX,
            isolation: Isolation::default(),
            limits: StoreLimits::default(),
            listens: true,
            retention: RetentionOptions::default(),
            schema: SCHEMA.to_owned(),
            #[cfg(feature = "postgres-tls")]
            tls: super::tls::Prepared::default(),
            url: url.into(),
            #[cfg(feature = "conformance")]
            clock: None,
        }
    }

    /// How long one question to the database may take in all: waiting for a connection, making one,
    /// every retry. Then the call fails closed with
    /// [`StoreError::Unavailable`](crate::StoreError::Unavailable). Default 5 s: as long as a
    /// duplicate waits by default, and a sixth of a lease. At least 10 ms.
    pub const fn answer_within(mut self, within: Duration) -> Self {
        self.answer_within = if within.as_millis() < 10 {
            Duration::from_millis(10)
        } else {
            within
        };
        self
    }

    /// A pooler that gives each transaction to another backend, or more of them, lies between: nothing is kept
    /// in a connection. Without this it is found out when a connection is made, by whether the backend that
    /// answers is the one that has greeted; say it where a pooler might greet in a backend's name.
    pub const fn behind_pooler(mut self) -> Self {
        self.behind_pooler = true;
        self
    }

    /// How many connections this process has at most. Default 16: where throughput levelled off on
    /// two cores, and six such processes fit into a server's default of 100. At least 2.
    ///
    /// One more hears what other servers settle: see [`without_listening`](Self::without_listening). A
    /// handler's transaction has one to itself for as long as it runs, and all but one may be taken so.
    pub const fn connections_max(mut self, connections: usize) -> Self {
        self.connections_max = if connections < 2 { 2 } else { connections };
        self
    }

    /// How the transactions of handlers are isolated. Default [`Isolation::ReadCommitted`], which is
    /// PostgreSQL's own, and costs the fewest runs that come to nothing.
    pub const fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Keeps to `limits`. Open calls are counted before a quota can be reached and not for each claim,
    /// so a scope may exceed them a little: by as many calls as are being claimed at the same moment,
    /// and by a sixteenth of what was left for each process beyond sixteen.
    pub const fn limits(mut self, limits: StoreLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Neither tells other servers what was settled here, nor listens to them: a duplicate that waits for
    /// another server's call asks now and then. It takes one connection less, and nothing is lost that
    /// a pooler by transaction does not lose anyway.
    pub const fn without_listening(mut self) -> Self {
        self.listens = false;
        self
    }

    /// Remembers settled calls for as long as `retention` says.
    pub const fn retention(mut self, retention: RetentionOptions) -> Self {
        self.retention = retention;
        self
    }

    /// Keeps the store in another schema than `onlyonce`: 1 to 48 lower-case letters, digits and
    /// `_`, no digit first. Another name is refused when the store is opened.
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Tells the database the time, for the suite that every store passes. A store that serves
    /// anybody must not have this: its processes would judge leases by clocks of their own.
    #[cfg(feature = "conformance")]
    #[doc(hidden)]
    pub fn clock_of_tests(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("PostgresOptions")
            .field("answer_within", &self.answer_within)
            .field("behind_pooler", &self.behind_pooler)
            .field("connections_max", &self.connections_max)
            .field("isolation", &self.isolation)
            .field("limits", &self.limits)
            .field("listens", &self.listens)
            .field("retention", &self.retention)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

const SCHEMA: &str = "onlyonce";
const CONNECTIONS_MAX: usize = 16;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
