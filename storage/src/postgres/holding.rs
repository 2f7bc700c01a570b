//! How a call is begun in a transaction of the database.
//!
//! The rule: **who has the lock of the key looks after he has it.** The lock ends with the transaction,
//! after what that has written can be seen; so whoever has it sees the record of everybody who had it
//! before, and two that race never both find the key absent.

use std::sync::Arc;

use tokio_postgres::Row;

use super::claiming::{self, held_lock};
use super::error::Failure;
use super::options::Isolation;
use super::pool::{Leased, Pool};
use super::room::Count;
use super::settling::{ROUNDS_MAX, too_contended};
use super::statement::Told;
use super::store::Shared;
use super::stored::{get, number, time};
use crate::{
    Abandoned, Claim, ClaimOutcome, ClaimRequest, FencingToken, Lease, StoreError, Timestamp,
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
/// was committed before it; else another one, over a connection of its own, since the transaction's own
/// picture may be older than its lock.
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
    let at = shared.circumstances(time(&row, "now_ms")?, time(&row, "forgotten_until")?);
    let open = (get(&row, "in_progress")?, get(&row, "in_doubt")?);
    if let (Some(in_progress), Some(in_doubt)) = open {
        let open = (number(in_progress)?, number(in_doubt)?);
        let scope = request.key.scope().digest();
        let limits = &shared.pool.options().limits;
        shared.room.note(scope, open, limits, shared.clock.now());
    }
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
        ELSEWHERE => claiming::held_elsewhere(shared, request).await?,
        MOVED => {
            let pool = &*shared.pool;
            let noted = pool.rows(|_| {
                pool.told("SELECT {schema}.arrive($1)")
                    .time(pool.options().told_now())
            });
            noted.await?;
            None
        }
        other => Some(claiming::refused(other)?),
    };
    Ok(outcome.map(Holding::Not))
}

/// `None`: somebody else has the call.
async fn begin(
    pool: &Arc<Pool>,
    request: &ClaimRequest,
    count: Count,
) -> Result<Option<Seen>, Failure> {
    let leased = pool.lease().await?;
    let connection = leased.connection()?;
    let isolation = pool.options().isolation;
    let is_one_step = isolation == Isolation::ReadCommitted;
    let taking = if is_one_step {
        held(pool, request, count)
    } else {
        taken(pool, request)
    };
    let used = async {
        match use_session(pool, request) {
            None => Ok(Vec::new()),
            Some(told) => connection.ask(&told).await,
        }
    };
    // All four are sent before the first is answered. The session's use is noted for itself: in the
    // transaction it would keep all other calls of the session waiting for this one's handler.
    let (used, begun, taken, base) = tokio::join!(
        biased;
        used,
        connection.begin_or_end(isolation.begin()),
        connection.ask(&taking),
        connection.begin_or_end(BASE),
    );
    let (used, (), taken, ()) = (used?, begun?, taken?, base?);
    let session = match used.first() {
        None => 0,
        Some(row) => row.try_get("known").map_err(unreadable)?,
    };
    let mut first = taken.into_iter().next();
    if !is_one_step {
        let has_it = first.map(|row| row.try_get(0).map_err(unreadable));
        if !has_it.transpose()?.unwrap_or(false) {
            leased.undo().await;
            return Ok(None);
        }
        let looked = pool.ask(looked(pool, request, count)).await?;
        first = looked.into_iter().next();
    }
    let row =
        first.ok_or_else(|| Failure::Refused("a call was begun without a word".to_owned()))?;
    Ok(Some(Seen {
        row,
        session,
        leased,
    }))
}

fn unreadable(error: tokio_postgres::Error) -> Failure {
    Failure::Refused(error.to_string())
}

fn use_session(pool: &Pool, request: &ClaimRequest) -> Option<Told> {
    let call = request.session?;
    let options = pool.options();
    let scope = request.key.scope().of_principal().digest();
    // Who sends a call has not had its answer: what says otherwise acknowledges nothing.
    let first = Some(call.first_unanswered).filter(|first| *first <= call.sequence);
    Some(
        pool.told(
            "SELECT known FROM {schema}.use_session(
                COALESCE($1, {schema}.now_ms()), $2, $3, $4, $5)",
        )
        .time(options.told_now())
        .number(call.session)
        .bytes(Some(scope.as_bytes()))
        .number(first)
        .span(options.limits.session_idle),
    )
}

fn held(pool: &Pool, request: &ClaimRequest, count: Count) -> Told {
    let told = pool.told(
        "SELECT verdict, now_ms, forgotten_until, in_progress, in_doubt,
            new_incarnation, new_sequence, (kept).*
        FROM {schema}.hold($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    );
    looking(told, pool, request, count)
        .long(held_lock(request.key.digest()))
        .text(Some(&mark(request)))
        .span(request.lease)
}

fn looked(pool: &Pool, request: &ClaimRequest, count: Count) -> Told {
    let told = pool.told(
        "SELECT verdict, now_ms, forgotten_until, in_progress, in_doubt,
            new_incarnation, new_sequence, (kept).*
        FROM {schema}.look($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    );
    looking(told, pool, request, count)
}

fn looking(told: Told, pool: &Pool, request: &ClaimRequest, count: Count) -> Told {
    let options = pool.options();
    let session = request.session;
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
}

fn taken(pool: &Pool, request: &ClaimRequest) -> Told {
    let session = request.session;
    pool.told("SELECT {schema}.take($1, $2, $3, $4, $5)")
        .long(held_lock(request.key.digest()))
        .number(session.map(|call| call.session))
        .number(session.map(|call| call.sequence))
        .text(Some(&mark(request)))
        .span(request.lease)
}

/// By what a transaction is known for the one that took the call.
pub(super) fn mark(request: &ClaimRequest) -> String {
    uuid::Uuid::from_bytes(*request.attempt.as_bytes())
        .simple()
        .to_string()
}

/// Where a run is set back to whose answer has no effect: the lock is older.
pub(super) const BASE: &str = "SAVEPOINT onlyonce_base";
pub(super) const BACK_TO_BASE: &str = "ROLLBACK TO SAVEPOINT onlyonce_base";

const FOUND: i32 = 0;
const GIVEN: i32 = 1;
const ELSEWHERE: i32 = 8;
const MOVED: i32 = 9;
