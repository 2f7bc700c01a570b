//! Rows of the table `records` as records, and back.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::statement::Told;
use crate::codec::{reason_number, reason_of};
use crate::record::{AnswerKept, CallRecord, Record, State};
use crate::{
    Answer, AnswerFormat, AttemptId, FencingToken, Fingerprint, FingerprintAlgorithm,
    IdempotencyKey, KeyDigest, Lease, Operator, Scope, ScopedKey, SessionCall, StoreError,
    Timestamp,
};

/// A record as it lies there.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) key: KeyDigest,
    pub(super) version: i64,
    /// Whether it keeps a journal, which is read apart: of the record here it is left out.
    pub(super) keeps_journal: bool,
    pub(super) record: Record,
}

/// How the answer comes with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerColumn {
    /// Its bytes, in `answer`.
    Bytes,
    /// Its length, in `answer_length`.
    Length,
}

/// The record in a row; `None` where the row has none.
pub(super) fn stored(row: &Row, answer: AnswerColumn) -> Result<Option<Stored>, StoreError> {
    let Some(key) = get::<Option<Vec<u8>>>(row, "key")? else {
        return Ok(None);
    };
    let key = KeyDigest::from_bytes(array(key)?);
    let state: i16 = get(row, "state")?;
    let at = time(row, "at")?;
    let record = if state == SEALED {
        Record::Sealed { at }
    } else {
        let call = call(row, answer, state, at)?;
        if call.key.digest() != key {
            return Err(corrupt("its key is not the one of its digest"));
        }
        Record::Call(call)
    };
    Ok(Some(Stored {
        key,
        version: get(row, "version")?,
        keeps_journal: keeps_journal(row, &record)?,
        record,
    }))
}

/// Whether there is a journal under the token of the record. What is settled has none, whatever it says.
fn keeps_journal(row: &Row, record: &Record) -> Result<bool, StoreError> {
    let of: Option<i64> = get(row, "journal_of")?;
    let of = of.map(number).transpose()?;
    Ok(match record.call() {
        Some(call) if !record.is_settled() => of == Some(call.token.sequence()),
        _ => false,
    })
}

/// What a call's record may be changed to, as values from `$1` on: state, time, token's attempt,
/// claimed at, reason, answer's format, answer, answered until, who resolved, when to sweep.
pub(super) fn tell_changed(told: Told, call: &CallRecord) -> Told {
    let (state, at) = match &call.state {
        State::InProgress { lease } => (IN_PROGRESS, lease.expires_at()),
        State::InDoubt { since, .. } => (IN_DOUBT, *since),
        State::Completed { at, .. } => (COMPLETED, *at),
    };
    let reason = match &call.state {
        State::InDoubt { reason, .. } => Some(i16::from(reason_number(*reason))),
        _ => None,
    };
    let answer = match &call.state {
        State::Completed {
            answer: AnswerKept::Here(answer),
            ..
        }
        | State::InDoubt {
            answer: Some(AnswerKept::Here(answer)),
            ..
        } => Some(answer),
        _ => None,
    };
    let (until, by) = match &call.state {
        State::Completed {
            answer_until,
            resolved_by,
            ..
        } => (Some(*answer_until), resolved_by.as_ref()),
        _ => (None, None),
    };
    told.short(Some(state))
        .time(at)
        .bytes(Some(call.attempt.as_bytes()))
        .time(call.claimed_at)
        .short(reason)
        .int(answer.map(|answer| i32::from(answer.format().number())))
        .bytes(answer.map(|answer| &answer.body()[..]))
        .time(until)
        .text(by.map(Operator::as_str))
        .time(until)
}

/// A column that the statement asked for.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> Result<T, StoreError> {
    row.try_get(column)
        .map_err(|error| corrupt(&format!("column {column}: {error}")))
}

pub(super) fn time(row: &Row, column: &str) -> Result<Timestamp, StoreError> {
    number(get(row, column)?).map(Timestamp::from_millis)
}

pub(super) fn number(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| corrupt("a number is negative"))
}

fn call(
    row: &Row,
    answer: AnswerColumn,
    state: i16,
    at: Timestamp,
) -> Result<CallRecord, StoreError> {
    let long = |column| get::<Option<i64>>(row, column)?.map(number).transpose();
    let needed = |column| number(get::<i64>(row, column)?);
    let algorithm: i32 = get(row, "fingerprint_algorithm")?;
    let algorithm = u16::try_from(algorithm).map_err(|_| corrupt("its fingerprint"))?;
    let session = match (
        long("session")?,
        long("session_sequence")?,
        long("session_first")?,
    ) {
        (Some(session), Some(sequence), Some(first_unanswered)) => Some(SessionCall {
            session,
            sequence,
            first_unanswered,
        }),
        _ => None,
    };
    Ok(CallRecord {
        key: scoped_key(row)?,
        fingerprint: Fingerprint::from_parts(
            FingerprintAlgorithm::new(algorithm),
            array(get(row, "fingerprint")?)?,
        ),
        token: FencingToken::new(needed("incarnation")?, needed("sequence")?),
        attempt: AttemptId::from_bytes(array(get(row, "attempt")?)?),
        claimed_at: Timestamp::from_millis(needed("claimed_at")?),
        first_sent: long("first_sent")?.map(Timestamp::from_millis),
        session,
        retention: long("retention")?.map(Duration::from_millis),
        journal: None,
        state: state_of(row, answer, state, at)?,
    })
}

fn state_of(
    row: &Row,
    column: AnswerColumn,
    state: i16,
    at: Timestamp,
) -> Result<State, StoreError> {
    Ok(match state {
        IN_PROGRESS => State::InProgress {
            lease: Lease::until(at),
        },
        IN_DOUBT => {
            let reason: i16 = get(row, "reason")?;
            let reason = u8::try_from(reason).map_err(|_| corrupt("its reason"))?;
            State::InDoubt {
                since: at,
                reason: reason_of(reason)?,
                answer: answer(row, column)?,
            }
        }
        COMPLETED => {
            let by: Option<String> = get(row, "resolved_by")?;
            let by = by.map(|name| Operator::parse(&name)).transpose();
            State::Completed {
                at,
                answer_until: time(row, "answer_until")?,
                answer: answer(row, column)?.unwrap_or(AnswerKept::Gone),
                resolved_by: by.map_err(|error| corrupt(&error.to_string()))?,
            }
        }
        other => return Err(corrupt(&format!("its state is {other}"))),
    })
}

fn answer(row: &Row, column: AnswerColumn) -> Result<Option<AnswerKept>, StoreError> {
    let Some(format) = get::<Option<i32>>(row, "answer_format")? else {
        return Ok(None);
    };
    let format = u16::try_from(format).map_err(|_| corrupt("the format of its answer"))?;
    if column == AnswerColumn::Length {
        let length: i32 = get(row, "answer_length")?;
        let length = u32::try_from(length).map_err(|_| corrupt("the length of its answer"))?;
        return Ok(Some(AnswerKept::Beside {
            format,
            length,
            at: 0,
        }));
    }
    let body: Vec<u8> = get(row, "answer")?;
    let answer = Answer::new(AnswerFormat::new(format), body);
    Ok(Some(AnswerKept::Here(answer)))
}

fn scoped_key(row: &Row) -> Result<ScopedKey, StoreError> {
    let name = text(get(row, "name")?)?;
    let key = IdempotencyKey::parse(&name).map_err(|error| corrupt(&error.to_string()))?;
    Ok(ScopedKey::new(scope(row)?, key))
}

/// The scope in the columns `principal` and `operation`.
pub(super) fn scope(row: &Row) -> Result<Scope, StoreError> {
    let mut scope = match get::<Option<Vec<u8>>>(row, "principal")? {
        None => Scope::global(),
        Some(name) => {
            Scope::principal(&text(name)?).map_err(|error| corrupt(&error.to_string()))?
        }
    };
    if let Some(name) = get::<Option<Vec<u8>>>(row, "operation")? {
        scope = scope
            .operation(&text(name)?)
            .map_err(|error| corrupt(&error.to_string()))?;
    }
    Ok(scope)
}

fn text(bytes: Vec<u8>) -> Result<String, StoreError> {
    String::from_utf8(bytes).map_err(|_| corrupt("a name is no text"))
}

pub(super) fn array<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], StoreError> {
    bytes
        .try_into()
        .map_err(|_| corrupt("a value has another length"))
}

pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

const IN_PROGRESS: i16 = 1;
const IN_DOUBT: i16 = 2;
const COMPLETED: i16 = 3;
const SEALED: i16 = 4;
