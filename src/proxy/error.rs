//! Why a proxy does not start.

use std::fmt;
use std::io;

/// Why a proxy does not start, or does not stop well.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProxyError {
    /// A setting cannot be used. Nothing was opened.
    Config(ConfigError),
    /// An address cannot be listened at.
    Listen {
        /// The setting that names it.
        field: &'static str,
        /// What the operating system says.
        source: io::Error,
    },
    /// The store cannot be opened, or not be closed. In words, without the password that its URL
    /// may hold.
    Store(String),
}

/// A setting that cannot be used: its name, and what to do about it.
///
/// The value is not repeated, since it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The setting, as it is called in the file; the flag has two dashes in front.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub problem: String,
}

// === impl ConfigError ===

impl ConfigError {
    /// `problem` with the setting called `field`.
    pub fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self {
            field,
            problem: problem.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for ConfigError {}

// === impl ProxyError ===

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Listen { field, source } => write!(f, "{field}: {source}"),
            Self::Store(words) => write!(f, "store: {words}"),
        }
    }
}

impl std::error::Error for ProxyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::Listen { source, .. } => Some(source),
            Self::Store(_) => None,
        }
    }
}

impl From<ConfigError> for ProxyError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
