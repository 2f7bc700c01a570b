//! Messages as they stand in bodies: a flag, four bytes of length, and the message.

use bytes::{Buf, Bytes};

/// The one message of a unary request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// By what `grpc-encoding` says.
    pub(crate) compressed: bool,
    pub(crate) bytes: Bytes,
}

/// What stands before a message.
pub(crate) const PREFIX_BYTES: usize = 5;

// === impl Message ===

impl Message {
    /// The only message of `body`.
    ///
    /// # Errors
    ///
    /// What is wrong, for the caller, when there is less or more than one.
    pub(crate) fn only_one_of(body: &Bytes) -> Result<Self, &'static str> {
        let mut rest = body.clone();
        if rest.is_empty() {
            return Err("the request has no message, and a protected method takes one");
        }
        if rest.len() < PREFIX_BYTES {
            return Err(CUT);
        }
        let compressed = match rest.get_u8() {
            0 => false,
            1 => true,
            _ => return Err("the request's message begins with an unknown flag"),
        };
        let length = rest.get_u32() as usize;
        if rest.len() < length {
            return Err(CUT);
        }
        let bytes = rest.split_to(length);
        if !rest.is_empty() {
            return Err("the request has more than one message, and a protected method takes one");
        }
        Ok(Self { compressed, bytes })
    }
}

const CUT: &str = "the request's message is cut off";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[flag], &length[..], message].concat()
    }

    #[test]
    fn a_body_is_one_message_or_it_is_refused() {
        for (flag, compressed) in [(0, false), (1, true)] {
            let message = Message::only_one_of(&framed(flag, b"pay").into()).unwrap();
            assert_eq!(message.compressed, compressed);
            assert_eq!(message.bytes, "pay");
        }
        assert!(Message::only_one_of(&framed(0, b"").into()).is_ok());
        let two = [framed(0, b"pay"), framed(0, b"pay")].concat();
        assert!(Message::only_one_of(&two.into()).is_err());
        let mut one = framed(0, b"pay");
        for length in 0..one.len() {
            let cut = Bytes::copy_from_slice(&one[..length]);
            assert!(Message::only_one_of(&cut).is_err(), "{length}");
        }
        one[0] = 2;
        assert!(Message::only_one_of(&one.into()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Message::only_one_of(&bytes.into());
        }
    }
}
