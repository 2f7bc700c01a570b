//! Keys, claims, records and the stores that keep them.
//!
//! This crate is the floor that everything of onlyonce stands on: what a call is named by
//! ([`IdempotencyKey`], [`Scope`]), what it asks for ([`Fingerprint`]), the right to execute it
//! ([`Claim`]), what is remembered of it ([`Completion`], [`InDoubt`]) and the contract of whatever
//! remembers ([`Store`]). It knows no protocol and no transport.
//!
//! The rule: **the effect of a call happens at most once per key; whoever gets an answer gets the
//! same answer; an outcome that cannot be known is called in doubt, never guessed.**
//!
//! # Features
//!
//! - `memory` (default): `MemoryStore`, the reference, for tests and for effects that die with
//!   the process.
//! - `sled`: `SledStore`, the embedded durable store, and `SledOutbox`, which keeps a client's calls.
//! - `postgres`: `PostgresStore`, the store on PostgreSQL, which several processes share.
//! - `conformance`: the suite that every store must pass, as the macro `conformance!`.
//! - `fuzzing`: what the fuzzer runs, of the parsers that are private; no part of the public API.
//! - `points`: a test may end the process at any named point of the code.

mod claim;
mod clock;
pub mod codec;
#[cfg(any(feature = "memory", feature = "sled"))]
pub mod commit;
mod completion;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod fingerprint;
pub mod inspect;
pub mod journal;
mod key;
mod kill_point;
mod limits;
#[cfg(feature = "memory")]
mod memory;
#[doc(hidden)]
pub mod mutants;
mod operator;
pub mod outbox;
#[cfg(feature = "points")]
pub mod points;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod record;
mod retention;
mod session;
#[cfg(feature = "simulated")]
#[doc(hidden)]
pub mod simulated;
#[cfg(feature = "sled")]
pub mod sled;
mod store;
pub mod transaction;
pub mod transition;

pub use crate::claim::{
    Abandoned, AttemptId, Claim, ClaimOutcome, ClaimRequest, FencingToken, Lease, SessionCall,
};
pub use crate::clock::{Clock, ClockSuspicion, ManualClock, SystemClock, Timestamp};
pub use crate::completion::{Answer, AnswerFormat, Completion, DoubtReason, InDoubt};
pub use crate::error::{SettleError, StoreError};
pub use crate::fingerprint::{
    Comparison, Fingerprint, FingerprintAlgorithm, FingerprintBuilder, Fingerprints,
};
pub use crate::inspect::{
    AnswerBytes, Cursor, KeyView, ListPage, ListRequest, OpenState, RecordView, StateView,
    StepView, StoreStats,
};
pub use crate::journal::{CallJournal, Journal, NoteError, StepName, StepNote};
pub use crate::key::{
    IdempotencyKey, KEY_BYTES_MAX, KeyDigest, KeyError, KeyPolicy, SCOPE_PART_BYTES_MAX, Scope,
    ScopeDigest, ScopeError, ScopedKey,
};
pub use crate::limits::{ANSWER_BYTES_LIMIT, JOURNAL_BYTES_LIMIT, STEPS_LIMIT, StoreLimits};
#[cfg(feature = "memory")]
pub use crate::memory::{MemoryOptions, MemoryStore};
pub use crate::operator::{OPERATOR_BYTES_MAX, Operator, OperatorError};
pub use crate::record::KeyState;
pub use crate::retention::{HorizonTooShort, RetentionOptions};
pub use crate::session::{SESSION_WINDOW, SessionRequest, SessionState};
#[cfg(feature = "sled")]
pub use crate::sled::{
    OpenError, OutboxOpenError, OutboxOptions, SledOptions, SledOutbox, SledStore,
};
pub use crate::store::{Inspect, Question, Resolution, Store, StoreFuture, StoreId, Swept};
