//! The user's types in bytes: arguments, replies, faults.
//!
//! The one place of this crate that turns serde types into bytes.

use std::marker::PhantomData;

use bincode::error::DecodeError;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bounded::{self, Bounds};
use super::codec::CONFIG;

/// The bytes are not a value of the type that was expected, or a value cannot become bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ValueError(String);

/// `value` in bytes.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Bytes, ValueError> {
    encode_behind(Vec::with_capacity(ENCODED_BYTES), value)
}

/// `value` in bytes behind those that are there.
fn encode_behind<T: Serialize>(mut bytes: Vec<u8>, value: &T) -> Result<Bytes, ValueError> {
    let encoded = bincode::serde::encode_into_std_write(value, &mut bytes, CONFIG);
    encoded.map_err(|error| ValueError(error.to_string()))?;
    Ok(bytes.into())
}

/// Why bytes are no value, without the words of the value's own type: those repeat what is in it.
fn undecodable(error: &DecodeError) -> ValueError {
    ValueError(match error {
        DecodeError::OtherString(words) if bounded::are_ours(words) => words.clone(),
        DecodeError::OtherString(_) | DecodeError::Other(_) => {
            "a value is not of the type that was expected".to_owned()
        }
        other => other.to_string(),
    })
}

/// The value that all of `bytes` is. It is nested at most 128 levels deep, and what it claims to
/// have takes no memory before it is there.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ValueError> {
    let within = Bounds::of_message(bytes.len()).around(PhantomData::<T>);
    let (value, length) = bincode::serde::seed_decode_from_slice(within, bytes, CONFIG)
        .map_err(|error| undecodable(&error))?;
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
    let mut bytes = Vec::with_capacity(ENCODED_BYTES);
    match result {
        Ok(reply) => {
            bytes.push(REPLY);
            encode_behind(bytes, reply)
        }
        Err(fault) => {
            bytes.push(FAULT);
            encode_behind(bytes, fault)
        }
    }
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

/// Most values are smaller. One that grows byte by byte is moved several times, and what moves it is
/// locked for all threads.
const ENCODED_BYTES: usize = 128;

const REPLY: u8 = 0;
const FAULT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::super::bounded::DEPTH_MAX;
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
    fn an_error_does_not_repeat_what_is_in_the_bytes() {
        let bytes = encode(&"secret").unwrap();
        let error = decode::<std::net::IpAddr>(&bytes).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        let error = decode::<Rejecting>(&bytes).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    /// Fails with what it was given, as many types do.
    #[derive(Debug)]
    struct Rejecting;

    impl<'de> serde::Deserialize<'de> for Rejecting {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let text = String::deserialize(from)?;
            Err(serde::de::Error::custom(text))
        }
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

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    enum Chain {
        End,
        Link(Box<Chain>),
    }

    #[test]
    fn a_value_that_contains_itself_has_a_limit_of_depth_and_does_not_end_the_process() {
        // Half a mebibyte of links: without a limit the stack overflows.
        let hostile = vec![1; 512 * 1024];
        let error = decode::<Chain>(&hostile).unwrap_err();
        assert!(error.0.contains("deeper than 128 levels"), "{error}");
        let nested = decode::<Option<Box<Chain>>>(&hostile).unwrap_err();
        assert!(nested.0.contains("deeper than 128 levels"), "{nested}");

        let mut deepest = vec![1; DEPTH_MAX - 1];
        deepest.push(0);
        let mut chain = decode::<Chain>(&deepest).unwrap();
        let mut links = 0;
        while let Chain::Link(next) = chain {
            links += 1;
            chain = *next;
        }
        assert_eq!(links, DEPTH_MAX - 1);
        deepest.insert(0, 1);
        assert!(decode::<Chain>(&deepest).is_err());
    }

    #[test]
    fn elements_without_bytes_are_not_counted_to_the_end_of_time() {
        let hostile = b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff";
        assert!(decode::<Vec<()>>(hostile).is_err());
        assert!(decode::<Vec<[u8; 0]>>(hostile).is_err());
        assert!(decode::<std::collections::BTreeMap<(), ()>>(hostile).is_err());
        assert_eq!(decode::<Vec<()>>(b"\xfb\xe8\x03").unwrap().len(), 1_000);
    }
}
