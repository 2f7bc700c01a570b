//! How a call is begun in a transaction of the database.
//!
//! The rule: **who has the lock of the key looks after he has it.** The lock ends with the transaction,
//! after what that has written can be seen; so whoever has it sees the record of everybody who had it
//! before, and two that race never both find the key absent. Where both are one step (`steps.rs`), the second
//! finds it at the latest where he would write his own.

use std::sync::Arc;

use tokio::time::timeout;
use tokio_postgres::Row;

use super::claiming::{self, held_lock, held_number};
use super::connection::Connection;
use super::error::{Failure, unavailable};
use super::options::Isolation;
use super::pool::{Leased, Pool};
use super::room::Count;
use super::settling::{ROUNDS_MAX, too_contended};
use super::statement::Told;
use super::steps::{self, FOUND, GIVEN, MOVED, TAKEN, Takes, mark, stands_still_ms};
use super::store::Shared;
use super::stored::{get, number, time};
use crate::transition::Circumstances;
use crate::{
    Abandoned, Claim, ClaimOutcome, ClaimRequest, FencingToken, Lease, SessionCall, StoreError,
    Timestamp,
};

/// A transaction that has the call.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) leased: Leased,
    pub(super) token: FencingToken,
    pub(super) claimed_at: Timestamp,
}

/// What came of beginning one.
pub(super) enum Holding {
    Given(Hold),
    Not(ClaimOutcome),
}

/// How often this process has begun the call.
#[derive(Clone, Copy)]
enum Turn {
    First,
    /// It has it, in a transaction that is to be undone.
    Again,
}

/// What the database said.
struct Seen {
    row: Row,
    /// What it said of the call's session: 0 where there is none, or it lives.
    session: i32,
    leased: Leased,
}

/// Begins a call in a transaction that this process holds.
pub(super) async fn begin_call(
    shared: Arc<Shared>,
    mut request: ClaimRequest,
) -> Result<ClaimOutcome, StoreError> {
    // A doubt is not ended by a guarantee that leaves none.
    request.rerun_of = None;
    // Nothing of it is kept before the commit.
    request.journal = None;
    if let Some(outcome) = claiming::held_here(&shared, &request)? {
        return Ok(outcome);
    }
    let hold = match hold(&shared, &request).await? {
        Holding::Given(hold) => hold,
        Holding::Not(outcome) => return Ok(outcome),
    };
    let lease = Lease::until(hold.claimed_at.plus(request.lease));
    let on_drop = Arc::clone(&shared.held) as Arc<dyn Abandoned>;
    let claim = Claim::new(request.key.clone(), hold.token, lease, Some(on_drop));
    shared.held.add(request, hold);
    Ok(ClaimOutcome::Claimed(claim))
}

/// Begins a transaction that has the call, or says why not. One round trip where each statement sees what
/// was committed before it; else two more, one of them over a connection of its own, since the
/// transaction's own picture may be older than its lock.
pub(super) async fn hold(
    shared: &Arc<Shared>,
    request: &ClaimRequest,
) -> Result<Holding, StoreError> {
    for _ in 0..ROUNDS_MAX {
        let scope = request.key.scope().digest();
        let count = shared.room.take(scope, shared.clock.now());
        let begun = shared.pool.asked(|_| begin(&shared.pool, request, count));
        let Some(begun) = begun.await? else {
            match claiming::held_elsewhere(shared, request).await? {
                Some(outcome) => return Ok(Holding::Not(outcome)),
                None => continue,
            }
        };
        if let Some(holding) = understand(shared, request, begun).await? {
            return Ok(holding);
        }
    }
    Err(too_contended(request.key.digest()))
}

/// Begins a call again that this process has had until now, on the connection that has it: waiting for another
/// one would leave the key to everybody meanwhile. Where the connection leads to one backend, that keeps the
/// key while the earlier transaction is rolled back; an aborted one cannot be told to, and behind a pooler it
/// would keep it for ever: there the key is free between two words of one message.
pub(super) async fn hold_again(
    shared: &Arc<Shared>,
    request: &ClaimRequest,
    leased: Leased,
) -> Result<Holding, StoreError> {
    let pool = &shared.pool;
    let within = pool.options().answer_within;
    // It was counted before.
    let begun = begin_on(pool, leased, request, Count::Known, Turn::Again);
    match timeout(within, begun).await {
        Ok(Ok(Some(begun))) => {
            if let Some(holding) = understand(shared, request, begun).await? {
                return Ok(holding);
            }
        }
        // Somebody else has it, or its connection is lost: it is like any other.
        Ok(Ok(None) | Err(_)) => {}
        Err(_) => return Err(unavailable(format!("no answer within {within:?}"))),
    }
    hold(shared, request).await
}

/// What the database's word comes to. `None` where the record has changed meanwhile, or the database has
/// moved: it is asked again.
async fn understand(
    shared: &Arc<Shared>,
    request: &ClaimRequest,
    seen: Seen,
) -> Result<Option<Holding>, StoreError> {
    let Seen {
        row,
        session,
        leased,
    } = seen;
    let at = note(shared, request, &row)?;
    let verdict: i32 = get(&row, "verdict")?;
    if verdict == GIVEN && session == 0 {
        let incarnation = number(get(&row, "new_incarnation")?)?;
        let sequence = number(get(&row, "new_sequence")?)?;
        return Ok(Some(Holding::Given(Hold {
            leased,
            token: FencingToken::new(incarnation, sequence),
            claimed_at: at.now,
        })));
    }
    if verdict == FOUND {
        // It has no lock that could be in anybody's way, so nobody waits for its end.
        tokio::spawn(leased.undo());
    } else {
        leased.undo().await;
    }
    let outcome = match verdict {
        GIVEN => Some(claiming::refused(session)?),
        FOUND => claiming::decide(shared, request, &row, &at).await?,
        MOVED => {
            arrive(&shared.pool).await?;
            None
        }
        other => Some(claiming::refused(other)?),
    };
    Ok(outcome.map(Holding::Not))
}

/// Takes in what `hold` says beside its verdict: the clock, and how much is open in the scope where that was counted.
pub(super) fn note(
    shared: &Shared,
    request: &ClaimRequest,
    row: &Row,
) -> Result<Circumstances, StoreError> {
    let at = shared.circumstances(time(row, "now_ms")?, time(row, "forgotten_until")?);
    let open = (get(row, "in_progress")?, get(row, "in_doubt")?);
    if let (Some(in_progress), Some(in_doubt)) = open {
        let open = (number(in_progress)?, number(in_doubt)?);
        let scope = request.key.scope().digest();
        let limits = &shared.pool.options().limits;
        shared.room.note(scope, open, limits, shared.clock.now());
    }
    Ok(at)
}

/// Notes that the database stands elsewhere than before.
pub(super) async fn arrive(pool: &Pool) -> Result<(), StoreError> {
    let noted = pool.rows(|_| {
        pool.told("SELECT {schema}.arrive($1)")
            .time(pool.options().told_now())
    });
    noted.await.map(drop)
}

/// `None`: somebody else has the call.
async fn begin(
    pool: &Arc<Pool>,
    request: &ClaimRequest,
    count: Count,
) -> Result<Option<Seen>, Failure> {
    let leased = pool.lease().await?;
    begin_on(pool, leased, request, count, Turn::First).await
}

async fn begin_on(
    pool: &Arc<Pool>,
    leased: Leased,
    request: &ClaimRequest,
    count: Count,
    turn: Turn,
) -> Result<Option<Seen>, Failure> {
    let connection = leased.connection()?;
    let isolation = pool.options().isolation;
    let sees_for_itself = isolation == Isolation::ReadCommitted;
    let takes = match turn {
        Turn::First if sees_for_itself => Takes::Too,
        _ => Takes::Before,
    };
    let keeps = connection.keeps_statements();
    let looking = steps::take(pool, request, count, takes, keeps);
    let mut beginning = match takes {
        Takes::Too => isolation.begin().to_owned(),
        Takes::Before => beginning(pool, request),
    };
    let (keeping, used, named) = match turn {
        Turn::First => (
            None,
            request.session.map(|call| use_session(pool, request, call)),
            connection.ready(&looking).await?,
        ),
        // Nothing is made ready: what is rolled back may be aborted. That its session is used was noted when
        // it was first begun.
        Turn::Again => {
            let lock = held_lock(pool.id(), request.key.digest());
            beginning.insert_str(0, "ROLLBACK; ");
            let keeping = keeps.then(|| {
                beginning.push_str(&format!("; SELECT pg_advisory_unlock({lock})"));
                format!("SELECT pg_try_advisory_lock({lock})")
            });
            (keeping, None, None)
        }
    };
    let use_named = match &used {
        None => None,
        Some(told) => connection.ready(told).await?,
    };
    let used = async {
        match &used {
            None => Ok(Vec::new()),
            Some(told) => connection.ask_as(use_named.as_ref(), told).await,
        }
    };
    let keeping = async {
        // OK to ignore because an aborted transaction takes no word, and a lost connection says so below.
        if let Some(keeping) = &keeping {
            let _ = connection.begin_or_end(keeping).await;
        }
    };
    let looked = async {
        if sees_for_itself {
            return connection.ask_as(named.as_ref(), &looking).await;
        }
        Ok(Vec::new())
    };
    // All are sent before the first is answered. The session's use is noted for itself: in the
    // transaction it would keep all other calls of the session waiting for this one's handler.
    let ((), used, has_it, looked) = tokio::join!(
        biased;
        keeping,
        used,
        connection.begin_and_ask(&beginning),
        looked,
    );
    let (used, has_it, looked) = (used?, has_it?, looked?);
    let session = match used.first() {
        None => 0,
        Some(row) => row.try_get("known").map_err(|error| unreadable(&error))?,
    };
    let mut seen = looked.into_iter().next();
    let verdict = match &seen {
        None => None,
        Some(row) => row.try_get("verdict").map_err(|error| unreadable(&error))?,
    };
    let has_it = match takes {
        Takes::Too => verdict != Some(TAKEN),
        // What is there is answered, whoever has the lock.
        Takes::Before => has_it.as_deref() == Some(YES) || verdict == Some(FOUND),
    };
    if !has_it {
        if !take(pool, connection, request).await? {
            leased.undo().await;
            return Ok(None);
        }
        if sees_for_itself {
            let looking = steps::take(pool, request, count, Takes::Before, keeps);
            seen = connection.ask(&looking).await?.into_iter().next();
        } else {
            // The lock is younger than the one before, and must outlast what is undone.
            connection.begin_or_end(BASE).await?;
        }
    }
    if !sees_for_itself {
        seen = pool.ask(looking).await?.into_iter().next();
    }
    let row = seen.ok_or_else(|| Failure::Refused("a call was begun without a word".to_owned()))?;
    Ok(Some(Seen {
        row,
        session,
        leased,
    }))
}

/// Begins the transaction, says by what it is known and how long its owner may stand still, and asks for the
/// lock: one message. What is spliced in are numbers and a mark of ours. Said each time: what an earlier handler
/// has set for the connection must not be in the way.
fn beginning(pool: &Pool, request: &ClaimRequest) -> String {
    let within_ms = stands_still_ms(request);
    let mark = mark(request);
    let lock = held_lock(pool.id(), request.key.digest());
    let mut sql = format!(
        "{}; SET LOCAL idle_in_transaction_session_timeout = {within_ms}; \
        SET LOCAL onlyonce.call = '{mark}'; SELECT pg_try_advisory_xact_lock({lock})",
        pool.options().isolation.begin(),
    );
    if let Some(call) = request.session {
        // One number in a session, one key.
        let number = held_number(pool.id(), call);
        sql.push_str(&format!(" AND pg_try_advisory_xact_lock({number})"));
    }
    if pool.options().isolation != Isolation::ReadCommitted {
        sql.push_str("; ");
        sql.push_str(BASE);
    }
    sql
}

/// Asks for the lock for some milliseconds: who only looks has it for some microseconds.
async fn take(
    pool: &Pool,
    connection: &Connection,
    request: &ClaimRequest,
) -> Result<bool, Failure> {
    let taken = connection.ask(&taken(pool, request)).await?;
    let has_it = taken.first().map(|row| row.try_get(0));
    has_it
        .transpose()
        .map(Option::unwrap_or_default)
        .map_err(|error| unreadable(&error))
}

fn unreadable(error: &tokio_postgres::Error) -> Failure {
    Failure::Refused(error.to_string())
}

/// Notes that the call's session is used, and what it acknowledges.
pub(super) fn use_session(pool: &Pool, request: &ClaimRequest, call: SessionCall) -> Told {
    let options = pool.options();
    let scope = request.key.scope().of_principal().digest();
    // Who sends a call has not had its answer: what says otherwise acknowledges nothing.
    let first = Some(call.first_unanswered).filter(|first| *first <= call.sequence);
    pool.told(
        "SELECT known FROM {schema}.use_session(
            COALESCE($1, {schema}.now_ms()), $2, $3, $4, $5)",
    )
    .time(options.told_now())
    .number(call.session)
    .bytes(Some(scope.as_bytes()))
    .number(first)
    .span(options.limits.session_idle)
}

fn taken(pool: &Pool, request: &ClaimRequest) -> Told {
    pool.told("SELECT {schema}.take($1, $2, $3, $4)")
        .long(held_lock(pool.id(), request.key.digest()))
        .long(request.session.map(|call| held_number(pool.id(), call)))
        .text(Some(&mark(request)))
        .number(stands_still_ms(request))
}

/// Where a run is set back to whose answer has no effect: the lock is older. Only where the transaction has
/// one picture; it costs a number of its own for each call, and that is dear.
pub(super) const BASE: &str = "SAVEPOINT onlyonce_base";
pub(super) const BACK_TO_BASE: &str = "ROLLBACK TO SAVEPOINT onlyonce_base";

/// A `boolean` as text.
const YES: &str = "t";
