//! Bytes of a record on disk.
//!
//! ```text
//! +---------+----------------------------------+--------------------+
//! | version | bincode of the version's struct  | BLAKE3 of the rest |
//! | 1 byte  | little endian, varint            | first 8 bytes      |
//! +---------+----------------------------------+--------------------+
//! ```
//!
//! bincode is not self-describing: a field that is added breaks the bytes that are there. So a
//! change gets a new version byte and a new struct, and the old one stays readable. Decoding is
//! always limited; without a limit twelve hostile bytes abort the process.

use std::time::Duration;

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode as _, Encode};
use bytes::Bytes;

use crate::journal::Step;
use crate::record::{AnswerKept, CallRecord, Record, State};
use crate::{
    Answer, AnswerFormat, AttemptId, CallJournal, DoubtReason, FencingToken, Fingerprint,
    FingerprintAlgorithm, IdempotencyKey, Lease, Operator, Scope, ScopedKey, SessionCall, StepName,
    StoreError, Timestamp,
};

/// The newest record format. Only calls that keep a journal are written in it; what everybody else has
/// is still format 2, which programs read that know of no journals.
pub const RECORD_FORMAT: u8 = 3;

/// A record in bytes, in the oldest format that has room for it.
#[must_use]
pub fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    encode_into(record, &mut bytes);
    bytes
}

/// Puts the bytes of a record behind what is there.
pub(crate) fn encode_into(record: &Record, bytes: &mut Vec<u8>) {
    let begin = bytes.len();
    let journal = record.call().and_then(|call| call.journal.as_deref());
    // OK because encoding into a `Vec` fails only for types that ours are not (no unsized maps).
    match journal {
        None => {
            bytes.push(WITHOUT_JOURNAL);
            bincode::encode_into_std_write(RecordV2::from(record), bytes, CONFIG)
        }
        Some(journal) => {
            bytes.push(RECORD_FORMAT);
            let record = RecordV2::from(record);
            let journal = JournalV3::from(journal);
            bincode::encode_into_std_write(RecordV3 { record, journal }, bytes, CONFIG)
        }
    }
    .expect("a record encodes into memory");
    let checksum = checksum(&bytes[begin..]);
    bytes.extend_from_slice(&checksum);
}

/// The record in these bytes.
///
/// # Errors
///
/// [`StoreError::UnknownFormat`] for a newer version, [`StoreError::Corrupt`] for anything else
/// that is not what was written. Never treats either as an absent record.
pub fn decode(bytes: &[u8]) -> Result<Record, StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt(what.to_owned());
    check_version(bytes)?;
    let Some((content, sum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
        return Err(corrupt("it is shorter than its checksum"));
    };
    if content.is_empty() || checksum(content) != *sum {
        return Err(corrupt("its checksum does not match"));
    }
    let payload = &content[1..];
    // Borrowed: a length that lies takes no memory before its bytes are found missing.
    match content[0] {
        1 => payload_in::<RecordV1<'_>>(payload)?.try_into(),
        WITHOUT_JOURNAL => payload_in::<RecordV2<'_>>(payload)?.try_into(),
        _ => payload_in::<RecordV3<'_>>(payload)?.try_into(),
    }
}

/// The struct that these bytes are, all of them.
fn payload_in<'a, T: BorrowDecode<'a, ()>>(payload: &'a [u8]) -> Result<T, StoreError> {
    let (stored, length) = bincode::borrow_decode_from_slice(payload, CONFIG)
        .map_err(|error| StoreError::Corrupt(error.to_string()))?;
    if length != payload.len() {
        let what = "bytes are left over behind it".to_owned();
        return Err(StoreError::Corrupt(what));
    }
    Ok(stored)
}

/// Whether these bytes are a record in a format that this version reads. Looks at nothing else.
pub(crate) fn check_version(bytes: &[u8]) -> Result<(), StoreError> {
    match bytes.first() {
        None => Err(StoreError::Corrupt("it is empty".to_owned())),
        Some(1..=RECORD_FORMAT) => Ok(()),
        Some(&found) => Err(StoreError::UnknownFormat {
            found,
            supported: RECORD_FORMAT,
        }),
    }
}

/// Format 3: what format 2 has, and behind it what the call's handler has finished so far.
#[derive(bincode::Encode, bincode::BorrowDecode)]
struct RecordV3<'a> {
    record: RecordV2<'a>,
    journal: JournalV3<'a>,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct JournalV3<'a> {
    begun_at: u64,
    request: &'a [u8],
    steps: StepsV3<'a>,
}

/// Written as a `Vec` is. Read one by one: a count that lies takes no memory before its steps are
/// found missing.
struct StepsV3<'a>(Vec<StepV3<'a>>);

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct StepV3<'a> {
    name: &'a str,
    result: Option<&'a [u8]>,
}

/// Format 2: what format 1 has, and behind it who ended the doubt of a completed call.
#[derive(bincode::Encode, bincode::BorrowDecode)]
struct RecordV2<'a> {
    record: RecordV1<'a>,
    resolved_by: Option<&'a str>,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
enum RecordV1<'a> {
    Call(CallV1<'a>),
    Sealed { at: u64 },
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct CallV1<'a> {
    principal: Option<&'a str>,
    operation: Option<&'a str>,
    key: &'a str,
    fingerprint_algorithm: u16,
    fingerprint: [u8; 32],
    incarnation: u64,
    sequence: u64,
    attempt: [u8; 16],
    claimed_at: u64,
    first_sent: Option<u64>,
    session: Option<(u64, u64, u64)>,
    retention_ms: Option<u64>,
    state: StateV1<'a>,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
enum StateV1<'a> {
    Completed {
        at: u64,
        answer_until: u64,
        answer: AnswerV1<'a>,
    },
    InDoubt {
        since: u64,
        reason: u8,
        answer: Option<AnswerV1<'a>>,
    },
    InProgress {
        lease_until: u64,
    },
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
enum AnswerV1<'a> {
    Beside { format: u16, length: u32, at: u64 },
    Gone,
    Here { format: u16, body: &'a [u8] },
}

impl<'a> From<&'a Record> for RecordV2<'a> {
    fn from(record: &'a Record) -> Self {
        let resolved_by = match record.call().map(|call| &call.state) {
            Some(State::Completed { resolved_by, .. }) => resolved_by.as_ref(),
            _ => None,
        };
        Self {
            record: record.into(),
            resolved_by: resolved_by.map(Operator::as_str),
        }
    }
}

impl TryFrom<RecordV2<'_>> for Record {
    type Error = StoreError;

    fn try_from(stored: RecordV2<'_>) -> Result<Self, StoreError> {
        let mut record = stored.record.try_into()?;
        let Some(name) = stored.resolved_by else {
            return Ok(record);
        };
        let corrupt = |what: String| StoreError::Corrupt(what);
        let by = Operator::parse(name).map_err(|error| corrupt(error.to_string()))?;
        match &mut record {
            Self::Call(CallRecord {
                state: State::Completed { resolved_by, .. },
                ..
            }) => *resolved_by = Some(by),
            _ => return Err(corrupt("it is resolved and not completed".to_owned())),
        }
        Ok(record)
    }
}

impl<'a> From<&'a CallJournal> for JournalV3<'a> {
    fn from(journal: &'a CallJournal) -> Self {
        let steps = journal.steps().iter().map(|step| StepV3 {
            name: step.name().as_str(),
            result: step.result().map(|result| &**result),
        });
        Self {
            begun_at: journal.begun_at().as_millis(),
            request: journal.request(),
            steps: StepsV3(steps.collect()),
        }
    }
}

impl Encode for StepsV3<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

impl<'de, Context> BorrowDecode<'de, Context> for StepsV3<'de> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        let count = u64::decode(decoder)?;
        let mut steps = Vec::new();
        for _ in 0..count {
            steps.push(StepV3::borrow_decode(decoder)?);
        }
        Ok(Self(steps))
    }
}

impl TryFrom<JournalV3<'_>> for CallJournal {
    type Error = StoreError;

    fn try_from(stored: JournalV3<'_>) -> Result<Self, StoreError> {
        let steps = stored.steps.0.into_iter().map(|step| {
            let name = StepName::parse(step.name)
                .map_err(|error| StoreError::Corrupt(error.to_string()))?;
            Ok(match step.result {
                None => Step::begun(name),
                Some(result) => Step::done(name, Bytes::copy_from_slice(result)),
            })
        });
        let steps = steps.collect::<Result<Vec<_>, StoreError>>()?;
        // A step that is there twice could be finished here and begun there.
        let mut names: Vec<_> = steps.iter().map(Step::name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let what = format!("it has the step {} twice", twice[0]);
            return Err(StoreError::Corrupt(what));
        }
        let request = Bytes::copy_from_slice(stored.request);
        let begun_at = Timestamp::from_millis(stored.begun_at);
        Ok(Self::with_steps(request, begun_at, steps))
    }
}

impl TryFrom<RecordV3<'_>> for Record {
    type Error = StoreError;

    fn try_from(stored: RecordV3<'_>) -> Result<Self, StoreError> {
        let mut record = stored.record.try_into()?;
        match &mut record {
            Self::Call(CallRecord {
                state: State::Completed { .. },
                ..
            })
            | Self::Sealed { .. } => {
                let what = "it keeps a journal and is settled".to_owned();
                return Err(StoreError::Corrupt(what));
            }
            Self::Call(call) => call.journal = Some(Box::new(stored.journal.try_into()?)),
        }
        Ok(record)
    }
}

impl<'a> From<&'a Record> for RecordV1<'a> {
    fn from(record: &'a Record) -> Self {
        match record {
            Record::Sealed { at } => Self::Sealed { at: at.as_millis() },
            Record::Call(call) => Self::Call(CallV1 {
                principal: call.key.scope().principal_name(),
                operation: call.key.scope().operation_name(),
                key: call.key.key().as_str(),
                fingerprint_algorithm: call.fingerprint.algorithm().number(),
                fingerprint: *call.fingerprint.digest(),
                incarnation: call.token.incarnation(),
                sequence: call.token.sequence(),
                attempt: *call.attempt.as_bytes(),
                claimed_at: call.claimed_at.as_millis(),
                first_sent: call.first_sent.map(Timestamp::as_millis),
                session: call
                    .session
                    .map(|s| (s.session, s.sequence, s.first_unanswered)),
                retention_ms: call
                    .retention
                    .map(|kept| u64::try_from(kept.as_millis()).unwrap_or(u64::MAX)),
                state: StateV1::from(&call.state),
            }),
        }
    }
}

impl<'a> From<&'a State> for StateV1<'a> {
    fn from(state: &'a State) -> Self {
        match state {
            State::Completed {
                at,
                answer_until,
                answer,
                // Behind the record.
                resolved_by: _,
            } => Self::Completed {
                at: at.as_millis(),
                answer_until: answer_until.as_millis(),
                answer: answer.into(),
            },
            State::InDoubt {
                since,
                reason,
                answer,
            } => Self::InDoubt {
                since: since.as_millis(),
                reason: reason_number(*reason),
                answer: answer.as_ref().map(AnswerV1::from),
            },
            State::InProgress { lease } => Self::InProgress {
                lease_until: lease.expires_at().as_millis(),
            },
        }
    }
}

impl<'a> From<&'a AnswerKept> for AnswerV1<'a> {
    fn from(kept: &'a AnswerKept) -> Self {
        match kept {
            AnswerKept::Beside { format, length, at } => Self::Beside {
                format: *format,
                length: *length,
                at: *at,
            },
            AnswerKept::Gone => Self::Gone,
            AnswerKept::Here(answer) => Self::Here {
                format: answer.format().number(),
                body: answer.body(),
            },
        }
    }
}

impl TryFrom<RecordV1<'_>> for Record {
    type Error = StoreError;

    fn try_from(stored: RecordV1<'_>) -> Result<Self, StoreError> {
        let call = match stored {
            RecordV1::Sealed { at } => {
                return Ok(Self::Sealed {
                    at: Timestamp::from_millis(at),
                });
            }
            RecordV1::Call(call) => call,
        };
        let corrupt = |error: &dyn std::fmt::Display| StoreError::Corrupt(error.to_string());
        let mut scope = match call.principal {
            None => Scope::global(),
            Some(principal) => Scope::principal(principal).map_err(|error| corrupt(&error))?,
        };
        if let Some(operation) = call.operation {
            scope = scope
                .operation(operation)
                .map_err(|error| corrupt(&error))?;
        }
        let key = IdempotencyKey::parse(call.key).map_err(|error| corrupt(&error))?;
        Ok(Self::Call(CallRecord {
            key: ScopedKey::new(scope, key),
            fingerprint: Fingerprint::from_parts(
                FingerprintAlgorithm::new(call.fingerprint_algorithm),
                call.fingerprint,
            ),
            token: FencingToken::new(call.incarnation, call.sequence),
            attempt: AttemptId::from_bytes(call.attempt),
            claimed_at: Timestamp::from_millis(call.claimed_at),
            first_sent: call.first_sent.map(Timestamp::from_millis),
            session: call
                .session
                .map(|(session, sequence, first_unanswered)| SessionCall {
                    session,
                    sequence,
                    first_unanswered,
                }),
            retention: call.retention_ms.map(Duration::from_millis),
            journal: None,
            state: call.state.try_into()?,
        }))
    }
}

impl TryFrom<StateV1<'_>> for State {
    type Error = StoreError;

    fn try_from(stored: StateV1<'_>) -> Result<Self, StoreError> {
        Ok(match stored {
            StateV1::Completed {
                at,
                answer_until,
                answer,
            } => Self::Completed {
                at: Timestamp::from_millis(at),
                answer_until: Timestamp::from_millis(answer_until),
                answer: answer.into(),
                resolved_by: None,
            },
            StateV1::InDoubt {
                since,
                reason,
                answer,
            } => Self::InDoubt {
                since: Timestamp::from_millis(since),
                reason: reason_of(reason)?,
                answer: answer.map(AnswerKept::from),
            },
            StateV1::InProgress { lease_until } => Self::InProgress {
                lease: Lease::until(Timestamp::from_millis(lease_until)),
            },
        })
    }
}

impl From<AnswerV1<'_>> for AnswerKept {
    fn from(stored: AnswerV1<'_>) -> Self {
        match stored {
            AnswerV1::Beside { format, length, at } => Self::Beside { format, length, at },
            AnswerV1::Gone => Self::Gone,
            AnswerV1::Here { format, body } => {
                Self::Here(Answer::new(AnswerFormat::new(format), body.to_vec()))
            }
        }
    }
}

pub(crate) const fn reason_number(reason: DoubtReason) -> u8 {
    match reason {
        DoubtReason::Ambiguous => 1,
        DoubtReason::LeaseLapsed => 2,
        DoubtReason::OwnerGone => 3,
        DoubtReason::Unrecorded => 4,
    }
}

pub(crate) fn reason_of(number: u8) -> Result<DoubtReason, StoreError> {
    Ok(match number {
        1 => DoubtReason::Ambiguous,
        2 => DoubtReason::LeaseLapsed,
        3 => DoubtReason::OwnerGone,
        4 => DoubtReason::Unrecorded,
        other => {
            return Err(StoreError::Corrupt(format!(
                "doubt reason {other} is unknown"
            )));
        }
    })
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES]);
    sum
}

const CHECKSUM_BYTES: usize = 8;

/// The format of everything that keeps no journal.
const WITHOUT_JOURNAL: u8 = 2;

/// Larger than any record: answers of at most 16 MiB, journals of at most 8 MiB with some tens of bytes
/// for each of their steps, and the rest is bounded by 255 bytes a name.
const DECODE_BYTES_MAX: usize = 26 * 1024 * 1024;

#[expect(
    clippy::disallowed_methods,
    reason = "this is the crate's one codec, and it is limited"
)]
const CONFIG: Configuration<LittleEndian, Varint, Limit<DECODE_BYTES_MAX>> =
    config::standard().with_limit::<DECODE_BYTES_MAX>();
