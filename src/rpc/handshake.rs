//! What two peers say to each other before the first call.

use std::fmt;

use bytes::Bytes;

/// The version of the protocol that this program speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// The largest credential, in bytes: room for a signed assertion, too little to hurt.
pub const CREDENTIAL_BYTES_MAX: usize = 4 * 1024;

/// Says who calls: opaque to the transport, at most 4 KiB. Never printed.
#[derive(Clone, Default)]
pub struct Credential(Bytes);

/// A credential is longer than 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("credential has {length} bytes, at most {CREDENTIAL_BYTES_MAX} are allowed")]
pub struct CredentialTooLong {
    /// How long it was, in bytes.
    length: usize,
}

impl Credential {
    /// The credential of somebody who has none.
    #[must_use]
    pub const fn none() -> Self {
        Self(Bytes::new())
    }

    /// The credential with these bytes.
    ///
    /// # Errors
    ///
    /// When they are more than 4 KiB.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, CredentialTooLong> {
        let bytes = bytes.into();
        if bytes.len() > CREDENTIAL_BYTES_MAX {
            return Err(CredentialTooLong {
                length: bytes.len(),
            });
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({} bytes)", self.0.len())
    }
}
