//! Settled records and answers, read at the places where they lie.

use super::super::frame::{Kind, Whole};
use super::super::page::{Pages, Position, Wait};
use super::keyed;
use crate::record::{AnswerKept, CallRecord, Record};
use crate::{Answer, KeyDigest, StoreError, codec};

/// The record at a place that may be another key's.
pub(super) fn read_settled_record(
    key: KeyDigest,
    pages: &Pages,
    at: Position,
    wait: Wait,
) -> Result<Option<Record>, StoreError> {
    let missing = || StoreError::Corrupt("a page of settled records is missing".to_owned());
    let mut reader = pages.read(at, wait)?.ok_or_else(missing)?;
    let length = Kind::Settled.expect(&mut reader)?;
    let body = reader.take(length)?;
    let (found, record) = keyed(&body).map_err(StoreError::Corrupt)?;
    if found != key {
        return Ok(None);
    }
    codec::decode(record).map(Some)
}

/// The answer of a call where it lies in a page of its own; `None` where it is not there.
pub(super) fn answer_in(
    pages: &Pages,
    key: KeyDigest,
    call: &CallRecord,
    wait: Wait,
) -> Result<Option<Answer>, StoreError> {
    let Some(&AnswerKept::Beside { format, length, at }) = call.kept() else {
        return Ok(None);
    };
    let whole = Whole {
        key,
        token: call.token,
        format,
        length,
    };
    let Some(at) = Position::from_number(at) else {
        return Ok(None);
    };
    match pages.read(at, wait)? {
        None => Ok(None),
        Some(mut reader) => whole.read(&mut reader),
    }
}
