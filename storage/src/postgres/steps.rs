//! The two steps of a call that is a transaction: it is taken, and its record is written.
//!
//! Each is a function of the database (`hold`, `conclude`), which is what holds for every call. For most calls it is
//! one statement as well, which says the same in fewer steps: for those in no session, while nothing is to be
//! counted, over a connection that keeps it planned.
//!
//! As one statement the lock is taken and the record looked for in one picture, which is older than the lock. Whom
//! another one has overtaken in between finds that one's record where he would write his own: there is one for
//! each key, so his transaction is undone. That is no way for a call in a session, whose record may be gone again by
//! then because it was acknowledged.

use super::claiming::{held_lock, held_number};
use super::holding::Hold;
use super::pool::Pool;
use super::room::Count;
use super::statement::Told;
use crate::transition::CLOCK_DIFFERENCE_MAX;
use crate::{Answer, ClaimRequest, DoubtReason};

/// Whether who looks takes the lock in the same step. That is of use only where each statement sees what was
/// committed before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Too,
    Before,
}

/// What a record shall say.
#[derive(Clone, Copy, Debug)]
pub(super) enum End<'a> {
    Answered(&'a Answer),
    InDoubt(DoubtReason, Option<&'a Answer>),
}

/// Asks what a call comes to that has the lock of its key, or is to take it too.
pub(super) fn take(
    pool: &Pool,
    request: &ClaimRequest,
    count: Count,
    takes: Takes,
    keeps: bool,
) -> Told {
    if keeps && takes == Takes::Too && is_plain(request, count) {
        let values = numbers(0, LOOK_VALUES);
        let (look, looked_at) = (look(&values, Until::LetGo), looked_at(&values));
        let taken = pool.told(&format!(
            "SELECT {look}, r.*,
                set_config('idle_in_transaction_session_timeout', $6, true) AS stands_still,
                set_config('onlyonce.call', $7, true) AS mark
            FROM {looked_at}"
        ));
        return look_values(taken, pool, request)
            .text(Some(&stands_still_ms(request).to_string()))
            .text(Some(&mark(request)));
    }
    let values = numbers(0, HOLD_VALUES).join(", ");
    let kept = if keeps && takes == Takes::Too {
        ", CASE WHEN h.verdict = 1 THEN pg_try_advisory_lock($11) END AS is_kept"
    } else {
        ""
    };
    let told = pool.told(&format!(
        "SELECT h.*, r.*{kept} FROM {{schema}}.hold({values}) h
        LEFT JOIN {{schema}}.records r ON r.key = CASE WHEN h.verdict = 0 THEN $2 END"
    ));
    hold_values(told, pool, request, count, takes)
}

/// Writes the record of a call that is held.
pub(super) fn record(
    pool: &Pool,
    request: &ClaimRequest,
    hold: &Hold,
    as_what: End<'_>,
    keeps: bool,
) -> Told {
    let values = numbers(0, RECORD_VALUES);
    // That of the transaction remains, until what this writes can be seen.
    let lets_go = if hold.leased.has_key {
        format!(", pg_advisory_unlock(${})", RECORD_VALUES + 1)
    } else {
        String::new()
    };
    let text = if keeps && request.session.is_none() {
        // The mark is gone with the transaction that took the call.
        let version = format!(
            "CASE WHEN current_setting('onlyonce.call', true) = {}
                THEN 1 ELSE {{schema}}.call_is_over() END",
            values[1]
        );
        let insert = insert(&values, &version);
        format!("{insert} RETURNING {IS_DURABLE}{lets_go}")
    } else {
        let values = values.join(", ");
        format!("SELECT {{schema}}.conclude({values}), {IS_DURABLE}{lets_go}")
    };
    let told = record_values(pool.told(&text), pool, request, Some(hold), as_what);
    if hold.leased.has_key {
        return told.long(held_lock(pool.id(), request.key.digest()));
    }
    told
}

/// Takes a call, makes its effect, of which text and number of values are told, and writes its record: after the
/// values of the effect come ours, and then how many rows it must change, or none. Where the call is not to be
/// executed it fails: by `is_not_to_be`, or because there is a record already.
pub(super) fn all(
    pool: &Pool,
    request: &ClaimRequest,
    count: Count,
    (effect, theirs): (&str, usize),
    answer: &Answer,
) -> Told {
    let is_plain = is_plain(request, count);
    let taking = if is_plain { LOOK_VALUES } else { HOLD_VALUES };
    let took = numbers(theirs, taking);
    let values = recorded(theirs + taking);
    let rows = theirs + taking + RECORD_VALUES - TOLD_BY_TAKEN.len() + 1;
    let is_to_be = format!("{TAKE}.verdict = 1 AND {MADE}.rows = COALESCE(${rows}, {MADE}.rows)");
    let (taking, writing, done) = if is_plain {
        let (look, looked_at) = (look(&took, Until::Ended), looked_at(&took));
        let insert = insert(&values, "1");
        (
            format!("SELECT {look} FROM {looked_at}"),
            format!(", onlyonce_written AS ({insert} FROM {TAKE}, {MADE} WHERE {is_to_be})"),
            format!(
                "CASE WHEN NOT ({is_to_be})
                    THEN {{schema}}.is_not_to_be({TAKE}.verdict, {MADE}.rows) END"
            ),
        )
    } else {
        let (took, values) = (took.join(", "), values.join(", "));
        (
            format!("SELECT * FROM {{schema}}.hold({took})"),
            String::new(),
            format!(
                "CASE WHEN {is_to_be} THEN {{schema}}.conclude({values})
                    ELSE {{schema}}.is_not_to_be({TAKE}.verdict, {MADE}.rows) END"
            ),
        )
    };
    let before = format!("WITH {TAKE} AS MATERIALIZED ({taking}), onlyonce_effect AS (");
    let after = format!(
        "RETURNING 1
        ), {MADE} AS MATERIALIZED (
            SELECT count(*) AS rows FROM onlyonce_effect
        ){writing}
        SELECT {TAKE}.*, {MADE}.rows, {IS_DURABLE} AS is_durable, {done} AS is_done
        FROM {TAKE}, {MADE}"
    );
    // The effect has lines of its own, since it may end in a comment; and what looks like a name of ours in it is
    // left as it is.
    let (before, after) = (pool.text(&before), pool.text(&after));
    let told = Told::new(format!("{before}\n{effect}\n{after}"));
    let told = if is_plain {
        look_values(told, pool, request)
    } else {
        hold_values(told, pool, request, count, Takes::Too)
    };
    record_values(told, pool, request, None, End::Answered(answer))
}

/// By what a transaction is known for the one that took the call.
pub(super) fn mark(request: &ClaimRequest) -> String {
    uuid::Uuid::from_bytes(*request.attempt.as_bytes())
        .simple()
        .to_string()
}

/// How long an owner may stand still before the database ends its transaction.
pub(super) fn stands_still_ms(request: &ClaimRequest) -> u64 {
    let lease = u64::try_from(request.lease.as_millis()).unwrap_or(u64::MAX);
    lease.clamp(1, STANDS_STILL_MS_MAX)
}

fn is_plain(request: &ClaimRequest, count: Count) -> bool {
    request.session.is_none() && count != Count::Anew
}

/// `$4`, `$5` and `$6` for three after three.
fn numbers(after: usize, count: usize) -> Vec<String> {
    let numbers = after + 1..=after + count;
    numbers.map(|number| format!("${number}")).collect()
}

/// Those of a record, after others, where what only the database knows comes from `taken`.
fn recorded(after: usize) -> Vec<String> {
    let mut numbers = numbers(after, RECORD_VALUES - TOLD_BY_TAKEN.len());
    for (place, column) in TOLD_BY_TAKEN {
        numbers.insert(place, format!("{TAKE}.{column}"));
    }
    numbers
}

/// For how long the key of a call is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Until its transaction is over, which is also in the instant in which a statement is refused.
    Ended,
    /// Until the connection lets it go as well.
    LetGo,
}

/// What `hold` answers, as columns: now, key, when it was first sent, how far clocks may differ, and the lock.
///
/// One picture shows the record and until when records are forgotten: who read the second before a sweep and found
/// the first gone after it would take the call for a new one.
fn look(values: &[String], until: Until) -> String {
    let [now, _, first_sent, difference, lock] = values else {
        return String::new();
    };
    let now = now_ms(now);
    let is_taken = match until {
        Until::Ended => format!("pg_try_advisory_xact_lock({lock})"),
        Until::LetGo => {
            format!("(pg_try_advisory_xact_lock({lock}) AND pg_try_advisory_lock({lock}))")
        }
    };
    format!(
        "CASE
            WHEN r.key IS NOT NULL THEN 0
            WHEN NOT {is_taken} THEN 8
            WHEN NOT {{schema}}.is_here(s.place, s.started) THEN 9
            WHEN {first_sent} > greatest({now}, s.forgotten_until + 1) + {difference} THEN 2
            WHEN {first_sent} <= s.forgotten_until THEN 3
            ELSE 1
        END AS verdict,
        {now} AS now_ms, s.forgotten_until,
        NULL::bigint AS in_progress, NULL::bigint AS in_doubt,
        s.incarnation AS new_incarnation,
        CASE WHEN r.key IS NULL THEN nextval('{{schema}}.tokens') END AS new_sequence"
    )
}

/// Where it looks.
fn looked_at(values: &[String]) -> String {
    let key = values.get(1).map_or("", String::as_str);
    format!("{ITS_STORE} LEFT JOIN {{schema}}.records r ON r.key = {key}")
}

/// What `conclude` writes for a call in no session. The time is when the statement came in: one and the same in
/// all of it.
fn insert(values: &[String], version: &str) -> String {
    let [
        now,
        _mark,
        key,
        scope,
        principal,
        operation,
        name,
        algorithm,
        fingerprint,
        attempt,
        claimed_at,
        first_sent,
        session,
        session_sequence,
        session_first,
        incarnation,
        sequence,
        asked_retention,
        retention,
        _idle,
        state,
        reason,
        format,
        answer,
    ] = values
    else {
        return String::new();
    };
    let now = now_ms(now);
    let until =
        format!("CASE WHEN {state} = 3 THEN {now} + least({asked_retention}, {retention}) END");
    format!(
        "INSERT INTO {{schema}}.records (
            key, version, state, at, scope, principal, operation, name,
            fingerprint_algorithm, fingerprint, incarnation, sequence, attempt, claimed_at, first_sent,
            session, session_sequence, session_first, retention, reason, answer_format, answer,
            answer_until, sweep_at
        )
        SELECT {key}, {version}, {state}, {now}, {scope}, {principal}, {operation}, {name},
            {algorithm}, {fingerprint}, {incarnation}, {sequence}, {attempt}, {claimed_at}, {first_sent},
            {session}, {session_sequence}, {session_first}, {asked_retention}, {reason}, {format}, {answer},
            {until}, {until}"
    )
}

/// Milliseconds since 1970. Half a microsecond more, since the seconds are a number with a floating point; as
/// an exact one they cost more.
fn now_ms(told: &str) -> String {
    format!(
        "COALESCE({told}, floor(date_part('epoch', statement_timestamp()) * 1000 + 0.0005)::bigint)"
    )
}

fn look_values(told: Told, pool: &Pool, request: &ClaimRequest) -> Told {
    told.time(pool.options().told_now())
        .bytes(Some(request.key.digest().as_bytes()))
        .time(request.first_sent)
        .span(CLOCK_DIFFERENCE_MAX)
        .long(held_lock(pool.id(), request.key.digest()))
}

fn hold_values(
    told: Told,
    pool: &Pool,
    request: &ClaimRequest,
    count: Count,
    takes: Takes,
) -> Told {
    let options = pool.options();
    let session = request.session;
    let takes = takes == Takes::Too;
    let lock = takes.then(|| held_lock(pool.id(), request.key.digest()));
    let number = session.map(|call| held_number(pool.id(), call));
    told.time(options.told_now())
        .bytes(Some(request.key.digest().as_bytes()))
        .bytes(Some(request.key.scope().digest().as_bytes()))
        .time(request.first_sent)
        .number(session.map(|call| call.session))
        .number(session.map(|call| call.sequence))
        .number(session.map(|call| call.first_unanswered))
        .flag(count == Count::Anew)
        .number(options.limits.in_progress_max as u64)
        .number(options.limits.in_doubt_max as u64)
        .long(lock)
        .long(number.filter(|_| takes))
        .text(takes.then(|| mark(request)).as_deref())
        .text(
            takes
                .then(|| stands_still_ms(request).to_string())
                .as_deref(),
        )
}

/// Without `hold` those are left out that only the database knows.
fn record_values(
    told: Told,
    pool: &Pool,
    request: &ClaimRequest,
    hold: Option<&Hold>,
    as_what: End<'_>,
) -> Told {
    let options = pool.options();
    let scope = request.key.scope();
    let print = request.fingerprints.current();
    let session = request.session;
    let bytes = |name: Option<&str>| name.map(|name| name.as_bytes().to_vec());
    let (state, reason, answer) = match as_what {
        End::Answered(answer) => (3, None, Some(answer)),
        End::InDoubt(reason, answer) => {
            let reason = i16::from(crate::codec::reason_number(reason));
            (2, Some(reason), answer)
        }
    };
    let mut told = told
        .time(options.told_now())
        .text(Some(&mark(request)))
        .bytes(Some(request.key.digest().as_bytes()))
        .bytes(Some(scope.digest().as_bytes()))
        .bytes(bytes(scope.principal_name()).as_deref())
        .bytes(bytes(scope.operation_name()).as_deref())
        .bytes(Some(request.key.key().as_str().as_bytes()))
        .int(i32::from(print.algorithm().number()))
        .bytes(Some(print.digest()))
        .bytes(Some(request.attempt.as_bytes()));
    if let Some(hold) = hold {
        told = told.time(hold.claimed_at);
    }
    told = told
        .time(request.first_sent)
        .number(session.map(|call| call.session))
        .number(session.map(|call| call.sequence))
        .number(session.map(|call| call.first_unanswered));
    if let Some(hold) = hold {
        told = told
            .number(hold.token.incarnation())
            .number(hold.token.sequence());
    }
    told.span(request.retention)
        .span(options.retention.answer)
        .span(options.limits.session_idle)
        .short(Some(state))
        .short(reason)
        .int(answer.map(|answer| i32::from(answer.format().number())))
        .bytes(answer.map(|answer| &answer.body()[..]))
}

/// What a call comes to: its record is there; it is this one's; a transaction has it; the database stands
/// elsewhere than before. Others are as `claim` says them.
pub(super) const FOUND: i32 = 0;
pub(super) const GIVEN: i32 = 1;
pub(super) const TAKEN: i32 = 8;
pub(super) const MOVED: i32 = 9;

/// Whatever the handler has set: a commit that is acknowledged before it is written would be no
/// acknowledgement.
const IS_DURABLE: &str = "CASE WHEN current_setting('synchronous_commit') = 'off'
        THEN set_config('synchronous_commit', 'on', true) END";

/// One row. Of a table that was never analysed the database believes that there are hundreds, and what it would save
/// for each of them by knowing the values makes it plan the statement anew for each call.
const ITS_STORE: &str = "(SELECT * FROM {schema}.store LIMIT 1) s";

const LOOK_VALUES: usize = 5;
const HOLD_VALUES: usize = 14;
const RECORD_VALUES: usize = 24;

/// What the parts of a whole call are called: no table of the user's has such a name.
const TAKE: &str = "onlyonce_taken";
const MADE: &str = "onlyonce_made";

/// Where among the values of a record stands what only the database knows.
const TOLD_BY_TAKEN: [(usize, &str); 3] = [
    (10, "now_ms"),
    (15, "new_incarnation"),
    (16, "new_sequence"),
];

/// As long as the database can count.
const STANDS_STILL_MS_MAX: u64 = i32::MAX as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbered_after_those_of_the_effect() {
        assert_eq!(numbers(2, 3), ["$3", "$4", "$5"]);
        let values = recorded(7);
        assert_eq!(values.len(), RECORD_VALUES);
        assert_eq!(values[9..12], ["$17", "onlyonce_taken.now_ms", "$18"]);
        assert_eq!(
            values[15..18],
            [
                "onlyonce_taken.new_incarnation",
                "onlyonce_taken.new_sequence",
                "$22"
            ]
        );
        assert_eq!(values[23], "$28");
        assert!(insert(&values, "1").contains("$18"));
        for until in [Until::Ended, Until::LetGo] {
            assert!(look(&numbers(2, LOOK_VALUES), until).contains("xact_lock($7)"));
        }
        assert!(looked_at(&numbers(2, LOOK_VALUES)).ends_with("r.key = $4"));
    }
}
