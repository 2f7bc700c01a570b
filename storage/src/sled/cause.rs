//! Why an opening goes no further: what lies on the disk is damaged, or the disk did not give it.
//!
//! The two are kept apart because the operator acts differently: a copy is restored where records
//! are lost, and nothing is where a disk, a cable or a limit is in the way.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use super::SyncError;
use crate::StoreError;

/// Why an opening goes no further.
#[derive(Debug)]
pub(super) enum Cause {
    /// What was read is not what was written.
    Damaged(String),
    /// It could not be read or written, which says nothing about what is there.
    Disk(io::Error),
}

/// Reads every file in `directory` to its end, and throws away what it reads.
///
/// sled takes a part of its log that it cannot read for one that is not there, and cuts the log
/// before it: a disk that fails for a moment would cost what was acknowledged. Whoever asks first
/// is told. It costs little, because an opening reads all pages anyway, and then from memory.
pub(super) fn read_through(directory: &Path) -> Result<(), Cause> {
    let mut buffer = vec![0; READ_BYTES];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let unreadable = |error| {
            let name = entry.file_name();
            let place = format!("the file {} could not be read", name.to_string_lossy());
            Cause::from(error).at(place)
        };
        let mut file = File::open(entry.path()).map_err(unreadable)?;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
    }
    Ok(())
}

// === impl Cause ===

impl Cause {
    /// The same, with the place in front.
    pub(super) fn at(self, place: impl fmt::Display) -> Self {
        match self {
            Self::Damaged(reason) => Self::Damaged(format!("{place}: {reason}")),
            Self::Disk(error) => {
                Self::Disk(io::Error::new(error.kind(), format!("{place}: {error}")))
            }
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(reason) => f.write_str(reason),
            Self::Disk(error) => error.fmt(f),
        }
    }
}

impl From<String> for Cause {
    fn from(reason: String) -> Self {
        Self::Damaged(reason)
    }
}

impl From<&str> for Cause {
    fn from(reason: &str) -> Self {
        Self::Damaged(reason.to_owned())
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The disk has answered: a file is shorter or other than it was.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Disk(error),
        }
    }
}

impl From<::sled::Error> for Cause {
    fn from(error: ::sled::Error) -> Self {
        match error {
            ::sled::Error::Io(error) => error.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<StoreError> for Cause {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { reason, .. } => Self::Disk(io::Error::other(reason)),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<SyncError> for Cause {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Flush(error) => Self::from(error).at("sled could not flush"),
            SyncError::Sync { ref source, .. } => {
                Self::Disk(io::Error::new(source.kind(), error.to_string()))
            }
        }
    }
}

/// What one read asks for: the larger, the fewer; no longer a matter of a megabyte.
const READ_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_disk_that_fails_is_not_damage_and_a_file_that_is_cut_off_is() {
        let kind = |cause| match cause {
            Cause::Damaged(_) => None,
            Cause::Disk(error) => Some(error.kind()),
        };
        let sled = |kind: io::ErrorKind| Cause::from(::sled::Error::Io(kind.into()));
        let failed = io::ErrorKind::StorageFull;
        assert_eq!(kind(sled(failed)), Some(failed));
        assert_eq!(kind(sled(failed).at("page 7")), Some(failed));
        assert_eq!(kind(sled(io::ErrorKind::UnexpectedEof)), None);
        assert_eq!(kind(sled(io::ErrorKind::InvalidData)), None);
        let corruption = ::sled::Error::Corruption { at: None, bt: () };
        assert_eq!(kind(corruption.into()), None);
        let sync = SyncError::Sync {
            path: "calls".into(),
            source: failed.into(),
        };
        assert_eq!(kind(sync.into()), Some(failed));
        assert_eq!(
            kind(SyncError::Flush(::sled::Error::Io(failed.into())).into()),
            Some(failed)
        );
        let unavailable = StoreError::Unavailable {
            reason: "a row could not be read".to_owned(),
            retry_after: Duration::ZERO,
        };
        assert_eq!(kind(unavailable.into()), Some(io::ErrorKind::Other));
        assert_eq!(kind(StoreError::Corrupt("x".to_owned()).into()), None);
    }
}
