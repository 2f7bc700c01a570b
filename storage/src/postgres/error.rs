//! Why a store on PostgreSQL cannot be opened or migrated, and what its errors mean to a call.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::StoreError;

/// Why a [`PostgresStore`](super::PostgresStore) cannot be opened or migrated. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The text is no address of a database.
    #[error(
        "the address of the database cannot be read: {reason}; give postgres://USER@HOST/DATABASE"
    )]
    Address {
        /// What is wrong with it.
        reason: String,
    },
    /// The server does not let this user in.
    #[error("the database refuses the user: {reason}; check user and password in the address")]
    AccessDenied {
        /// What the server says.
        reason: String,
    },
    /// Anything else that the database says.
    #[error("the database fails: {reason}")]
    Failed {
        /// What it says.
        reason: String,
    },
    /// The server has no such database.
    #[error("{reason}; create it, or name another one in the address")]
    NoDatabase {
        /// What the server says.
        reason: String,
    },
    /// The schema was made by a newer version of this program.
    #[error(
        "the schema {schema} has version {found}, this program knows up to {supported}; \
         run a newer program"
    )]
    NewerSchema {
        /// Its name.
        schema: String,
        /// Its version.
        found: i32,
        /// The newest that this program knows.
        supported: i32,
    },
    /// There is no store in the schema.
    #[error("there is no store in the schema {schema}; make one with `PostgresStore::migrate`")]
    NoSchema {
        /// Its name.
        schema: String,
    },
    /// The user may not do what is needed.
    #[error(
        "the user has no permission: {reason}; to migrate it needs CREATE on the database, \
         to run USAGE on the schema, all on its tables and sequences and EXECUTE on its functions"
    )]
    NotPermitted {
        /// What the server says.
        reason: String,
    },
    /// The schema is older than this program.
    #[error(
        "the schema {schema} has version {found}, this program needs {supported}; \
         bring it there with `PostgresStore::migrate`"
    )]
    OlderSchema {
        /// Its name.
        schema: String,
        /// Its version.
        found: i32,
        /// The one that this program needs.
        supported: i32,
    },
    /// The schema's name is none that this program uses.
    #[error(
        "{name:?} is no name for a schema: use 1 to {SCHEMA_BYTES_MAX} lower-case letters, \
         digits and _, no digit first"
    )]
    SchemaName {
        /// The name.
        name: String,
    },
    /// The server only reads: it is a standby, or was made read-only.
    #[error("the database takes no writes: {reason}; name the primary in the address")]
    Standby {
        /// What the server says.
        reason: String,
    },
    /// The server has no connection left.
    #[error(
        "the database has no connection left: {reason}; raise its max_connections or lower \
         `connections_max`"
    )]
    TooManyConnections {
        /// What the server says.
        reason: String,
    },
    /// The connection cannot be encrypted as the address demands. Nothing was said to the server.
    #[error("the connection to the database cannot be encrypted: {reason}")]
    Tls {
        /// Why, and what to do.
        reason: String,
    },
    /// The address demands TLS, and the program was built without it.
    #[error(
        "the address demands TLS and this program has none; build it with the feature \
         `postgres-tls`, or reach the database over a private network with sslmode=disable"
    )]
    TlsDemanded,
    /// No server answers there.
    #[error("the database cannot be reached: {reason}; check host, port and whether it runs")]
    Unreachable {
        /// Why.
        reason: String,
    },
}

/// What became of a statement that was not answered with rows.
#[derive(Debug)]
pub(super) enum Failure {
    /// A serialization failure or a deadlock: nothing was done, and it may be tried again.
    Conflict(String),
    /// A row or a lock of somebody else's was in the way and nothing was done: the same.
    InTheWay(String),
    /// The connection ended before the answer came: it may have been done or not.
    Lost(String),
    /// There was no connection: nothing was done.
    NotConnected(OpenError),
    /// The database refuses it, and nothing was done.
    Refused(String),
}

// === impl OpenError ===

impl OpenError {
    /// Why a connection was not made, or not set up.
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let reason = told(error);
        let Some(state) = error.code() else {
            return Self::Unreachable { reason };
        };
        if *state == SqlState::INVALID_PASSWORD
            || *state == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
        {
            return Self::AccessDenied { reason };
        }
        if *state == SqlState::INVALID_CATALOG_NAME {
            return Self::NoDatabase { reason };
        }
        if *state == SqlState::INSUFFICIENT_PRIVILEGE {
            return Self::NotPermitted { reason };
        }
        if *state == SqlState::TOO_MANY_CONNECTIONS {
            return Self::TooManyConnections { reason };
        }
        if *state == SqlState::READ_ONLY_SQL_TRANSACTION
            || *state == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
        {
            return Self::Standby { reason };
        }
        if *state == SqlState::CANNOT_CONNECT_NOW {
            return Self::Unreachable { reason };
        }
        Self::Failed { reason }
    }

    /// Whether waiting a moment may help.
    pub(super) const fn passes(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Standby { .. } | Self::TooManyConnections { .. }
        )
    }
}

// === impl Failure ===

impl Failure {
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let reason = told(error);
        let Some(state) = error.code() else {
            return Self::Lost(reason);
        };
        if *state == SqlState::T_R_SERIALIZATION_FAILURE
            || *state == SqlState::T_R_DEADLOCK_DETECTED
            || is_name_of_another(state)
        {
            return Self::Conflict(reason);
        }
        if *state == SqlState::UNIQUE_VIOLATION || *state == SqlState::LOCK_NOT_AVAILABLE {
            return Self::InTheWay(reason);
        }
        // What ends the session tells nothing of what was sent before: a server that panics in a commit
        // may find it durable afterwards, and a pooler says so of a server that died before it answered.
        let severity = error.as_db_error().and_then(DbError::parsed_severity);
        let is_over = matches!(severity, Some(Severity::Fatal | Severity::Panic));
        let is_of_connection = state.code().starts_with("08");
        if is_over || is_of_connection || *state == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN {
            return Self::Lost(reason);
        }
        // A server that is shut down says so, and may have committed before.
        let ends = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::IDLE_SESSION_TIMEOUT,
        ];
        if ends.contains(state) {
            return Self::Lost(reason);
        }
        Self::Refused(reason)
    }

    /// What a call is told.
    pub(super) fn into_store_error(self) -> StoreError {
        match self {
            Self::Conflict(reason)
            | Self::InTheWay(reason)
            | Self::Lost(reason)
            | Self::Refused(reason) => unavailable(reason),
            Self::NotConnected(error) => unavailable(error.to_string()),
        }
    }
}

/// A statement's name that is unknown to the backend, or taken there: behind a pooler it was another one's. Nothing
/// was done under it.
pub(super) fn is_name_of_another(state: &SqlState) -> bool {
    *state == SqlState::INVALID_SQL_STATEMENT_NAME || *state == SqlState::DUPLICATE_PSTATEMENT
}

/// The call fails closed.
pub(super) fn unavailable(reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable {
        reason: reason.into(),
        retry_after: RETRY_AFTER,
    }
}

/// What the server says, without the statement and its values: a value may be a secret.
fn told(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} ({})", db.message(), db.code().code());
    }
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A database that was restarted or has failed over is back after some seconds.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A name of PostgreSQL has at most 63 bytes.
pub(super) const SCHEMA_BYTES_MAX: usize = 48;
