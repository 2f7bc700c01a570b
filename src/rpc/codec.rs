//! The crate's one bincode configuration: little endian, varint, always limited.
//!
//! bincode is not self-describing: a field that is added breaks the bytes that are there, so a
//! changed message gets a new kind number or a new protocol version. Byte fields are decoded as
//! borrows of the frame, so a hostile length can make nothing larger than the frame itself.

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use bincode::error::DecodeError;
use bincode::{BorrowDecode, Encode};

/// Appends `message` to `bytes`.
pub(super) fn encode_into(message: impl Encode, bytes: &mut Vec<u8>) {
    // OK because encoding into a `Vec` fails only for types that ours are not (no unsized maps).
    bincode::encode_into_std_write(message, bytes, CONFIG).expect("a message encodes into memory");
}

/// The message that `bytes` begin with, and what is behind it; otherwise what is wrong with them.
pub(super) fn decode_prefix<'a, M: BorrowDecode<'a, ()>>(
    bytes: &'a [u8],
) -> Result<(M, &'a [u8]), &'static str> {
    match bincode::borrow_decode_from_slice::<M, _>(bytes, CONFIG) {
        Ok((message, length)) => Ok((message, &bytes[length..])),
        Err(DecodeError::UnexpectedEnd { .. }) => Err("it is too short"),
        Err(DecodeError::LimitExceeded) => Err("it claims more bytes than any message has"),
        Err(DecodeError::Utf8 { .. }) => Err("a text is not UTF-8"),
        Err(_) => Err("a field holds what it cannot"),
    }
}

/// The message that `bytes` are, all of them; otherwise what is wrong with them.
pub(super) fn decode<'a, M: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<M, &'static str> {
    match decode_prefix(bytes)? {
        (message, []) => Ok(message),
        (_, [..]) => Err("bytes are left over behind it"),
    }
}

/// No frame is larger, whatever the options say; so no message claims more.
pub(super) const FRAME_BYTES_CEILING: usize = 64 * 1024 * 1024;

#[expect(
    clippy::disallowed_methods,
    reason = "this is the crate's one codec, and it is limited"
)]
pub(super) const CONFIG: Configuration<LittleEndian, Varint, Limit<FRAME_BYTES_CEILING>> =
    config::standard().with_limit::<FRAME_BYTES_CEILING>();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_length_is_refused_without_memory() {
        // A byte string that claims 2^63 bytes: unlimited decoding would abort the process.
        let mut bytes = vec![253];
        bytes.extend_from_slice(&(1_u64 << 63).to_le_bytes());
        assert_eq!(
            decode::<&[u8]>(&bytes),
            Err("it claims more bytes than any message has")
        );
        assert_eq!(decode::<&[u8]>(&[200, 1, 2, 3]), Err("it is too short"));
    }
}
