//! An outbox in the schema of a store on PostgreSQL.
//!
//! The rule: **one process at a time has an outbox, and the database is what knows which.** Whoever opens
//! it draws a larger epoch. Every word names its epoch, in the statement that makes the change: a process
//! that stood still while another one took over changes nothing more, and sends nothing more.
//!
//! Nothing is kept in memory but the next number. Each change reads the call, decides by the rules that
//! hold for every outbox, and writes it where it is still the one that was read.

mod open;
mod options;
mod rows;
mod store;

pub use self::open::OutboxOpenError;
pub use self::options::PostgresOutboxOptions;
pub use self::store::PostgresOutbox;
