//! Who ends a doubt.

use std::fmt;
use std::sync::Arc;

/// The name of whoever resolves a call in doubt: 1 to 64 visible ASCII characters.
///
/// It is stored with the record and shown to whoever looks at it, so it names a person or a
/// program and is no secret. Nothing checks that it is true. Cloning is cheap.
///
/// ```
/// use onlyonce_storage::Operator;
///
/// assert_eq!(Operator::parse("alice")?.as_str(), "alice");
/// assert!(Operator::parse("two words").is_err());
/// # Ok::<(), onlyonce_storage::OperatorError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Operator(Arc<str>);

/// Why a text is no operator's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The text is empty.
    #[error("operator's name is empty; give 1 to {OPERATOR_BYTES_MAX} visible ASCII characters")]
    Empty,
    /// The text is longer than 64 bytes.
    #[error("operator's name has {length} bytes, at most {OPERATOR_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it was, in bytes.
        length: usize,
    },
    /// A byte is not visible ASCII (`!` to `~`).
    #[error("operator's name has a byte at position {position} that is not visible ASCII")]
    Unprintable {
        /// Position of the first such byte, from 0.
        position: usize,
    },
}

// === impl Operator ===

impl Operator {
    /// The operator of this name.
    ///
    /// # Errors
    ///
    /// When `text` is empty, longer than 64 bytes, or has a byte that is not visible ASCII.
    pub fn parse(text: &str) -> Result<Self, OperatorError> {
        if text.is_empty() {
            return Err(OperatorError::Empty);
        }
        if text.len() > OPERATOR_BYTES_MAX {
            return Err(OperatorError::TooLong { length: text.len() });
        }
        if let Some(position) = text.bytes().position(|byte| !byte.is_ascii_graphic()) {
            return Err(OperatorError::Unprintable { position });
        }
        Ok(Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Operator({})", self.0)
    }
}

/// Longer than the longest user name of Linux, which has 32.
pub const OPERATOR_BYTES_MAX: usize = 64;
