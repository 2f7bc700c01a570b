//! Reading records, and writing them where they are still what was read.

use tokio_postgres::Row;

use super::claiming::{held_lock, lock};
use super::journaling::{Unlisted, list_steps, with_journal};
use super::pool::Pool;
use super::settling::{ROUNDS_MAX, too_contended};
use super::statement::Told;
use super::store::Shared;
use super::stored::{
    AnswerColumn, Stored, corrupt, get, number, scope, stored, tell_changed, time,
};
use crate::inspect::{
    OpenStats, PAGE_RECORDS_MAX, PAGE_SEEN_MAX, SCOPES_SEEN_MAX, SCOPES_SHOWN_MAX, ScopeStats,
};
use crate::record::{CallRecord, KeyState, Record};
use crate::transition::{self, Circumstances};
use crate::{
    Answer, AnswerBytes, Cursor, FencingToken, KeyDigest, KeyView, ListPage, ListRequest,
    OpenState, Question, RecordView, ScopedKey, StoreError, StoreStats, Timestamp,
};

/// A record, and what the store knew when it was read.
pub(super) struct Found {
    pub(super) stored: Option<Stored>,
    /// A transaction has the key, which has no record yet.
    pub(super) is_held: bool,
    pub(super) at: Circumstances,
}

/// The record of a key, in one snapshot with what is forgotten. Where there is none, and the database has
/// moved under the connection, that is noted first: the record may have been lost there.
pub(super) async fn read(
    pool: &Pool,
    key: KeyDigest,
    answer: AnswerColumn,
) -> Result<Found, StoreError> {
    let (found, is_here) = read_once(pool, key, answer).await?;
    if is_here {
        return Ok(found);
    }
    arrive(pool).await?;
    Ok(read_once(pool, key, answer).await?.0)
}

/// Notes that the database has moved.
pub(super) async fn arrive(pool: &Pool) -> Result<(), StoreError> {
    let noted = pool.rows(|_| {
        pool.told("SELECT {schema}.arrive($1)")
            .time(pool.options().told_now())
    });
    noted.await.map(drop)
}

/// What is there, for who does not come back: that nothing is there is not said of a call that was just committed.
pub(super) async fn look(pool: &Pool, key: KeyDigest) -> Result<Found, StoreError> {
    let found = read(pool, key, AnswerColumn::Bytes).await?;
    if found.stored.is_some() || found.is_held {
        return Ok(found);
    }
    // A transaction may have been committed after the picture was taken and before its lock was
    // tried. Whoever finds the lock free sees what it wrote in the next picture.
    read(pool, key, AnswerColumn::Bytes).await
}

/// What is there, and whether that is still the database that was known.
async fn read_once(
    pool: &Pool,
    key: KeyDigest,
    answer: AnswerColumn,
) -> Result<(Found, bool), StoreError> {
    let rows = pool.rows(|_| {
        let columns = match answer {
            AnswerColumn::Bytes => "r.*",
            AnswerColumn::Length => AS_VIEWED,
        };
        pool.told(&format!(
            "SELECT COALESCE($1, {{schema}}.now_ms()) AS now_ms, s.forgotten_until, {columns},
                CASE WHEN r.key IS NULL
                    THEN NOT pg_try_advisory_xact_lock_shared($3) END AS is_held,
                CASE WHEN r.key IS NULL OR r.state = 4
                    THEN {{schema}}.is_here(s.place, s.started) END AS is_here
            FROM {{schema}}.store s LEFT JOIN {{schema}}.records r ON r.key = $2"
        ))
        .time(pool.options().told_now())
        .bytes(Some(key.as_bytes()))
        .long(held_lock(pool.id(), key))
    });
    let rows = rows.await?;
    let mut found = found(pool, &rows, answer)?;
    let mut is_here = true;
    if let Some(row) = rows.first() {
        found.is_held = get::<Option<bool>>(row, "is_held")?.unwrap_or(false);
        is_here = get::<Option<bool>>(row, "is_here")?.unwrap_or(true);
    }
    Ok((found, is_here))
}

/// Writes a changed record over the one that was read. `false`: it is not that one any more.
pub(super) async fn write(
    pool: &Pool,
    read: &Stored,
    call: &CallRecord,
) -> Result<bool, StoreError> {
    let rows = pool.rows(|_| over(pool, CHANGE, read, call));
    Ok(!rows.await?.is_empty())
}

/// The same with a new token, which is answered: the claim of a re-run.
pub(super) async fn write_claim(
    pool: &Pool,
    read: &Stored,
    call: &CallRecord,
) -> Result<Option<FencingToken>, StoreError> {
    let keeps_journal = call.journal.is_some();
    let rows = pool.rows(|_| over(pool, CLAIM_ANEW, read, call).flag(keeps_journal));
    let rows = rows.await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let incarnation = number(get(row, "incarnation")?)?;
    let sequence = number(get(row, "sequence")?)?;
    Ok(Some(FencingToken::new(incarnation, sequence)))
}

fn over(pool: &Pool, sql: &str, read: &Stored, call: &CallRecord) -> Told {
    // Its own token, not that of the record as it shall be.
    let token = read.record.call().map(|call| call.token);
    tell_changed(pool.told(sql), call)
        .bytes(Some(read.key.as_bytes()))
        .long(read.version)
        .number(token.map(FencingToken::incarnation))
        .number(token.map(FencingToken::sequence))
}

pub(super) async fn ask(
    shared: &Shared,
    question: Question,
    key: &ScopedKey,
    first_sent: Option<Timestamp>,
) -> Result<KeyState, StoreError> {
    let pool = &*shared.pool;
    let digest = key.digest();
    let found = match question {
        Question::Peek => look(pool, digest).await?,
        Question::Seal => {
            let rows = pool.rows(|_| {
                pool.told(
                    "SELECT now_ms, forgotten_until, (kept).*
                    FROM (SELECT pg_try_advisory_xact_lock_shared($5) AS is_free OFFSET 0) held
                    CROSS JOIN LATERAL {schema}.seal(
                        $1, CASE WHEN is_free THEN $2 END, $3, $4
                    ) WHERE is_free",
                )
                .time(pool.options().told_now())
                .bytes(Some(digest.as_bytes()))
                .long(lock(digest))
                .span(pool.options().retention.horizon)
                .long(held_lock(pool.id(), digest))
            });
            let rows = rows.await?;
            if rows.is_empty() {
                // A transaction has it. What it comes to is told to who asks again.
                let found = read(pool, digest, AnswerColumn::Bytes).await?;
                Found {
                    is_held: found.stored.is_none(),
                    ..found
                }
            } else {
                found(pool, &rows, AnswerColumn::Bytes)?
            }
        }
    };
    if found.is_held {
        return Ok(KeyState::InProgress {
            since: found.at.now,
        });
    }
    shared.clock.note(found.at.now, found.at.forgotten_until);
    let record = found.stored.map(|stored| stored.record);
    let state = transition::state(record.as_ref(), first_sent, &found.at);
    // Who says when it was first sent asks about a call that was not answered to its caller, and was
    // so never acknowledged; who does not may have the key from anywhere.
    if matches!(state, KeyState::Absent | KeyState::Sealed { .. })
        && first_sent.is_none()
        && acknowledges(pool, key).await?
    {
        return Ok(KeyState::Stale);
    }
    Ok(state)
}

/// Whether a live session of the key's principal has acknowledged anything. Read after the record:
/// what was acknowledged before that was removed with it.
async fn acknowledges(pool: &Pool, key: &ScopedKey) -> Result<bool, StoreError> {
    let rows = pool.rows(|_| {
        pool.told(
            "SELECT FROM {schema}.sessions WHERE scope = $1 AND first_unanswered > 0
                AND used + $2 > COALESCE($3, {schema}.now_ms()) LIMIT 1",
        )
        .bytes(Some(key.scope().of_principal().digest().as_bytes()))
        .span(pool.options().limits.session_idle)
        .time(pool.options().told_now())
    });
    Ok(!rows.await?.is_empty())
}

pub(super) async fn show(
    pool: &Pool,
    key: &ScopedKey,
    answer: AnswerBytes,
) -> Result<KeyView, StoreError> {
    let column = match answer {
        AnswerBytes::LeaveOut => AnswerColumn::Length,
        AnswerBytes::Show => AnswerColumn::Bytes,
    };
    for _ in 0..ROUNDS_MAX {
        let found = read(pool, key.digest(), column).await?;
        let Some(stored) = found.stored else {
            return Ok(KeyView::Absent);
        };
        let (record, is_whole) = if stored.keeps_journal {
            match with_journal(pool, &stored).await? {
                None => continue,
                Some(journaled) => (journaled.record, journaled.is_whole),
            }
        } else {
            (stored.record, true)
        };
        return Ok(viewed(&record, is_whole, &found.at, answer));
    }
    Err(too_contended(key.digest()))
}

fn viewed(record: &Record, is_whole: bool, at: &Circumstances, answer: AnswerBytes) -> KeyView {
    // A lapse that nobody has written down yet is told as what it is.
    let lapsed = transition::lapse(Some(record), at);
    let Some(call) = lapsed.as_ref().or(record.call()) else {
        return match record {
            Record::Sealed { at } => KeyView::Sealed { at: *at },
            Record::Call(_) => KeyView::Absent,
        };
    };
    let mut view = RecordView::of(call, at.now);
    view.goes_on &= is_whole;
    if answer == AnswerBytes::LeaveOut || view.answer().is_none() {
        return KeyView::Call(view);
    }
    KeyView::Call(view.with_answer(answer_of(call)))
}

fn answer_of(call: &CallRecord) -> Option<Answer> {
    use crate::record::{AnswerKept, State};
    match &call.state {
        State::Completed {
            answer: AnswerKept::Here(answer),
            ..
        }
        | State::InDoubt {
            answer: Some(AnswerKept::Here(answer)),
            ..
        } => Some(answer.clone()),
        _ => None,
    }
}

/// A page of what is open: first what is in progress, then what is in doubt.
pub(super) async fn list(pool: &Pool, request: &ListRequest) -> Result<ListPage, StoreError> {
    let mut unlisted = Vec::new();
    let mut page = list_records(pool, request, &mut unlisted).await?;
    list_steps(pool, &mut page.records, unlisted).await?;
    Ok(page)
}

/// The same without steps, and which of the records have some.
async fn list_records(
    pool: &Pool,
    request: &ListRequest,
    unlisted: &mut Vec<Unlisted>,
) -> Result<ListPage, StoreError> {
    let records_max = request.records_max.clamp(1, PAGE_RECORDS_MAX);
    let mut page = ListPage {
        records: Vec::new(),
        next: None,
    };
    let mut seen = 0;
    for state in [OpenState::InProgress, OpenState::InDoubt] {
        if request.after.is_some_and(|after| after.state > state) {
            continue;
        }
        // Of what is in progress, where only doubts are wanted: those whose lapse nobody has written
        // down yet.
        if state == OpenState::InDoubt && !request.wants(state) {
            continue;
        }
        let after = request.after.filter(|after| after.state == state);
        let rows = pool
            .rows(|_| open_rows(pool, state, after, request, PAGE_SEEN_MAX - seen))
            .await?;
        for row in &rows {
            if page.records.len() == records_max {
                return Ok(page);
            }
            seen += 1;
            let found = found(pool, std::slice::from_ref(row), AnswerColumn::Length)?;
            let Some(stored) = found.stored else { continue };
            page.next = Some(Cursor {
                state,
                time: time(row, "at")?,
                key: stored.key,
            });
            let lapsed = transition::lapse(Some(&stored.record), &found.at);
            let Some(call) = lapsed.as_ref().or(stored.record.call()) else {
                continue;
            };
            let view = RecordView::of(call, found.at.now);
            if request.matches(&view, found.at.now) {
                unlisted.extend(stored.keeps_journal.then(|| Unlisted {
                    place: page.records.len(),
                    call: call.clone(),
                    now: found.at.now,
                }));
                page.records.push(view);
            }
        }
        if seen >= PAGE_SEEN_MAX {
            return Ok(page);
        }
    }
    page.next = None;
    Ok(page)
}

fn open_rows(
    pool: &Pool,
    state: OpenState,
    after: Option<Cursor>,
    request: &ListRequest,
    rows_max: usize,
) -> Told {
    let number = match state {
        OpenState::InProgress => 1,
        OpenState::InDoubt => 2,
    };
    let only_lapsed = state == OpenState::InProgress && !request.wants(state);
    pool.told(&format!(
        "SELECT COALESCE($1, {{schema}}.now_ms()) AS now_ms, s.forgotten_until, {AS_VIEWED}
        FROM {{schema}}.store s, {{schema}}.records r
        WHERE r.state = {number} AND (r.at, r.key) > ($2, $3)
            AND (NOT $4 OR r.at <= COALESCE($1, {{schema}}.now_ms()))
        ORDER BY r.at, r.key LIMIT $5"
    ))
    .time(pool.options().told_now())
    .long(after.map_or(-1, |after| {
        i64::try_from(after.time.as_millis()).unwrap_or(i64::MAX)
    }))
    .bytes(Some(
        after.as_ref().map_or(&[][..], |after| after.key.as_bytes()),
    ))
    .flag(only_lapsed)
    .number(rows_max as u64)
}

pub(super) async fn stats(shared: &Shared) -> Result<StoreStats, StoreError> {
    let pool = &*shared.pool;
    let rows = pool.rows(|_| {
        pool.told(
            "WITH clock AS (SELECT COALESCE($1, {schema}.now_ms()) AS t)
            SELECT t, s.forgotten_until, s.incarnation,
                (SELECT count(*) FROM {schema}.records WHERE state = 1 AND at > t) AS in_progress,
                (SELECT count(*) FROM {schema}.records WHERE state = 2) AS in_doubt,
                (SELECT count(*) FROM {schema}.records WHERE state = 1 AND at <= t) AS lapsed,
                (SELECT min(at) FROM {schema}.records WHERE state = 2) AS oldest,
                (SELECT min(at) FROM {schema}.records WHERE state = 1 AND at <= t) AS oldest_lapse,
                (SELECT count(DISTINCT scope) FROM {schema}.records WHERE state <= 2) AS scopes,
                (SELECT count(*) FROM (
                    SELECT 1 FROM {schema}.records WHERE state >= 3 LIMIT $2
                ) counted) AS settled,
                (SELECT reltuples::bigint FROM pg_class
                    WHERE oid = '{schema}.records'::regclass) AS about,
                pg_total_relation_size('{schema}.records')
                    + pg_total_relation_size('{schema}.journal') AS disk_bytes
            FROM clock, {schema}.store s",
        )
        .time(pool.options().told_now())
        .number(SETTLED_COUNTED_MAX)
    });
    let rows = rows.await?;
    let row = rows
        .first()
        .ok_or_else(|| corrupt("the figures were not answered"))?;
    let count = |column| number(get::<i64>(row, column)?);
    let when = |column| get::<Option<i64>>(row, column)?.map(number).transpose();
    let (now, forgotten_until) = (time(row, "t")?, time(row, "forgotten_until")?);
    shared.clock.note(now, forgotten_until);
    let open = count("in_progress")? + count("in_doubt")? + count("lapsed")?;
    let settled = match count("settled")? {
        SETTLED_COUNTED_MAX => number(get::<i64>(row, "about")?.max(0))?
            .saturating_sub(open)
            .max(SETTLED_COUNTED_MAX),
        counted => counted,
    };
    let oldest = [when("oldest")?, when("oldest_lapse")?];
    let options = pool.options();
    Ok(StoreStats {
        id: shared.id,
        incarnation: count("incarnation")?,
        now: transition::now_told(now, forgotten_until),
        forgotten_until,
        retention: options.retention.answer,
        horizon: options.retention.horizon,
        poisoned: None,
        clock: shared.suspicion(now),
        open: OpenStats {
            in_progress: count("in_progress")?,
            in_doubt: count("in_doubt")? + count("lapsed")?,
            oldest_doubt: oldest
                .into_iter()
                .flatten()
                .min()
                .map(Timestamp::from_millis),
            scopes: count("scopes")?,
            most: most(pool).await?,
        },
        settled,
        buckets: Vec::new(),
        disk_bytes: Some(count("disk_bytes")?),
    })
}

/// The scopes with most open.
async fn most(pool: &Pool) -> Result<Vec<ScopeStats>, StoreError> {
    let rows = pool.rows(|_| {
        pool.told(
            "SELECT principal, operation,
                count(*) FILTER (WHERE NOT is_doubt) AS in_progress,
                count(*) FILTER (WHERE is_doubt) AS in_doubt
            FROM (
                SELECT principal, operation, scope,
                    state = 2 OR at <= COALESCE($1, {schema}.now_ms()) AS is_doubt
                FROM {schema}.records WHERE state <= 2 AND scope IN (
                    SELECT DISTINCT scope FROM {schema}.records WHERE state <= 2 LIMIT $2
                )
            ) open GROUP BY scope, principal, operation
            ORDER BY in_doubt DESC, in_progress DESC LIMIT $3",
        )
        .time(pool.options().told_now())
        .number(SCOPES_SEEN_MAX as u64)
        .number(SCOPES_SHOWN_MAX as u64)
    });
    let rows = rows.await?;
    let one = |row: &Row| {
        Ok(ScopeStats {
            scope: scope(row)?,
            in_progress: number(get(row, "in_progress")?)?,
            in_doubt: number(get(row, "in_doubt")?)?,
        })
    };
    rows.iter().map(one).collect()
}

fn found(pool: &Pool, rows: &[Row], answer: AnswerColumn) -> Result<Found, StoreError> {
    let Some(row) = rows.first() else {
        return Err(corrupt("the row of the store is missing"));
    };
    Ok(Found {
        stored: stored(row, answer)?,
        is_held: false,
        at: circumstances(pool, time(row, "now_ms")?, time(row, "forgotten_until")?),
    })
}

/// What the store knows at a moment. Other processes share it: of none is it known that it is gone.
pub(super) fn circumstances(
    pool: &Pool,
    now: Timestamp,
    forgotten_until: Timestamp,
) -> Circumstances {
    Circumstances {
        now,
        retention: pool.options().retention,
        forgotten_until,
        sole_incarnation: None,
    }
}

const CHANGE: &str = "UPDATE {schema}.records SET
        version = version + 1, state = $1, at = $2, attempt = $3, claimed_at = $4, reason = $5,
        answer_format = CASE WHEN $1 = 2 AND $6 IS NULL THEN answer_format ELSE $6 END,
        answer = CASE WHEN $1 = 2 AND $7 IS NULL THEN answer ELSE $7 END,
        answer_until = $8, resolved_by = $9, sweep_at = $10,
        session = CASE WHEN $1 <> 3 THEN session END,
        session_sequence = CASE WHEN $1 <> 3 THEN session_sequence END,
        session_first = CASE WHEN $1 <> 3 THEN session_first END,
        journal_of = CASE WHEN $1 <> 3 THEN journal_of END
    WHERE key = $11 AND version = $12 AND incarnation = $13 AND sequence = $14
    RETURNING 1";

const CLAIM_ANEW: &str = "UPDATE {schema}.records SET
        version = version + 1, state = $1, at = $2, attempt = $3, claimed_at = $4, reason = $5,
        answer_format = $6, answer = $7, answer_until = $8, resolved_by = $9, sweep_at = $10,
        incarnation = (SELECT s.incarnation FROM {schema}.store s),
        sequence = drawn.token, journal_of = CASE WHEN $15 THEN drawn.token END
    FROM (SELECT nextval('{schema}.tokens') AS token) drawn
    WHERE key = $11 AND version = $12 AND incarnation = $13 AND sequence = $14
        -- Whose database has moved since its journal was read is read again: see `IS_WHOLE`.
        AND (NOT $15 OR records.incarnation
            > (SELECT s.incarnation - 1000000 FROM {schema}.store s))
    RETURNING incarnation, sequence";

/// All columns, with the answer's length for its bytes.
pub(super) const AS_VIEWED: &str = "r.key, r.version, r.state, r.at, r.principal, r.operation, r.name, \
    r.fingerprint_algorithm, r.fingerprint, r.incarnation, r.sequence, r.attempt, r.claimed_at, \
    r.first_sent, r.session, r.session_sequence, r.session_first, r.retention, r.reason, \
    r.answer_format, length(r.answer) AS answer_length, r.answer_until, r.resolved_by, \
    r.journal_of";

/// More than that are not counted but taken from the database's own estimate.
const SETTLED_COUNTED_MAX: u64 = 100_000;
