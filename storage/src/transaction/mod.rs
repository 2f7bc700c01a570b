//! Effects that lie in the same store as the record of their call.
//!
//! The rule: **what a handler writes to its [`Transaction`] and the answer of its call become durable
//! together, or neither does.** A crash at any point leaves nothing half-done and nothing in doubt:
//! the retry runs.
//!
//! ```text
//!  begin ---> claim, in memory only         nothing is written
//!  start ---> Transaction --> handler       reads are remembered, writes are kept
//!  commit --> reads hold? --- yes ---> writes + record: one durable write
//!               '---- no, somebody changed what was read ---> start again
//! ```
//!
//! # Why not the transactions of the database
//!
//! Those of an embedded one run user code as a synchronous closure under a lock of the whole
//! database. Here the handler is async and takes as long as it likes; nobody waits for it. Whoever
//! commits first wins, and the others run again on what they then find. A transaction that commits
//! has read what it would have read had it run alone at that moment: no update is lost, and no two
//! transactions decide by what the other is about to change.
//!
//! # What a handler may count on
//!
//! While it runs, two reads of different rows may come from before and after somebody's commit. Such
//! a run never commits. It must not *do* anything but write to its transaction: it may run several
//! times, and a run may come to nothing.

mod error;
mod handle;
mod merge;
mod range;
mod store;
mod table;
mod work;

pub use self::error::{CommitError, StatementError, TransactionError};
pub use self::handle::{OwnKind, ReadRows, Transaction};
pub use self::merge::merge;
pub use self::range::{KeyBounds, Row, RowRange};
pub use self::store::{CommitFuture, TransactionalStore};
pub use self::table::{
    KEY_BYTES_MAX, TABLE_BYTES_MAX, TABLES_MAX, Table, TableError, VALUE_BYTES_MAX,
};
pub use self::work::{
    RANGE_ROWS_MAX, READS_MAX, ROWS_READ_MAX, ROWS_WRITTEN_MAX, Seen, WRITTEN_BYTES_MAX, Work,
    Writes,
};
