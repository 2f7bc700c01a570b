//! The user's types in bytes: arguments, replies, faults.
//!
//! The one place of this crate that turns serde types into bytes.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::CONFIG;

/// The bytes are not a value of the type that was expected, or a value cannot become bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ValueError(String);

/// `value` in bytes.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Bytes, ValueError> {
    let bytes = bincode::serde::encode_to_vec(value, CONFIG);
    bytes
        .map(Bytes::from)
        .map_err(|error| ValueError(error.to_string()))
}

/// The value that all of `bytes` is.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ValueError> {
    let (value, length) = bincode::serde::decode_from_slice(bytes, CONFIG)
        .map_err(|error| ValueError(error.to_string()))?;
    if length != bytes.len() {
        return Err(ValueError(format!(
            "{} bytes are left over",
            bytes.len() - length
        )));
    }
    Ok(value)
}

/// What a handler answered, in bytes: a reply or a fault.
pub(crate) fn encode_result<R: Serialize, F: Serialize>(
    result: Result<&R, &F>,
) -> Result<Bytes, ValueError> {
    let (tag, value) = match result {
        Ok(reply) => (REPLY, encode(reply)?),
        Err(fault) => (FAULT, encode(fault)?),
    };
    let mut bytes = Vec::with_capacity(value.len() + 1);
    bytes.push(tag);
    bytes.extend_from_slice(&value);
    Ok(bytes.into())
}

/// The reply or fault in these bytes.
pub(crate) fn decode_result<R: DeserializeOwned, F: DeserializeOwned>(
    bytes: &[u8],
) -> Result<Result<R, F>, ValueError> {
    match bytes.split_first() {
        Some((&REPLY, value)) => decode(value).map(Ok),
        Some((&FAULT, value)) => decode(value).map(Err),
        Some((tag, _)) => Err(ValueError(format!("answer has unknown tag {tag}"))),
        None => Err(ValueError("answer is empty".to_owned())),
    }
}

const REPLY: u8 = 0;
const FAULT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_their_bytes_are_golden() {
        let bytes = encode(&(7_u32, "seven".to_owned())).unwrap();
        assert_eq!(&bytes[..], b"\x07\x05seven");
        assert_eq!(
            decode::<(u32, String)>(&bytes).unwrap(),
            (7, "seven".to_owned())
        );
    }

    #[test]
    fn the_bytes_of_every_kind_of_value_are_as_the_manual_says() {
        #[derive(Serialize)]
        enum Choice {
            #[expect(dead_code, reason = "it takes the first number")]
            First,
            Second {
                signed: i32,
                optional: Option<u16>,
            },
        }
        let choice = Choice::Second {
            signed: -2,
            optional: Some(300),
        };
        let value = (choice, 1.5_f32, true, vec![7_u8, 8], 'ä', u128::from(9_u8));
        let bytes = encode(&value).unwrap();
        let mut golden = vec![1, 3, 1, 251, 0x2c, 0x01];
        golden.extend_from_slice(&[0, 0, 0xc0, 0x3f]);
        golden.extend_from_slice(&[1, 2, 7, 8, 0xc3, 0xa4, 9]);
        assert_eq!(&bytes[..], golden);
    }

    #[test]
    fn replies_and_faults_are_told_apart_by_a_tag_that_never_changes() {
        let reply = encode_result::<u8, u8>(Ok(&1)).unwrap();
        let fault = encode_result::<u8, u8>(Err(&1)).unwrap();
        assert_eq!(&reply[..], [0, 1]);
        assert_eq!(&fault[..], [1, 1]);
        assert_eq!(decode_result::<u8, u8>(&reply).unwrap(), Ok(1));
        assert_eq!(decode_result::<u8, u8>(&fault).unwrap(), Err(1));
    }

    #[test]
    fn truncated_left_over_and_hostile_bytes_are_errors() {
        assert!(decode::<(u32, String)>(b"\x07\x05sev").is_err());
        assert!(decode::<u8>(b"\x07\x07").is_err());
        assert!(decode_result::<u8, u8>(b"").is_err());
        assert!(decode_result::<u8, u8>(b"\x02\x01").is_err());
        // A length of 2^64 - 1 in twelve bytes.
        let hostile = b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
        assert!(decode::<Vec<u64>>(hostile).is_err());
        assert!(decode::<String>(hostile).is_err());
    }
}
