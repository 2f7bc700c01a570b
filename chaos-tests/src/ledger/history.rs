//! What clients asked for, and what they were told.

use std::fmt;

use bytes::Bytes;

/// The name of one intent: all its attempts, and every replay of its answer, carry the same one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationKey(Bytes);

/// How a client's call ended, once.
///
/// An operation can end more than once: a call that was in doubt is resumed, an answer is asked
/// for again. Each time is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// An answer that promises the effect, byte for byte. First answers and replays alike.
    Answered(Bytes),
    /// A definitive answer that promises that there is no effect, such as "insufficient funds".
    Declined(Bytes),
    /// The server says that it does not know.
    InDoubt,
    /// The client was told that no attempt of this operation was or will be executed. (A server
    /// that is merely busy with the same key says no such thing.)
    Refused,
    /// The client gave up without having learned anything.
    Unknown,
}

/// One call of a client: the key, what was asked for, how often it was sent, how it ended.
///
/// Twins, two clients with the same key, are two operations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an operation is not checked until it is in a history"]
pub struct Operation {
    pub(super) key: OperationKey,
    pub(super) payload: Bytes,
    pub(super) attempts: u32,
    pub(super) endings: Vec<Ending>,
}

/// All operations of a run. Their order does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub(super) operations: Vec<Operation>,
}

// === impl OperationKey ===

impl OperationKey {
    /// The bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&'static str> for OperationKey {
    fn from(key: &'static str) -> Self {
        Self(key.into())
    }
}

impl From<String> for OperationKey {
    fn from(key: String) -> Self {
        Self(key.into())
    }
}

impl From<Vec<u8>> for OperationKey {
    fn from(key: Vec<u8>) -> Self {
        Self(key.into())
    }
}

impl From<Bytes> for OperationKey {
    fn from(key: Bytes) -> Self {
        Self(key)
    }
}

/// The number in decimal digits.
impl From<u64> for OperationKey {
    fn from(key: u64) -> Self {
        key.to_string().into()
    }
}

/// The key as text, with what is not printable escaped.
impl fmt::Display for OperationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for OperationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperationKey({self})")
    }
}

// === impl Operation ===

impl Operation {
    /// An operation that was never sent and has no end. The payload is what identifies the
    /// request: its bytes, or a digest of them.
    pub fn new(key: impl Into<OperationKey>, payload: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            payload: payload.into(),
            attempts: 0,
            endings: Vec::new(),
        }
    }

    /// How many attempts were sent in all. With 0, nobody has asked for the effect.
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// One more end. Without any, the run is not over, and cannot be called valid.
    pub fn ended(mut self, ending: Ending) -> Self {
        self.endings.push(ending);
        self
    }
}

// === impl History ===

impl History {
    /// A history without operations.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            operations: Vec::new(),
        }
    }

    /// Adds an operation.
    pub fn push(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// How many operations there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

impl Extend<Operation> for History {
    fn extend<I: IntoIterator<Item = Operation>>(&mut self, operations: I) {
        self.operations.extend(operations);
    }
}

impl FromIterator<Operation> for History {
    fn from_iter<I: IntoIterator<Item = Operation>>(operations: I) -> Self {
        Self {
            operations: operations.into_iter().collect(),
        }
    }
}
