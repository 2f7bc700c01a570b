//! Bytes of a call on disk, without its bodies.
//!
//! ```text
//! +---------+----------------------------------+--------------------+
//! | version | bincode of the version's struct  | BLAKE3 of the rest |
//! | 1 byte  | little endian, varint            | first 8 bytes      |
//! +---------+----------------------------------+--------------------+
//! ```
//!
//! A change gets a new version byte and a new struct, and the old one stays readable.

use std::time::Duration;

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};

use super::{Body, FirstSent, OutboxEntry, OutboxError, OutboxState, Unknown};
use crate::{IdempotencyKey, StoreId, Timestamp};

/// A call in bytes, in the newest format.
pub(crate) fn encode(entry: &OutboxEntry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    bytes.push(FORMAT);
    // OK because encoding into a `Vec` fails only for types that ours are not (no unsized maps).
    bincode::encode_into_std_write(EntryV1::from(entry), &mut bytes, CONFIG)
        .expect("a call encodes into memory");
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

/// The call in these bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<OutboxEntry, OutboxError> {
    let corrupt = |what: &str| OutboxError::Corrupt(what.to_owned());
    let (&version, _) = bytes.split_first().ok_or_else(|| corrupt("it is empty"))?;
    let Some((content, sum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(corrupt("it is shorter than its checksum"));
    };
    // Of every version the first byte says which, and the last eight are the checksum.
    if content.is_empty() || checksum(content) != *sum {
        return Err(corrupt("its checksum does not match"));
    }
    if version == 0 || version > FORMAT {
        return Err(OutboxError::UnknownFormat {
            found: version,
            supported: FORMAT,
        });
    }
    let payload = &content[1..];
    let (stored, length): (EntryV1<'_>, usize) = bincode::borrow_decode_from_slice(payload, CONFIG)
        .map_err(|error| OutboxError::Corrupt(error.to_string()))?;
    if length != payload.len() {
        return Err(corrupt("bytes are left over behind it"));
    }
    stored.try_into()
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct EntryV1<'a> {
    number: u64,
    key: &'a str,
    method: &'a str,
    maybe_sent_elsewhere: bool,
    written_at: u64,
    timeout_ms: Option<u64>,
    request: BodyV1,
    state: StateV1,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct BodyV1 {
    bytes: u32,
    digest: [u8; 32],
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct SentV1 {
    at: u64,
    store: Option<[u8; 16]>,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
enum StateV1 {
    Unsent,
    Sent(SentV1),
    InDoubt(SentV1),
    Answered(SentV1, BodyV1),
    Unknown(SentV1, u8),
}

impl<'a> From<&'a OutboxEntry> for EntryV1<'a> {
    fn from(entry: &'a OutboxEntry) -> Self {
        let millis = |timeout: Duration| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Self {
            number: entry.number,
            key: entry.key.as_str(),
            method: &entry.method,
            maybe_sent_elsewhere: entry.maybe_sent_elsewhere,
            written_at: entry.written_at.as_millis(),
            timeout_ms: entry.timeout.map(millis),
            request: entry.request.into(),
            state: (&entry.state).into(),
        }
    }
}

impl TryFrom<EntryV1<'_>> for OutboxEntry {
    type Error = OutboxError;

    fn try_from(stored: EntryV1<'_>) -> Result<Self, OutboxError> {
        let key = IdempotencyKey::parse(stored.key);
        let key = key.map_err(|error| OutboxError::Corrupt(error.to_string()))?;
        Ok(Self {
            number: stored.number,
            key,
            method: stored.method.to_owned(),
            maybe_sent_elsewhere: stored.maybe_sent_elsewhere,
            written_at: Timestamp::from_millis(stored.written_at),
            timeout: stored.timeout_ms.map(Duration::from_millis),
            request: stored.request.into(),
            state: stored.state.try_into()?,
        })
    }
}

impl From<Body> for BodyV1 {
    fn from(Body { bytes, digest }: Body) -> Self {
        Self { bytes, digest }
    }
}

impl From<BodyV1> for Body {
    fn from(BodyV1 { bytes, digest }: BodyV1) -> Self {
        Self { bytes, digest }
    }
}

impl From<FirstSent> for SentV1 {
    fn from(FirstSent { at, store }: FirstSent) -> Self {
        Self {
            at: at.as_millis(),
            store: store.map(|store| *store.as_bytes()),
        }
    }
}

impl From<SentV1> for FirstSent {
    fn from(SentV1 { at, store }: SentV1) -> Self {
        Self {
            at: Timestamp::from_millis(at),
            store: store.map(StoreId::from_bytes),
        }
    }
}

impl From<&OutboxState> for StateV1 {
    fn from(state: &OutboxState) -> Self {
        match *state {
            OutboxState::Answered { sent, answer } => Self::Answered(sent.into(), answer.into()),
            OutboxState::InDoubt(sent) => Self::InDoubt(sent.into()),
            OutboxState::Sent(sent) => Self::Sent(sent.into()),
            OutboxState::Unknown { sent, because } => {
                Self::Unknown(sent.into(), unknown_number(because))
            }
            OutboxState::Unsent => Self::Unsent,
        }
    }
}

impl TryFrom<StateV1> for OutboxState {
    type Error = OutboxError;

    fn try_from(stored: StateV1) -> Result<Self, OutboxError> {
        Ok(match stored {
            StateV1::Answered(sent, answer) => Self::Answered {
                sent: sent.into(),
                answer: answer.into(),
            },
            StateV1::InDoubt(sent) => Self::InDoubt(sent.into()),
            StateV1::Sent(sent) => Self::Sent(sent.into()),
            StateV1::Unknown(sent, number) => Self::Unknown {
                sent: sent.into(),
                because: unknown_of(number)?,
            },
            StateV1::Unsent => Self::Unsent,
        })
    }
}

const fn unknown_number(because: Unknown) -> u8 {
    match because {
        Unknown::Aged => 1,
        Unknown::Forgotten => 2,
    }
}

fn unknown_of(number: u8) -> Result<Unknown, OutboxError> {
    match number {
        1 => Ok(Unknown::Aged),
        2 => Ok(Unknown::Forgotten),
        other => Err(OutboxError::Corrupt(format!("reason {other} is unknown"))),
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES]);
    sum
}

/// The newest format of a call, which is also the one that is written.
const FORMAT: u8 = 1;

const CHECKSUM_BYTES: usize = 8;

/// Larger than any: key and method have at most 255 bytes each.
const DECODE_BYTES_MAX: usize = 4 * 1024;

#[expect(
    clippy::disallowed_methods,
    reason = "this is the codec of the outbox, and it is limited"
)]
const CONFIG: Configuration<LittleEndian, Varint, Limit<DECODE_BYTES_MAX>> =
    config::standard().with_limit::<DECODE_BYTES_MAX>();

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<OutboxEntry> {
        let sent = FirstSent {
            at: Timestamp::from_millis(300),
            store: Some(StoreId::from_bytes([9; 16])),
        };
        let body = Body {
            bytes: 2,
            digest: [8; 32],
        };
        let states = [
            OutboxState::Unsent,
            OutboxState::Sent(FirstSent {
                store: None,
                ..sent
            }),
            OutboxState::InDoubt(sent),
            OutboxState::Answered { sent, answer: body },
            OutboxState::Unknown {
                sent,
                because: Unknown::Forgotten,
            },
        ];
        let entry = |state: OutboxState| OutboxEntry {
            number: 1,
            key: IdempotencyKey::parse("key").unwrap(),
            method: "m".to_owned(),
            maybe_sent_elsewhere: state == OutboxState::Unsent,
            written_at: Timestamp::from_millis(7),
            timeout: (state == OutboxState::Unsent).then(|| Duration::from_millis(5)),
            request: body,
            state,
        };
        states.map(entry).to_vec()
    }

    // F10
    #[test]
    fn the_bytes_of_every_state_never_change_and_come_back() {
        let head = b"\x01\x01\x03key\x01m";
        let sent = [&[251, 44, 1, 1][..], &[9; 16]].concat();
        let body = [&[2][..], &[8; 32]].concat();
        let golden: [Vec<u8>; 5] = [
            [&head[..], &[1, 7, 1, 5], &body, &[0]].concat(),
            [&head[..], &[0, 7, 0], &body, &[1, 251, 44, 1, 0]].concat(),
            [&head[..], &[0, 7, 0], &body, &[2], &sent].concat(),
            [&head[..], &[0, 7, 0], &body, &[3], &sent, &body].concat(),
            [&head[..], &[0, 7, 0], &body, &[4], &sent, &[2]].concat(),
        ];
        for (entry, golden) in entries().iter().zip(golden) {
            let bytes = encode(entry);
            assert_eq!(bytes[..bytes.len() - 8], golden, "{entry:?}");
            assert_eq!(decode(&bytes).as_ref(), Ok(entry));
        }
    }

    // G5
    #[test]
    fn a_flipped_bit_and_a_missing_byte_are_never_believed() {
        for entry in entries() {
            let bytes = encode(&entry);
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                assert!(decode(&damaged).is_err(), "byte {at}");
                assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
            }
        }
    }

    // F10
    #[test]
    fn a_newer_format_is_refused_with_both_versions() {
        let mut bytes = encode(&entries()[0]);
        bytes.truncate(bytes.len() - 8);
        bytes[0] = 2;
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        let error = OutboxError::UnknownFormat {
            found: 2,
            supported: 1,
        };
        assert_eq!(decode(&bytes), Err(error));
    }
}
