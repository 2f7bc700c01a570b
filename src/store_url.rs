//! Names of stores, as the program takes them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Which store: `memory:`, `sled:PATH` or `postgres://...`.
///
/// Only its shape is checked here; what it names is looked at by whoever opens it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreUrl {
    /// In this process alone, gone with it.
    Memory,
    /// The embedded durable store in this folder.
    Sled(PathBuf),
    /// The shared store at this address, as `tokio-postgres` reads it. It may hold a password.
    Postgres(String),
}

/// Why a text names no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreUrlError {
    /// Nothing after `sled:`.
    #[error("sled: needs a folder, such as sled:/var/lib/app/onlyonce")]
    NoFolder,
    /// Another word before the colon, or none. The text is not repeated: it may hold a password.
    #[error("no such store: say memory:, sled:PATH or postgres://USER@HOST/DATABASE")]
    Unknown,
}

// === impl StoreUrl ===

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        if text == "memory:" {
            return Ok(Self::Memory);
        }
        if let Some(path) = text.strip_prefix("sled:") {
            return match path {
                "" => Err(StoreUrlError::NoFolder),
                path => Ok(Self::Sled(PathBuf::from(path))),
            };
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        Err(StoreUrlError::Unknown)
    }
}

/// Without the address of a database, which may hold a password.
impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("Memory"),
            Self::Sled(path) => f.debug_tuple("Sled").field(path).finish(),
            Self::Postgres(_) => f.debug_tuple("Postgres").finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_by_what_keeps_it_and_where() {
        let parsed = |text: &str| text.parse::<StoreUrl>();
        assert_eq!(parsed("memory:"), Ok(StoreUrl::Memory));
        assert_eq!(parsed("sled:/a b"), Ok(StoreUrl::Sled("/a b".into())));
        let address = "postgres://app@db/app";
        assert_eq!(parsed(address), Ok(StoreUrl::Postgres(address.to_owned())));
        assert_eq!(parsed("sled:"), Err(StoreUrlError::NoFolder));
        for wrong in ["", "memory", "mysql://db/app", "/var/lib/app"] {
            assert_eq!(parsed(wrong), Err(StoreUrlError::Unknown), "{wrong}");
        }
    }

    #[test]
    fn a_password_is_neither_in_debug_output_nor_in_an_error() {
        let url: StoreUrl = "postgres://app:hunter2@db/app"
            .parse()
            .unwrap_or(StoreUrl::Memory);
        assert_eq!(format!("{url:?}"), "Postgres(..)");
        let error = "postgre://app:hunter2@db/app".parse::<StoreUrl>();
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
