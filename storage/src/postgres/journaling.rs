//! Journals: what is noted of the steps of a call, and which calls can go on.
//!
//! A note is one statement, which decides in the database (`note`), since it must see the record and the
//! journal while it has both. Everything else is read, decided by [`transition`](crate::transition), and
//! written where it is still what was read. Why that needs no comparison of the journal itself stands in
//! `migrations/0005_journal.sql`.

use std::collections::HashMap;

use bytes::Bytes;
use tokio_postgres::Row;

use super::asking::{AS_VIEWED, arrive, circumstances, read};
use super::pool::{Asked, Pool};
use super::settling::{ROUNDS_MAX, too_contended};
use super::stored::{AnswerColumn, Stored, array, corrupt, get, number, stored, time};
use crate::inspect::{LISTED_STEPS_MAX, PAGE_SEEN_MAX};
use crate::journal::{
    ABANDONED_BYTES_MAX, ABANDONED_CALLS_MAX, AbandonedCall, AbandonedPage, NoteRefused, Noted,
    Step, StepResolution,
};
use crate::record::{CallRecord, Record, State};
use crate::transition;
use crate::{
    CallJournal, ClaimRequest, Cursor, FencingToken, KeyDigest, NoteError, OpenState, RecordView,
    ScopedKey, SettleError, StepName, StepNote, StoreError, Timestamp,
};

/// Notes something of a step: one round trip.
pub(super) async fn note(
    pool: &Pool,
    key: KeyDigest,
    token: FencingToken,
    note: &StepNote,
) -> Result<(), NoteError> {
    let options = pool.options();
    let limits = options.limits.journal();
    let (what, result) = match &note.what {
        Noted::Begun => (1, None),
        Noted::Done(result) => (2, Some(&result[..])),
        Noted::NotExecuted => (3, None),
    };
    let rows = pool.rows(|asked| {
        pool.told(
            "SELECT outcome, size FROM {schema}.note($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .time(options.told_now())
        .bytes(Some(key.as_bytes()))
        .number(token.incarnation())
        .number(token.sequence())
        .text(Some(note.name.as_str()))
        .int(what)
        .bytes(result)
        .number(limits.bytes_max as u64)
        .number(limits.steps_max as u64)
        .flag(asked == Asked::Again)
    });
    let rows = rows.await?;
    let row = rows
        .first()
        .ok_or_else(|| corrupt("a note was not answered"))?;
    Err(match get::<i32>(row, "outcome")? {
        0 => return Ok(()),
        1 => NoteError::Fenced,
        2 => NoteRefused::Finished.into(),
        3 => NoteRefused::NoJournal.into(),
        4 => {
            let size = number(get(row, "size")?)?;
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let limit = limits.bytes_max;
            NoteRefused::TooLarge { size, limit }.into()
        }
        5 => {
            let limit = limits.steps_max;
            NoteRefused::TooManySteps { limit }.into()
        }
        other => corrupt(&format!("a note was answered with {other}")).into(),
    })
}

/// Whether the journal of a record matters to whoever claims it: to a run that may go on with it, and to one
/// whose claim it is and whose answer got lost. Others who ask meanwhile need not have it read.
pub(super) fn is_wanted(request: &ClaimRequest, found: &Stored) -> bool {
    let call = found.record.call();
    found.keeps_journal
        && request.journal.is_some()
        && call.is_some_and(|call| {
            request.rerun_of == Some(call.token) || request.attempt == call.attempt
        })
}

/// A record with its journal.
pub(super) struct Journaled {
    pub(super) record: Record,
    /// Whether all is there that was noted. The call may have been claimed before a failover, and then a note
    /// of a step that was begun may be lost: nobody can tell.
    pub(super) is_whole: bool,
}

/// The record with its journal; `None` where it is not the one any more that was read, or the database has moved
/// under the connection, which is noted.
pub(super) async fn with_journal(
    pool: &Pool,
    found: &Stored,
) -> Result<Option<Journaled>, StoreError> {
    let Record::Call(call) = &found.record else {
        return Ok(None);
    };
    let rows = pool.rows(|_| {
        pool.told(&format!(
            "SELECT j.name, j.result, j.begun_at, {IS_WHOLE} AS is_whole,
                CASE WHEN j.place = 0 THEN {{schema}}.is_here(s.place, s.started) END AS is_here
            FROM {{schema}}.store s CROSS JOIN {{schema}}.records r
                LEFT JOIN {{schema}}.journal j ON j.key = r.key
            WHERE r.key = $1 AND r.version = $2 AND r.journal_of = r.sequence
                AND r.incarnation = $3 AND r.sequence = $4
            ORDER BY j.place"
        ))
        .bytes(Some(found.key.as_bytes()))
        .long(found.version)
        .number(call.token.incarnation())
        .number(call.token.sequence())
    });
    let rows = rows.await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    if get::<Option<bool>>(first, "is_here")? == Some(false) {
        arrive(pool).await?;
        return Ok(None);
    }
    let journal = Some(Box::new(journal(&rows)?));
    let call = call.clone();
    Ok(Some(Journaled {
        record: Record::Call(CallRecord { journal, ..call }),
        is_whole: get(first, "is_whole")?,
    }))
}

/// The request comes first, and then the steps.
fn journal(rows: &[Row]) -> Result<CallJournal, StoreError> {
    let missing = || corrupt("its journal has no request");
    let (request_row, steps) = rows.split_first().ok_or_else(missing)?;
    if get::<Option<&str>>(request_row, "name")? != Some("") {
        return Err(missing());
    }
    let bytes = |row| get::<Option<Vec<u8>>>(row, "result");
    let request = bytes(request_row)?.ok_or_else(missing)?;
    let steps = steps.iter().map(|row| {
        let name = step_name(get(row, "name")?)?;
        Ok(match bytes(row)? {
            None => Step::begun(name),
            Some(result) => Step::done(name, Bytes::from(result)),
        })
    });
    let steps = steps.collect::<Result<_, StoreError>>()?;
    let begun_at = begun_at(request_row)?;
    Ok(CallJournal::with_steps(
        Bytes::from(request),
        begun_at,
        steps,
    ))
}

/// When the call of a request's row was first claimed.
fn begun_at(row: &Row) -> Result<Timestamp, StoreError> {
    let at: Option<i64> = get(row, "begun_at")?;
    let at = at.ok_or_else(|| corrupt("its journal does not say when it was begun"))?;
    Ok(Timestamp::from_millis(number(at)?))
}

fn step_name(name: &str) -> Result<StepName, StoreError> {
    StepName::parse(name).map_err(|error| corrupt(&error.to_string()))
}

/// A call of a list that keeps a journal, of which nothing is read yet.
pub(super) struct Unlisted {
    /// Its place in the list.
    pub(super) place: usize,
    pub(super) call: CallRecord,
    pub(super) now: Timestamp,
}

/// Puts in what a list tells of the steps of these calls: one round trip, where there are any.
pub(super) async fn list_steps(
    pool: &Pool,
    records: &mut [RecordView],
    unlisted: Vec<Unlisted>,
) -> Result<(), StoreError> {
    if unlisted.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = unlisted.iter().map(|it| it.call.key.digest()).collect();
    let rows = pool.rows(|_| {
        pool.told(&format!(
            "SELECT r.key, r.incarnation, r.sequence, {IS_WHOLE} AS is_whole,
                (
                    SELECT count(*) FROM {{schema}}.journal j WHERE j.key = r.key AND j.place > 0
                ) AS noted,
                ARRAY(
                    SELECT j.name FROM {{schema}}.journal j
                    WHERE j.key = r.key AND j.result IS NULL ORDER BY j.place LIMIT $2
                ) AS begun
            FROM {{schema}}.store s, {{schema}}.records r
            WHERE r.key = ANY ($1) AND r.journal_of = r.sequence AND r.state <= 2"
        ))
        .keys(&keys)
        .number(LISTED_STEPS_MAX as u64)
    });
    let of = |it: Unlisted| ((it.call.key.digest(), it.call.token), it);
    let mut unlisted: HashMap<_, _> = unlisted.into_iter().map(of).collect();
    for row in &rows.await? {
        let Some(Unlisted { place, call, now }) = unlisted.remove(&key_and_token(row)?) else {
            continue;
        };
        let begun = get::<Vec<String>>(row, "begun")?;
        let begun = begun.iter().map(|name| step_name(name).map(Step::begun));
        let begun = begun.collect::<Result<_, _>>()?;
        // Of the journal only its steps are shown.
        let journal = CallJournal::with_steps(Bytes::new(), call.claimed_at, begun);
        let journal = Some(Box::new(journal));
        let mut view = RecordView::of(&CallRecord { journal, ..call }, now).listed();
        view.steps_noted = number(get(row, "noted")?)?;
        view.goes_on &= get::<bool>(row, "is_whole")?;
        if let Some(record) = records.get_mut(place) {
            *record = view;
        }
    }
    Ok(())
}

fn key_and_token(row: &Row) -> Result<(KeyDigest, FencingToken), StoreError> {
    let key = KeyDigest::from_bytes(array(get(row, "key")?)?);
    let part = |column| number(get::<i64>(row, column)?);
    let token = FencingToken::new(part("incarnation")?, part("sequence")?);
    Ok((key, token))
}

/// A page of the calls that can go on: two round trips, the second for their requests. It looks through what is
/// in doubt in the order in which that is listed; an index of their own would be looked at for every record that
/// is written.
pub(super) async fn abandoned(
    pool: &Pool,
    after: Option<Cursor>,
    calls_max: usize,
) -> Result<AbandonedPage, StoreError> {
    let calls_max = calls_max.clamp(1, ABANDONED_CALLS_MAX);
    let seen_max = i64::try_from(PAGE_SEEN_MAX).unwrap_or(i64::MAX);
    let is_of = |state| move |after: &Cursor| after.state == state;
    let leases = match after {
        Some(after) if after.state == OpenState::InDoubt => Behind::everything(),
        after => Behind::of(after),
    };
    let doubts = Behind::of(after.filter(is_of(OpenState::InDoubt)));
    let rows = pool.rows(|_| {
        pool.told(&format!(
            "SELECT COALESCE($1, {{schema}}.now_ms()) AS now_ms, s.forgotten_until, {AS_VIEWED},
                (
                    SELECT octet_length(j.result) FROM {{schema}}.journal j
                    WHERE j.key = r.key AND j.name = ''
                ) AS request_bytes,
                EXISTS (
                    SELECT FROM {{schema}}.journal j WHERE j.key = r.key AND j.result IS NULL
                ) AS is_unfinished, {IS_WHOLE} AS is_whole, r.seen
            FROM {{schema}}.store s, (
                SELECT *, count(*) OVER () AS seen,
                    row_number() OVER (ORDER BY o.state, o.at, o.key) AS place
                FROM (
                    (SELECT * FROM {{schema}}.records l
                    WHERE l.state = 1 AND (l.at, l.key) > ($2, $3)
                        AND l.at <= (SELECT COALESCE($1, {{schema}}.now_ms()))
                    ORDER BY l.at, l.key LIMIT $6)
                    UNION ALL
                    (SELECT * FROM {{schema}}.records d
                    WHERE d.state = 2 AND (d.at, d.key) > ($4, $5)
                    ORDER BY d.at, d.key LIMIT $6)
                    ORDER BY state, at, key LIMIT $6
                ) o
            ) r
            WHERE r.journal_of IS NOT NULL OR r.place = r.seen
            ORDER BY r.place"
        ))
        .time(pool.options().told_now())
        .long(leases.at)
        .bytes(Some(&leases.key))
        .long(doubts.at)
        .bytes(Some(&doubts.key))
        .long(seen_max)
    });
    let rows = rows.await?;
    let mut page = AbandonedPage::default();
    let mut is_whole = true;
    let mut bytes = 0;
    for row in &rows {
        if page.calls.len() == calls_max || bytes > ABANDONED_BYTES_MAX {
            is_whole = false;
            break;
        }
        is_whole = get::<i64>(row, "seen")? < seen_max;
        page.next = Some(Cursor {
            state: match get::<i16>(row, "state")? {
                1 => OpenState::InProgress,
                _ => OpenState::InDoubt,
            },
            time: time(row, "at")?,
            key: KeyDigest::from_bytes(array(get(row, "key")?)?),
        });
        // The last one that was seen says where to go on, whatever it is.
        if get::<Option<i64>>(row, "journal_of")?.is_none() {
            continue;
        }
        let at = circumstances(pool, time(row, "now_ms")?, time(row, "forgotten_until")?);
        let Some(found) = stored(row, AnswerColumn::Length)? else {
            continue;
        };
        let lapsed = transition::lapse(Some(&found.record), &at);
        let call = lapsed.as_ref().or(found.record.call()).cloned();
        let goes_on = found.keeps_journal && get::<bool>(row, "is_whole")?;
        let Some(mut call) = call.filter(|_| goes_on) else {
            continue;
        };
        // What is decided needs no more of it than whether a step is unfinished.
        let steps = match get::<bool>(row, "is_unfinished")? {
            true => vec![Step::begun(step_name("unfinished")?)],
            false => Vec::new(),
        };
        call.journal = Some(Box::new(CallJournal::with_steps(
            Bytes::new(),
            Timestamp::default(),
            steps,
        )));
        if let Some(call) = AbandonedCall::of(&call) {
            let request: Option<i32> = get(row, "request_bytes")?;
            let request = request.and_then(|bytes| usize::try_from(bytes).ok());
            bytes += request.ok_or_else(|| corrupt("its journal has no request"))?;
            page.calls.push(call);
        }
    }
    if is_whole {
        page.next = None;
    }
    with_requests(pool, &mut page.calls).await?;
    Ok(page)
}

/// Where a part of the list goes on.
struct Behind {
    at: i64,
    key: Vec<u8>,
}

impl Behind {
    fn of(place: Option<Cursor>) -> Self {
        let (at, key) = place.map_or((-1, Vec::new()), |place| {
            let at = i64::try_from(place.time.as_millis()).unwrap_or(i64::MAX);
            (at, place.key.as_bytes().to_vec())
        });
        Self { at, key }
    }

    const fn everything() -> Self {
        Self {
            at: i64::MAX,
            key: Vec::new(),
        }
    }
}

/// Puts the requests in. A call that goes on meanwhile, or is settled, is left out.
async fn with_requests(pool: &Pool, calls: &mut Vec<AbandonedCall>) -> Result<(), StoreError> {
    if calls.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = calls.iter().map(|call| call.key.digest()).collect();
    let rows = pool.rows(|_| {
        pool.told(
            "SELECT r.key, r.incarnation, r.sequence, j.result AS request, j.begun_at
            FROM {schema}.records r JOIN {schema}.journal j ON j.key = r.key
            WHERE j.key = ANY ($1) AND j.name = '' AND r.journal_of = r.sequence
                AND r.state <= 2",
        )
        .keys(&keys)
    });
    let mut requests = HashMap::new();
    for row in &rows.await? {
        let request: Vec<u8> = get(row, "request")?;
        let request = (Bytes::from(request), begun_at(row)?);
        requests.insert(key_and_token(row)?, request);
    }
    calls.retain_mut(|call| {
        let Some((request, begun_at)) = requests.remove(&(call.key.digest(), call.token)) else {
            return false;
        };
        (call.request, call.begun_at) = (request, begun_at);
        true
    });
    Ok(())
}

/// Says what became of a step that was begun.
pub(super) async fn resolve_step(
    pool: &Pool,
    key: &ScopedKey,
    token: FencingToken,
    name: &StepName,
    resolution: &StepResolution,
) -> Result<(), SettleError> {
    let limits = pool.options().limits.journal();
    // Whether this very word may have been written before.
    let mut was_asked = false;
    for _ in 0..ROUNDS_MAX {
        let found = read(pool, key.digest(), AnswerColumn::Length).await?;
        let Some(it) = found.stored.filter(|it| it.keeps_journal) else {
            return Err(SettleError::Fenced);
        };
        let Some(Journaled { record, .. }) = with_journal(pool, &it).await? else {
            continue;
        };
        if was_asked && says(&record, token, name, resolution) {
            return Ok(());
        }
        let resolved = transition::resolve_step(
            Some(&record),
            token,
            name,
            resolution.clone(),
            limits,
            &found.at,
        )?;
        let State::InDoubt { since, reason, .. } = resolved.state else {
            return Err(SettleError::Fenced);
        };
        let result = match resolution {
            StepResolution::Done(result) => Some(&result[..]),
            StepResolution::NotExecuted => None,
        };
        let rows = pool.rows(|_| {
            pool.told("SELECT {schema}.resolve_step($1, $2, $3, $4, $5, $6, $7, $8, $9) AS is_done")
                .bytes(Some(it.key.as_bytes()))
                .long(it.version)
                .number(token.incarnation())
                .number(token.sequence())
                .number(unfinished(&record))
                .text(Some(name.as_str()))
                .bytes(result)
                .time(since)
                .short(Some(i16::from(crate::codec::reason_number(reason))))
        });
        let rows = rows.await?;
        let row = rows
            .first()
            .ok_or_else(|| corrupt("a word about a step was not answered"))?;
        if get(row, "is_done")? {
            return Ok(());
        }
        was_asked = true;
    }
    Err(too_contended(key.digest()).into())
}

fn unfinished(record: &Record) -> u64 {
    let journal = record.call().and_then(|call| call.journal.as_deref());
    let steps = journal.map_or(&[][..], CallJournal::steps);
    steps.iter().filter(|step| step.result().is_none()).count() as u64
}

/// Whether a call in doubt says this of the step: then whose word it was does not matter.
fn says(
    record: &Record,
    token: FencingToken,
    name: &StepName,
    resolution: &StepResolution,
) -> bool {
    let Some(call) = record.call().filter(|call| call.token == token) else {
        return false;
    };
    let step = call.journal.as_deref().map(|journal| journal.step(name));
    match (resolution, step) {
        (_, None) => false,
        (StepResolution::NotExecuted, Some(step)) => step.is_none(),
        (StepResolution::Done(result), Some(step)) => {
            step.is_some_and(|step| step.result() == Some(result))
        }
    }
}

/// A database that stands elsewhere than before has raised its incarnation by that much.
const IS_WHOLE: &str = "r.incarnation > s.incarnation - 1000000";
