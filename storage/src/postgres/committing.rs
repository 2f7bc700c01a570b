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
use super::settling::fits;
use super::steps::{self, End};
use super::store::Shared;
use super::stored::{corrupt, get};
use crate::transaction::{CommitError, TransactionError, Work};
use crate::{Answer, Claim, DoubtReason, FencingToken, KeyDigest, SettleError, StoreError};

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
        let keeps = connection.keeps_statements();
        let told = steps::record(&shared.pool, &call.request, hold, as_what, keeps);
        // Before, so that the record is on its way before the commit is.
        let named = connection.ready(&told).await?;
        let (written, committed) = tokio::join!(
            biased;
            connection.ask_as(named.as_ref(), &told),
            connection.begin_or_end("COMMIT"),
        );
        // Where the record was not written, there was nothing to commit, whatever the second answer is.
        match written {
            // Somebody has settled the call in the instant in which it was taken.
            Err(Failure::InTheWay(reason)) => Err(Failure::Conflict(reason)),
            Err(failure) => Err(failure),
            Ok(_) => committed,
        }
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

const COMMITTED: i32 = 1;
const NOT_COMMITTED: i32 = 0;
