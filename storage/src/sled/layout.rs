//! Which record lies in which tree, and what a change writes where.

use std::time::Duration;

use super::chunks::Whole;
use crate::commit::Change;
use crate::commit::bucket::Bucket;
use crate::record::{AnswerKept, CallRecord, Record, State};
use crate::{Answer, KeyDigest, Timestamp, codec};

/// A tree of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Answers(Bucket),
    Index(Bucket),
    Open,
    OpenAnswers,
}

/// One row that is written (`Some`) or removed (`None`).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RowWrite {
    pub(super) place: Place,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

// === impl Place ===

impl Place {
    pub(super) fn name(self) -> String {
        match self {
            Self::Answers(bucket) => bucket_name(ANSWERS, bucket),
            Self::Index(bucket) => bucket_name(INDEX, bucket),
            Self::Open => "onlyonce/open".to_owned(),
            Self::OpenAnswers => "onlyonce/open-answers".to_owned(),
        }
    }

    /// The bucket tree of this name; `None` for every other tree.
    pub(super) fn bucket_tree(name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        if let Some(bucket) = name.strip_prefix(INDEX) {
            return bucket_of(bucket).map(Self::Index);
        }
        let bucket = name.strip_prefix(ANSWERS)?;
        bucket_of(bucket).map(Self::Answers)
    }
}

/// What one change writes, later rows over earlier ones.
///
/// # Errors
///
/// When the change is none that a store may make, which only a bug can cause.
pub(super) fn rows_of(change: &Change, width: Duration) -> Result<Vec<RowWrite>, String> {
    let mut rows = Vec::new();
    if let Some(before) = &change.before {
        let Some(call) = before.call().filter(|_| !before.is_settled()) else {
            return Err("a settled record never changes".to_owned());
        };
        remove_open(change, call, &mut rows);
    }
    match &change.after {
        None => {}
        Some(after) if after.is_settled() => {
            let bucket = Bucket::of(after, width).ok_or("a settled record has a bucket")?;
            let place = Place::Index(bucket);
            let answers = Place::Answers(bucket);
            put(change.key, after, (place, answers), &mut rows)?;
        }
        Some(after) => {
            let places = (Place::Open, Place::OpenAnswers);
            put(change.key, after, places, &mut rows)?;
        }
    }
    Ok(rows)
}

/// The answer that lies beside a record, if one does.
pub(super) fn beside(key: KeyDigest, call: &CallRecord) -> Option<Whole> {
    match kept(call)? {
        AnswerKept::Beside { format, length } => Some(Whole {
            key,
            token: call.token,
            format: *format,
            length: *length,
        }),
        AnswerKept::Gone | AnswerKept::Here(_) => None,
    }
}

fn remove_open(change: &Change, before: &CallRecord, rows: &mut Vec<RowWrite>) {
    let stays_open = change
        .after
        .as_ref()
        .is_some_and(|after| !after.is_settled());
    if !stays_open {
        rows.push(RowWrite {
            place: Place::Open,
            key: change.key.as_bytes().to_vec(),
            value: None,
        });
    }
    let after = change.after.as_ref().and_then(Record::call);
    let stays_beside = stays_open && after.and_then(kept) == kept(before);
    let Some(whole) = beside(change.key, before).filter(|_| !stays_beside) else {
        return;
    };
    rows.extend(whole.places().map(|place| RowWrite {
        place: Place::OpenAnswers,
        key: place.to_vec(),
        value: None,
    }));
}

/// Writes the record, and its answer apart from it: a record stays when its answer goes.
fn put(
    key: KeyDigest,
    record: &Record,
    (place, answers): (Place, Place),
    rows: &mut Vec<RowWrite>,
) -> Result<(), String> {
    let mut record = record.clone();
    if let Record::Call(call) = &mut record
        && let Some(AnswerKept::Here(answer)) = kept(call).cloned()
    {
        let whole = Whole::of(key, call, &answer).ok_or("an answer has less than 4 GiB")?;
        rows.extend(whole.cut(answer.body()).map(|(piece, value)| RowWrite {
            place: answers,
            key: piece.to_vec(),
            value: Some(value),
        }));
        set_beside(call, &answer, whole.length);
    }
    rows.push(RowWrite {
        place,
        key: key.as_bytes().to_vec(),
        value: Some(codec::encode(&record)),
    });
    Ok(())
}

const fn kept(call: &CallRecord) -> Option<&AnswerKept> {
    match &call.state {
        State::Completed { answer, .. } => Some(answer),
        State::InDoubt { answer, .. } => answer.as_ref(),
        State::InProgress { .. } => None,
    }
}

fn set_beside(call: &mut CallRecord, whole: &Answer, length: u32) {
    let beside = AnswerKept::Beside {
        format: whole.format().number(),
        length,
    };
    match &mut call.state {
        State::Completed { answer, .. } => *answer = beside,
        State::InDoubt { answer, .. } => *answer = Some(beside),
        State::InProgress { .. } => {}
    }
}

fn bucket_name(prefix: &str, bucket: Bucket) -> String {
    let (start, end) = (bucket.start().as_millis(), bucket.end().as_millis());
    format!("{prefix}{start:016x}-{end:016x}")
}

fn bucket_of(text: &str) -> Option<Bucket> {
    let (start, end) = text.split_once('-')?;
    let time = |text| u64::from_str_radix(text, 16).map(Timestamp::from_millis);
    Some(Bucket::between(time(start).ok()?, time(end).ok()?))
}

const ANSWERS: &str = "onlyonce/answers/";
const INDEX: &str = "onlyonce/index/";
