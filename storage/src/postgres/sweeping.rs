//! Removing what is past, in pages.
//!
//! Pages and not partitions: a settled record is then one row from its claim to its removal, found by
//! one index whatever its age. A page is one short transaction of at most [`PAGE`] rows, which also
//! notes what is forgotten, so calls run on between two of them.

use super::store::Shared;
use super::stored::{corrupt, get, number};
use crate::{StoreError, Swept, Timestamp};

/// Pages until one is empty. While another process sweeps, nothing is done here.
pub(super) async fn sweep(shared: &Shared) -> Result<Swept, StoreError> {
    let now = now(shared).await?;
    if let Some(suspicion) = shared.suspicion(now) {
        return Ok(Swept::paused(suspicion));
    }
    let pool = &*shared.pool;
    let options = pool.options();
    let horizon = options.retention.horizon.max(options.retention.answer);
    let horizon = horizon.max(options.answer_within.saturating_mul(STATEMENTS));
    let mut swept = Swept::default();
    loop {
        let rows = pool.rows(|_| {
            pool.told("SELECT seen, answers, tombstones FROM {schema}.sweep($1, $2, $3, $4, $5)")
                .time(options.told_now())
                .long(lock(shared))
                .span(horizon)
                .span(options.limits.session_idle)
                .number(PAGE)
        });
        let rows = rows.await?;
        let row = rows
            .first()
            .ok_or_else(|| corrupt("a sweep was not answered"))?;
        let count = |column| number(get::<i64>(row, column)?);
        swept.answers += count("answers")?;
        swept.tombstones += count("tombstones")?;
        if count("seen")? == 0 {
            return Ok(swept);
        }
    }
}

/// The database's clock, asked now.
pub(super) async fn now(shared: &Shared) -> Result<Timestamp, StoreError> {
    let pool = &*shared.pool;
    let rows = pool.rows(|_| {
        pool.told(
            "SELECT COALESCE($1, {schema}.now_ms()) AS now_ms, forgotten_until
            FROM {schema}.store",
        )
        .time(pool.options().told_now())
    });
    let rows = rows.await?;
    let row = rows
        .first()
        .ok_or_else(|| corrupt("the row of the store is missing"))?;
    let (now, until) = (
        super::stored::time(row, "now_ms")?,
        super::stored::time(row, "forgotten_until")?,
    );
    shared.clock.note(now, until);
    Ok(now)
}

/// On what sweeps of one store exclude each other.
fn lock(shared: &Shared) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = *shared.id.as_bytes();
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// For how many `answer_within`s, in which a statement ends, a trace is kept that is past its horizon: a minute, as
/// that comes. One that was taken for a first call in the instant in which another was recorded must find that
/// record where it writes its own.
const STATEMENTS: u32 = 12;

/// Some tens of milliseconds of the database's time.
const PAGE: u64 = 1_000;
