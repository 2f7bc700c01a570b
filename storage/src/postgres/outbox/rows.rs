//! The statements of an outbox, and what their answers mean.

use bytes::Bytes;
use tokio_postgres::Row;

use crate::outbox::codec::decode;
use crate::outbox::{Body, OutboxCall, OutboxEntry, OutboxError, OutboxState};
use crate::postgres::pool::{Asked, Pool};
use crate::postgres::stored::get;
use crate::{IdempotencyKey, StoreError};

/// Which outbox, and since which opening.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) epoch: u64,
}

/// A call as it was read, without its bytes.
pub(super) struct Found {
    pub(super) version: i64,
    pub(super) entry: OutboxEntry,
}

/// All calls, the oldest first, read in bounded pages.
pub(super) async fn all(pool: &Pool, place: &Place) -> Result<Vec<OutboxEntry>, OutboxError> {
    let mut entries: Vec<OutboxEntry> = Vec::new();
    loop {
        let after = entries.last().map_or(0, |entry| entry.number);
        let page = page(pool, place, after).await?;
        let is_last = page.len() < PAGE;
        entries.extend(page);
        if is_last {
            return Ok(entries);
        }
    }
}

/// A page of calls: those above the number `after`.
async fn page(pool: &Pool, place: &Place, after: u64) -> Result<Vec<OutboxEntry>, OutboxError> {
    let rows = pool.rows(|_| {
        pool.told(&format!(
            "SELECT c.number, c.entry FROM {{schema}}.outboxes o
            LEFT JOIN LATERAL (
                SELECT number, entry FROM {{schema}}.outbox_calls
                WHERE outbox = o.name AND number > $3 ORDER BY number LIMIT {PAGE}
            ) c ON true
            WHERE {OWNED} ORDER BY c.number"
        ))
        .text(Some(&place.name))
        .number(place.epoch)
        .number(after)
    });
    let rows = owned(rows.await.map_err(unavailable)?)?;
    let entries = rows.iter().filter_map(|row| entry(row).transpose());
    entries.collect()
}

/// A call without its bytes.
pub(super) async fn find(
    pool: &Pool,
    place: &Place,
    key: &IdempotencyKey,
) -> Result<Found, OutboxError> {
    let row = one(pool, place, key, "c.number, c.entry, c.version").await?;
    let Some(entry) = entry(&row)? else {
        return Err(OutboxError::NotThere);
    };
    let version = get(&row, "version").map_err(corrupt)?;
    has_key(&entry, key)?;
    Ok(Found { version, entry })
}

/// A call with its bytes, which are what was written.
pub(super) async fn load(
    pool: &Pool,
    place: &Place,
    key: &IdempotencyKey,
) -> Result<OutboxCall, OutboxError> {
    let row = one(pool, place, key, "c.number, c.entry, c.request, c.answer").await?;
    let Some(entry) = entry(&row)? else {
        return Err(OutboxError::NotThere);
    };
    has_key(&entry, key)?;
    let request = Bytes::from(get::<Vec<u8>>(&row, "request").map_err(corrupt)?);
    let answer: Option<Vec<u8>> = get(&row, "answer").map_err(corrupt)?;
    let answer = answer.map(Bytes::from);
    let kept = match &entry.state {
        OutboxState::Answered { answer, .. } => Some(*answer),
        _ => None,
    };
    if Body::of(&request) != entry.request || answer.as_deref().map(Body::of) != kept {
        let number = entry.number;
        return Err(OutboxError::Corrupt(format!(
            "the bytes of call {number} are not those that were written"
        )));
    }
    Ok(OutboxCall::new(entry, request, answer))
}

/// What came of keeping a call.
pub(super) struct WriteAnswer {
    pub(super) outcome: i32,
    pub(super) there: Option<OutboxEntry>,
    pub(super) held: u64,
}

pub(super) async fn write(
    pool: &Pool,
    place: &Place,
    entry: (&OutboxEntry, &[u8]),
    request: &[u8],
    limits: (u64, u64),
) -> Result<WriteAnswer, OutboxError> {
    let rows = pool.rows(|asked| {
        pool.told(
            "SELECT outcome, there, held
            FROM {schema}.outbox_write($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .text(Some(&place.name))
        .number(place.epoch)
        .number(entry.0.number)
        .bytes(Some(entry.0.key.as_str().as_bytes()))
        .bytes(Some(entry.1))
        .bytes(Some(request))
        .number(limits.0)
        .number(limits.1)
        .flag(asked == Asked::Again)
    });
    let rows = rows.await.map_err(unavailable)?;
    let row = only(&rows)?;
    let outcome = get(row, "outcome").map_err(corrupt)?;
    let there: Option<Vec<u8>> = get(row, "there").map_err(corrupt)?;
    let held: Option<i64> = get(row, "held").map_err(corrupt)?;
    Ok(WriteAnswer {
        outcome: told(outcome)?,
        there: there.map(|bytes| decode(&bytes)).transpose()?,
        held: held.map_or(0, i64::unsigned_abs),
    })
}

/// What came of changing a call.
pub(super) enum ChangeAnswer {
    Done,
    /// It is not the one that was read any more; or an earlier asking has changed it, whose answer got
    /// lost.
    Passed {
        asked_again: bool,
    },
}

/// Changes a call that was read, or removes it where there is no entry.
pub(super) async fn change(
    pool: &Pool,
    place: &Place,
    read: &Found,
    entry: Option<&[u8]>,
    answer: Option<&[u8]>,
) -> Result<ChangeAnswer, OutboxError> {
    let again = std::sync::atomic::AtomicBool::new(false);
    let rows = pool.rows(|asked| {
        if asked == Asked::Again {
            again.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        pool.told("SELECT {schema}.outbox_change($1, $2, $3, $4, $5, $6) AS outcome")
            .text(Some(&place.name))
            .number(place.epoch)
            .number(read.entry.number)
            .long(read.version)
            .bytes(entry)
            .bytes(answer)
    });
    let rows = rows.await.map_err(unavailable)?;
    match told(get(only(&rows)?, "outcome").map_err(corrupt)?)? {
        0 => Ok(ChangeAnswer::Done),
        _ => Ok(ChangeAnswer::Passed {
            asked_again: again.into_inner(),
        }),
    }
}

async fn one(
    pool: &Pool,
    place: &Place,
    key: &IdempotencyKey,
    columns: &str,
) -> Result<Row, OutboxError> {
    let rows = pool.rows(|_| {
        pool.told(&format!(
            "SELECT {columns} FROM {{schema}}.outboxes o
            LEFT JOIN {{schema}}.outbox_calls c ON c.outbox = o.name AND c.key = $3
            WHERE {OWNED}"
        ))
        .text(Some(&place.name))
        .number(place.epoch)
        .bytes(Some(key.as_str().as_bytes()))
    });
    let mut rows = owned(rows.await.map_err(unavailable)?)?;
    rows.pop().ok_or(OutboxError::OwnedElsewhere)
}

/// The entry in a row; `None` where the row has none.
fn entry(row: &Row) -> Result<Option<OutboxEntry>, OutboxError> {
    let bytes: Option<Vec<u8>> = get(row, "entry").map_err(corrupt)?;
    let Some(bytes) = bytes else { return Ok(None) };
    let number: i64 = get(row, "number").map_err(corrupt)?;
    let entry = decode(&bytes)?;
    if i64::try_from(entry.number) != Ok(number) {
        let found = entry.number;
        return Err(OutboxError::Corrupt(format!(
            "call {number} says that it is call {found}"
        )));
    }
    Ok(Some(entry))
}

fn has_key(entry: &OutboxEntry, key: &IdempotencyKey) -> Result<(), OutboxError> {
    match entry.key == *key {
        true => Ok(()),
        false => Err(OutboxError::Corrupt(format!(
            "call {} is kept under a key that is not its own",
            entry.number
        ))),
    }
}

/// No row means that the outbox is not ours, or the database another one.
fn owned(rows: Vec<Row>) -> Result<Vec<Row>, OutboxError> {
    match rows.is_empty() {
        true => Err(OutboxError::OwnedElsewhere),
        false => Ok(rows),
    }
}

fn told(outcome: i32) -> Result<i32, OutboxError> {
    match outcome {
        4 | 6 => Err(OutboxError::OwnedElsewhere),
        outcome => Ok(outcome),
    }
}

pub(super) fn only(rows: &[Row]) -> Result<&Row, OutboxError> {
    let missing = || OutboxError::Corrupt("the database answers nothing".to_owned());
    rows.first().ok_or_else(missing)
}

pub(super) fn corrupt(error: StoreError) -> OutboxError {
    match error {
        StoreError::Unavailable { reason, .. } => OutboxError::Corrupt(reason),
        other => OutboxError::Corrupt(other.to_string()),
    }
}

pub(super) fn unavailable(error: StoreError) -> OutboxError {
    match error {
        StoreError::Unavailable { reason, .. } => OutboxError::Unavailable(reason),
        StoreError::Closed => OutboxError::Closed,
        other => OutboxError::Unavailable(other.to_string()),
    }
}

/// The outbox is the one that was opened, and in the database in which it was.
const OWNED: &str = "o.name = $1 AND o.epoch = $2 AND o.place = {schema}.place()";

/// Entries have 600 bytes at most, so that a page is less than a megabyte.
const PAGE: usize = 1_000;
