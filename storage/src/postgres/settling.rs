//! How claims are spent and doubts are ended.

use std::time::Duration;

use super::asking::{read, write};
use super::pool::{Asked, Pool};
use super::stored::{AnswerColumn, corrupt, number};
use crate::record::{AnswerKept, State};
use crate::transition::{self, Fenced, Settled};
use crate::{
    Answer, DoubtReason, FencingToken, KeyDigest, Lease, Operator, Resolution, ScopedKey,
    SettleError, StoreError, Timestamp,
};

pub(super) async fn complete(
    pool: &Pool,
    key: KeyDigest,
    token: FencingToken,
    answer: Answer,
) -> Result<(), SettleError> {
    if let Err(too_large) = fits(pool, &answer) {
        // The effect happened and its answer will not be known: that is a doubt.
        doubt_first(pool, key, token, DoubtReason::Unrecorded).await?;
        return Err(too_large.into());
    }
    let options = pool.options();
    let rows = pool.rows(|asked| {
        pool.told("SELECT {schema}.complete($1, $2, $3, $4, $5, $6, $7, $8, $9)")
            .time(options.told_now())
            .bytes(Some(key.as_bytes()))
            .number(token.incarnation())
            .number(token.sequence())
            .span(options.retention.answer)
            .span(options.limits.session_idle)
            .int(i32::from(answer.format().number()))
            .bytes(Some(answer.body()))
            .flag(asked == Asked::Again)
    });
    is_done(&rows.await?)
}

pub(super) async fn release(
    pool: &Pool,
    key: KeyDigest,
    token: FencingToken,
) -> Result<(), SettleError> {
    let rows = pool.rows(|asked| {
        // Asked again, it was already done where nothing of this token is left.
        pool.told(
            "WITH removed AS (
                DELETE FROM {schema}.records
                WHERE key = $1 AND incarnation = $2 AND sequence = $3 AND state IN (1, 2)
                RETURNING 1
            )
            SELECT EXISTS (SELECT 1 FROM removed) OR $4 AND NOT EXISTS (
                SELECT 1 FROM {schema}.records
                WHERE key = $1 AND incarnation = $2 AND sequence = $3
            )",
        )
        .bytes(Some(key.as_bytes()))
        .number(token.incarnation())
        .number(token.sequence())
        .flag(asked == Asked::Again)
    });
    is_done(&rows.await?)
}

pub(super) async fn renew(
    pool: &Pool,
    key: KeyDigest,
    token: FencingToken,
    lease: Duration,
) -> Result<Lease, SettleError> {
    let rows = pool.rows(|_| {
        pool.told("SELECT {schema}.renew($1, $2, $3, $4, $5)")
            .time(pool.options().told_now())
            .bytes(Some(key.as_bytes()))
            .number(token.incarnation())
            .number(token.sequence())
            .span(lease)
    });
    let rows = rows.await?;
    let until: Option<i64> = match rows.first() {
        None => None,
        Some(row) => row
            .try_get(0)
            .map_err(|error| corrupt(&error.to_string()))?,
    };
    let until = until.ok_or(SettleError::Fenced)?;
    Ok(Lease::until(Timestamp::from_millis(number(until)?)))
}

pub(super) async fn doubt(
    pool: &Pool,
    key: KeyDigest,
    token: FencingToken,
    reason: DoubtReason,
    answer: Option<Answer>,
) -> Result<(), SettleError> {
    // The doubt matters more than the answer: it is written also where the answer is too large.
    let too_large = answer.as_ref().and_then(|answer| fits(pool, answer).err());
    let answer = answer.filter(|_| too_large.is_none());
    write_doubt(pool, key, token, reason, answer.as_ref(), FirstWord::No).await?;
    too_large.map_or(Ok(()), |error| Err(error.into()))
}

/// Doubts a call in progress; a doubt that is already written says more and stays.
pub(super) async fn doubt_first(
    pool: &Pool,
    key: KeyDigest,
    token: FencingToken,
    reason: DoubtReason,
) -> Result<(), SettleError> {
    write_doubt(pool, key, token, reason, None, FirstWord::Only).await
}

pub(super) async fn resolve(
    pool: &Pool,
    key: &ScopedKey,
    token: FencingToken,
    resolution: Resolution,
    by: Operator,
) -> Result<(), SettleError> {
    if let Resolution::Applied(answer) = &resolution {
        fits(pool, answer)?;
    }
    for _ in 0..ROUNDS_MAX {
        let found = read(pool, key.digest(), AnswerColumn::Length).await?;
        let existing = found.stored.as_ref().map(|stored| &stored.record);
        let settled =
            transition::resolve(existing, token, resolution.clone(), by.clone(), &found.at)
                .map_err(|Fenced| SettleError::Fenced)?;
        let Some(stored) = &found.stored else {
            return Err(SettleError::Fenced);
        };
        let done = match settled {
            Settled::Write(call) => write(pool, stored, &call).await?,
            Settled::Remove => remove(pool, key.digest(), token, stored.version).await?,
        };
        if done {
            return Ok(());
        }
        // Whose word was it? This one's, where an earlier answer got lost: then it is in the record.
        if was_written(pool, key.digest(), token, &resolution, &by).await? {
            return Ok(());
        }
    }
    Err(too_contended(key.digest()).into())
}

/// `true` where the record is completed under the token with this very word.
async fn was_written(
    pool: &Pool,
    key: KeyDigest,
    token: FencingToken,
    resolution: &Resolution,
    by: &Operator,
) -> Result<bool, StoreError> {
    let Resolution::Applied(answer) = resolution else {
        return Ok(false);
    };
    let found = read(pool, key, AnswerColumn::Bytes).await?;
    let call = found
        .stored
        .as_ref()
        .and_then(|stored| stored.record.call());
    Ok(call.is_some_and(|call| {
        call.token == token
            && matches!(&call.state, State::Completed { answer: AnswerKept::Here(kept), resolved_by, .. }
                if kept == answer && resolved_by.as_ref() == Some(by))
    }))
}

async fn remove(
    pool: &Pool,
    key: KeyDigest,
    token: FencingToken,
    version: i64,
) -> Result<bool, StoreError> {
    let rows = pool.rows(|_| {
        pool.told(
            "DELETE FROM {schema}.records
            WHERE key = $1 AND incarnation = $2 AND sequence = $3 AND version = $4
            RETURNING 1",
        )
        .bytes(Some(key.as_bytes()))
        .number(token.incarnation())
        .number(token.sequence())
        .long(version)
    });
    Ok(!rows.await?.is_empty())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstWord {
    No,
    Only,
}

async fn write_doubt(
    pool: &Pool,
    key: KeyDigest,
    token: FencingToken,
    reason: DoubtReason,
    answer: Option<&Answer>,
    first: FirstWord,
) -> Result<(), SettleError> {
    let rows = pool.rows(|_| {
        pool.told("SELECT {schema}.doubt($1, $2, $3, $4, $5, $6, $7, $8)")
            .time(pool.options().told_now())
            .bytes(Some(key.as_bytes()))
            .number(token.incarnation())
            .number(token.sequence())
            .short(Some(i16::from(crate::codec::reason_number(reason))))
            .int(answer.map(|answer| i32::from(answer.format().number())))
            .bytes(answer.map(|answer| &answer.body()[..]))
            .flag(first == FirstWord::Only)
    });
    is_done(&rows.await?)
}

pub(super) fn fits(pool: &Pool, answer: &Answer) -> Result<(), StoreError> {
    let limits = pool.options().limits;
    let limit = limits
        .answer_bytes_max(limits.answer_bytes_max)
        .answer_bytes_max;
    let size = answer.body().len();
    if size > limit {
        return Err(StoreError::AnswerTooLarge { size, limit });
    }
    Ok(())
}

/// The one value of the one row: whether the record was this token's.
fn is_done(rows: &[tokio_postgres::Row]) -> Result<(), SettleError> {
    let done = rows.first().map(|row| row.try_get::<_, bool>(0));
    match done {
        Some(Ok(true)) => Ok(()),
        Some(Ok(false)) => Err(SettleError::Fenced),
        _ => Err(corrupt("a change was answered with no word about it").into()),
    }
}

/// Nobody knows how it would have ended: the caller asks again.
pub(super) fn too_contended(key: KeyDigest) -> StoreError {
    super::error::unavailable(format!(
        "the record of {key:?} changed {ROUNDS_MAX} times while it was looked at"
    ))
}

/// Each round somebody else has changed the record. That many in a row are no coincidence.
pub(super) const ROUNDS_MAX: u32 = 16;
