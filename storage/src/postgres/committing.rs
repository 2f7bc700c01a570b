//! How a transaction becomes durable with the answer of its call, or is known not to be.
//!
//! The rule: **a commit is believed when the record was written before it in the same transaction, and
//! then only by the database's word.** A transaction that was aborted answers `COMMIT` with `ROLLBACK`,
//! as if all was well: here it has failed before, since it could not write the record.

use std::sync::Arc;

use tokio::time::timeout;

use super::claiming::held_lock;
use super::error::{Failure, unavailable};
use super::held::{HeldCall, OneTransaction};
use super::holding::{Hold, mark};
use super::settling::fits;
use super::statement::Told;
use super::store::Shared;
use super::stored::{corrupt, get};
use crate::transaction::{CommitError, TransactionError, Work};
use crate::{Answer, Claim, DoubtReason, FencingToken, KeyDigest, SettleError, StoreError};

/// What the record shall say.
#[derive(Clone, Copy, Debug)]
enum End<'a> {
    Answered(&'a Answer),
    InDoubt(DoubtReason, Option<&'a Answer>),
}

/// Commits what the newest run has done, with its answer.
pub(super) async fn commit(
    shared: Arc<Shared>,
    claim: Claim,
    work: Work,
    answer: Answer,
) -> Result<(), CommitError> {
    let Some(call) = shared.held.of(claim.digest(), claim.token()) else {
        claim.spend();
        return Err(CommitError::Fenced);
    };
    let ended = if work.writes().is_empty() && work.reads().is_empty() {
        end(&shared, &call, End::Answered(&answer)).await
    } else {
        Err(Ended::Refused(unavailable(
            "it was given rows that no run of it has written",
        )))
    };
    let refused = match ended {
        Err(Ended::Conflict) => return Err(CommitError::Conflict(claim)),
        Ok(()) => Ok(()),
        Err(Ended::Fenced) => Err(CommitError::Fenced),
        Err(Ended::Refused(error)) => Err(CommitError::Refused(error)),
        Err(Ended::Unknown(error)) => Err(CommitError::Unknown(error)),
    };
    let (key, token) = claim.spend();
    over(&shared, key, token).await;
    shared.hearing.tell(key);
    refused
}

/// Ends a call that is held with an answer, and with no effect.
pub(super) async fn complete(
    shared: &Arc<Shared>,
    call: &HeldCall,
    token: FencingToken,
    answer: Answer,
) -> Result<(), SettleError> {
    settle(shared, call, token, End::Answered(&answer)).await
}

/// Ends a call that is held in doubt, with no effect: what the doubt is about lies elsewhere.
pub(super) async fn doubt(
    shared: &Arc<Shared>,
    call: &HeldCall,
    token: FencingToken,
    reason: DoubtReason,
    answer: Option<Answer>,
) -> Result<(), SettleError> {
    settle(shared, call, token, End::InDoubt(reason, answer.as_ref())).await
}

async fn settle(
    shared: &Arc<Shared>,
    call: &HeldCall,
    token: FencingToken,
    as_what: End<'_>,
) -> Result<(), SettleError> {
    {
        let mut run = call.run.lock();
        run.discards = true;
        run.aborted = None;
        run.failed = None;
    }
    let ended = end(shared, call, as_what).await;
    over(shared, call.request.key.digest(), token).await;
    ended.map_err(|ended| match ended {
        Ended::Conflict | Ended::Fenced => SettleError::Fenced,
        Ended::Refused(error) | Ended::Unknown(error) => error.into(),
    })
}

/// Forgets a call, and gives its connection back where it still has one.
async fn over(shared: &Shared, key: KeyDigest, token: FencingToken) {
    if let Some(call) = shared.held.remove(key, token) {
        call.undo().await;
    }
}

/// Why a transaction was not ended as it should be.
enum Ended {
    Conflict,
    Fenced,
    Refused(StoreError),
    Unknown(StoreError),
}

async fn end(shared: &Arc<Shared>, call: &HeldCall, as_what: End<'_>) -> Result<(), Ended> {
    let answer = match as_what {
        End::Answered(answer) => Some(answer),
        End::InDoubt(_, answer) => answer,
    };
    if let Some(answer) = answer {
        fits(&shared.pool, answer).map_err(Ended::Refused)?;
    }
    let mut transaction = call.transaction.lock().await;
    let (settled, number) = {
        let run = call.run.lock();
        (run.settled(), run.number)
    };
    settled.map_err(of_run)?;
    let ready = call.ready(shared, &mut transaction, number);
    ready.await.map_err(of_run)?;
    let ended = write(shared, call, &mut transaction, as_what).await;
    if ended.is_ok()
        && let Some(hold) = transaction.hold.take()
    {
        hold.leased.give_back();
    }
    ended
}

fn of_run(error: TransactionError) -> Ended {
    match error {
        TransactionError::Conflict => Ended::Conflict,
        TransactionError::Superseded => Ended::Fenced,
        TransactionError::Store(error) => Ended::Refused(error),
        other => Ended::Refused(unavailable(other.to_string())),
    }
}

/// The record and the commit, in one round trip.
async fn write(
    shared: &Arc<Shared>,
    call: &HeldCall,
    transaction: &mut OneTransaction,
    as_what: End<'_>,
) -> Result<(), Ended> {
    let within = shared.pool.options().answer_within;
    let Some(hold) = transaction.hold.as_ref() else {
        return Err(Ended::Refused(unavailable("its connection is lost")));
    };
    let token = hold.token;
    let answers = async {
        let connection = hold.leased.connection()?;
        let told = conclusion(shared, call, hold, as_what, connection.keeps_statements());
        // Before, so that the record is on its way before the commit is.
        let named = connection.ready(&told).await?;
        let (written, committed) = tokio::join!(
            biased;
            connection.ask_as(named.as_ref(), &told),
            connection.begin_or_end("COMMIT"),
        );
        // Where the record was not written, there was nothing to commit, whatever the second answer is.
        written?;
        committed
    };
    let failure = match timeout(within, answers).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(failure)) => failure,
        Err(_) => Failure::Lost(format!("no answer to the commit within {within:?}")),
    };
    match failure {
        Failure::Conflict(_) => Err(Ended::Conflict),
        Failure::InTheWay(reason) | Failure::Refused(reason) => {
            Err(Ended::Refused(unavailable(reason)))
        }
        Failure::NotConnected(error) => Err(Ended::Refused(unavailable(error.to_string()))),
        Failure::Lost(reason) => {
            // Closed, so that the database ends what it has not committed.
            transaction.hold = None;
            find_out(shared, call, token, reason).await
        }
    }
}

/// What became of a transaction whose commit was not answered. Waits until it is over, since its backend
/// may still be at it.
async fn find_out(
    shared: &Shared,
    call: &HeldCall,
    token: FencingToken,
    lost: String,
) -> Result<(), Ended> {
    let key = call.request.key.digest();
    let session = call.request.session;
    let pool = &shared.pool;
    let rows = pool.asked(|_| async {
        let asking = pool
            .told("SELECT {schema}.outcome($1, $2, $3, $4, $5, $6, $7) AS outcome")
            .bytes(Some(key.as_bytes()))
            .long(held_lock(shared.id, key))
            .number(token.incarnation())
            .number(token.sequence())
            .bytes(Some(call.request.attempt.as_bytes()))
            .number(session.map(|call| call.session))
            .number(session.map(|call| call.sequence));
        pool.ask_reading_anew(asking).await
    });
    let rows = rows.await.map_err(Ended::Unknown)?;
    let outcome = rows.first().map(|row| get::<i32>(row, "outcome"));
    match outcome {
        Some(Ok(COMMITTED)) => Ok(()),
        Some(Ok(NOT_COMMITTED)) => Err(Ended::Refused(unavailable(lost))),
        Some(Ok(_)) => Err(Ended::Unknown(unavailable(lost))),
        Some(Err(error)) => Err(Ended::Unknown(error)),
        None => Err(Ended::Unknown(corrupt("an outcome was not answered"))),
    }
}

fn conclusion(
    shared: &Shared,
    call: &HeldCall,
    hold: &Hold,
    as_what: End<'_>,
    is_kept: bool,
) -> Told {
    let pool = &shared.pool;
    let options = pool.options();
    let request = &call.request;
    let scope = request.key.scope();
    let print = request.fingerprints.current();
    let session = request.session;
    let text = |name: Option<&str>| name.map(|name| name.as_bytes().to_vec());
    let (state, reason, answer) = match as_what {
        End::Answered(answer) => (3, None, Some(answer)),
        End::InDoubt(reason, answer) => {
            let reason = i16::from(crate::codec::reason_number(reason));
            (2, Some(reason), answer)
        }
    };
    let written = if is_kept && session.is_none() {
        format!("{CONCLUDE} RETURNING {IS_DURABLE}")
    } else {
        format!(
            "SELECT {{schema}}.conclude(
                $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
                $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24), {IS_DURABLE}"
        )
    };
    pool.told(&written)
        .time(options.told_now())
        .text(Some(&mark(request)))
        .bytes(Some(request.key.digest().as_bytes()))
        .bytes(Some(scope.digest().as_bytes()))
        .bytes(text(scope.principal_name()).as_deref())
        .bytes(text(scope.operation_name()).as_deref())
        .bytes(Some(request.key.key().as_str().as_bytes()))
        .int(i32::from(print.algorithm().number()))
        .bytes(Some(print.digest()))
        .bytes(Some(request.attempt.as_bytes()))
        .time(hold.claimed_at)
        .time(request.first_sent)
        .number(session.map(|call| call.session))
        .number(session.map(|call| call.sequence))
        .number(session.map(|call| call.first_unanswered))
        .number(hold.token.incarnation())
        .number(hold.token.sequence())
        .span(request.retention)
        .span(options.retention.answer)
        .span(options.limits.session_idle)
        .short(Some(state))
        .short(reason)
        .int(answer.map(|answer| i32::from(answer.format().number())))
        .bytes(answer.map(|answer| &answer.body()[..]))
}

/// What the function `conclude` writes for a call in no session, as one statement: kept, it costs less. The
/// mark is gone with the transaction that took the call; then nothing is written. The time is when the
/// statement came in: one and the same in all of it.
const CONCLUDE: &str = "INSERT INTO {schema}.records (
        key, version, state, at, scope, principal, operation, name,
        fingerprint_algorithm, fingerprint, incarnation, sequence, attempt, claimed_at, first_sent,
        session, session_sequence, session_first, retention, reason, answer_format, answer,
        answer_until, sweep_at
    )
    SELECT $3,
        CASE WHEN current_setting('onlyonce.call', true) = $2
            THEN 1 ELSE {schema}.call_is_over() END,
        $21, COALESCE($1, floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint),
        $4, $5, $6, $7, $8, $9, $16, $17, $10, $11, $12, $13, $14, $15, $18, $22, $23, $24,
        CASE WHEN $21 = 3 THEN least($18, $19)
            + COALESCE($1, floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint) END,
        CASE WHEN $21 = 3 THEN least($18, $19)
            + COALESCE($1, floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint) END
    WHERE $20 IS NOT NULL";

/// Whatever the handler has set: a commit that is acknowledged before it is written would be no
/// acknowledgement.
const IS_DURABLE: &str = "CASE WHEN current_setting('synchronous_commit') = 'off'
        THEN set_config('synchronous_commit', 'on', true) END";

const COMMITTED: i32 = 1;
const NOT_COMMITTED: i32 = 0;
