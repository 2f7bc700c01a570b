//! What happened in a run: one line of JSON an event, in the order in which it happened.
//!
//! The first line says what was run ([`RunHeader`]), the last one what was read at the end
//! ([`RunEnd`]); a file without a last line is a run that did not get there, and proves nothing.
//! Every executor writes the same words, so that one checker judges them all, and judges an old
//! run again.
//!
//! ```
//! use onlyonce_chaos::history::{Event, Happened, RunHeader, RunRecord};
//!
//! let mut record = RunRecord::new(RunHeader::new("one call", "mine", 7));
//! record.events.push(Event {
//!     at_us: 10,
//!     call: 1,
//!     attempt: 0,
//!     what: Happened::Invoked { client: 1, key: "order-1".into(), payload: b"pay 10".to_vec() },
//! });
//!
//! let mut lines = Vec::new();
//! record.write(&mut lines).unwrap();
//! let again = RunRecord::read(lines.as_slice()).unwrap();
//! assert_eq!(again, record);
//! ```

mod event;
mod lines;
mod record;

#[cfg(test)]
mod tests;

pub use event::{Ending, Event, Happened, OTHER_STORE, Seen, in_vain, was_in_vain};
pub use lines::{HistoryError, LINE_BYTES_MAX, Line, Lines};
pub use record::{Defect, Fired, RunEnd, RunHeader, RunRecord, TraceHash};
