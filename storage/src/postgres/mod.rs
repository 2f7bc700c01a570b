//! The store on PostgreSQL, which any number of processes share.
//!
//! The rule: **every change is one statement that compares before it sets**, with the record's token
//! and version, on the database's clock. So no process has to know of another: of two that write, the
//! second finds that what it has read is no longer so, and decides anew.
//!
//! ```text
//!  process 1 --+                      +-- claim(): absent -> in progress, in one round trip
//!  process 2 --+--> pool -----------> |   what is there comes back, and `transition` decides
//!  process 3 --+    (16)              +-- records, journal, sessions, store: a schema of its own
//! ```
//!
//! What is decided in SQL (`migrations/`) is what must be one step with a read: whether an absent key
//! may be claimed, and the changes by which a claim is spent. Everything else is decided by
//! [`transition`](crate::transition) and written if the record is still the one that was read. The
//! suite that every store passes holds both to the same rules.
//!
//! Who waits for another server's call asks now and then, and is told to ask at once when that is settled
//! (`hearing.rs`).
//!
//! What holds and what does not, failover and poolers above all, stands in `src/manual/postgres.md`.

mod abandoning;
mod address;
mod asking;
mod claiming;
mod committing;
mod connection;
mod direct;
mod error;
mod hearing;
mod held;
mod holding;
mod journaling;
mod kept;
mod migrations;
mod one_statement;
mod options;
mod outbox;
mod pool;
mod room;
mod run;
mod settling;
mod sql;
mod statement;
mod steps;
mod store;
mod stored;
mod sweeping;
mod time;
#[cfg(feature = "postgres-tls")]
mod tls;

pub use self::error::OpenError;
pub use self::migrations::Migration;
pub use self::one_statement::{OneStatement, OneStatementOutcome};
pub use self::options::{Isolation, PostgresOptions};
pub use self::outbox::{OutboxOpenError, PostgresOutbox, PostgresOutboxOptions};
pub use self::sql::{Savepoint, Sql, SqlValue};
pub use self::store::PostgresStore;
pub use tokio_postgres::Row;
pub use tokio_postgres::types::{ToSql, Type};
