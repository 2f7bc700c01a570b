//! How a key is claimed.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;

use super::asking::{look, read, write, write_claim};
use super::journaling;
use super::pool::Pool;
use super::room::Count;
use super::settling::{ROUNDS_MAX, too_contended};
use super::statement::Told;
use super::store::Shared;
use super::stored::{AnswerColumn, Stored, corrupt, get, number, stored, time};
use crate::record::{AnswerKept, CallRecord, Record, State};
use crate::transition::{self, Circumstances, ClaimStep, Refusal};
use crate::{
    Abandoned, AttemptId, CallJournal, Claim, ClaimOutcome, ClaimRequest, Comparison, Completion,
    FencingToken, InDoubt, KeyDigest, SessionCall, StoreError, StoreId,
};

/// Claims the key, or says what is known of it: one round trip, but for a lapse that is written down
/// and for a re-run, which take two (three for one that goes on by a journal), and for whoever finds the
/// record changed in between.
///
/// Asked again after a lost answer, the database finds a claim of this very attempt: it is this one's.
pub(super) async fn claim(
    shared: &Shared,
    request: &ClaimRequest,
) -> Result<ClaimOutcome, StoreError> {
    if let Some(outcome) = held_here(shared, request)? {
        return Ok(outcome);
    }
    let pool = &*shared.pool;
    if let Err(too_large) = transition::check_journal(request, pool.options().limits.journal()) {
        // What is there is told as ever; nothing is written.
        return known(shared, request).await?.ok_or(too_large);
    }
    for _ in 0..ROUNDS_MAX {
        let scope = request.key.scope().digest();
        let count = shared.room.take(scope, shared.clock.now());
        let rows = pool.rows(|_| told(pool, request, count)).await?;
        let Some(row) = rows.first() else {
            match held_elsewhere(shared, request).await? {
                Some(outcome) => return Ok(outcome),
                None => continue,
            }
        };
        let at = shared.circumstances(time(row, "now_ms")?, time(row, "forgotten_until")?);
        let open = (get(row, "in_progress")?, get(row, "in_doubt")?);
        if let (Some(in_progress), Some(in_doubt)) = open {
            let open = (number(in_progress)?, number(in_doubt)?);
            let limits = &pool.options().limits;
            shared.room.note(scope, open, limits, shared.clock.now());
        }
        let outcome = match get::<i32>(row, "verdict")? {
            FOUND => decide(shared, request, row, &at).await?,
            CLAIMED => Some(given(shared, request, row)?),
            verdict => Some(refused(verdict)?),
        };
        if let Some(outcome) = outcome {
            return Ok(outcome);
        }
    }
    Err(too_contended(request.key.digest()))
}

fn told(pool: &Pool, request: &ClaimRequest, count: Count) -> Told {
    let options = pool.options();
    let scope = request.key.scope();
    let print = request.fingerprints.current();
    let session = request.session;
    let text = |name: Option<&str>| name.map(|name| name.as_bytes().to_vec());
    // Who keeps no journal asks as ever.
    let kept = match request.journal {
        Some(_) => ", $24",
        None => "",
    };
    let told = pool
        .told(&format!(
            // Nothing comes of it while a transaction has the key. The key itself depends on that, so that
            // nothing is claimed before it is known.
            "SELECT verdict, now_ms, forgotten_until, in_progress, in_doubt, (kept).*
        FROM (
            SELECT pg_try_advisory_xact_lock_shared($22) AND ($23::bigint IS NULL
                OR pg_try_advisory_xact_lock_shared($23)) AS is_free
            OFFSET 0
        ) held CROSS JOIN LATERAL {{schema}}.claim(
            $1, CASE WHEN is_free THEN $2 END, $3, $4, $5, $6, $7, $8, $9, $10,
            $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21{kept}
        ) WHERE is_free"
        ))
        .time(options.told_now())
        .bytes(Some(request.key.digest().as_bytes()))
        .long(lock(request.key.digest()))
        .bytes(Some(scope.digest().as_bytes()))
        .bytes(text(scope.principal_name()).as_deref())
        .bytes(text(scope.operation_name()).as_deref())
        .bytes(Some(request.key.key().as_str().as_bytes()))
        .int(i32::from(print.algorithm().number()))
        .bytes(Some(print.digest()))
        .bytes(Some(request.attempt.as_bytes()))
        .span(request.lease)
        .span(request.retention)
        .time(request.first_sent)
        .number(session.map(|call| call.session))
        .number(session.map(|call| call.sequence))
        .number(session.map(|call| call.first_unanswered))
        .bytes(Some(scope.of_principal().digest().as_bytes()))
        .span(options.limits.session_idle)
        .flag(count == Count::Anew)
        .number(options.limits.in_progress_max as u64)
        .number(options.limits.in_doubt_max as u64)
        .long(held_lock(pool.id(), request.key.digest()))
        .long(session.map(|call| held_number(pool.id(), call)));
    match &request.journal {
        Some(kept) => told.bytes(Some(&kept[..])),
        None => told,
    }
}

/// What is said of a key that a transaction of this process has: only here its request is known.
pub(super) fn held_here(
    shared: &Shared,
    request: &ClaimRequest,
) -> Result<Option<ClaimOutcome>, StoreError> {
    let Some(held) = shared.held.request_of(request.key.digest()) else {
        return Ok(None);
    };
    let print = held.fingerprints.current();
    match request.fingerprints.compare(&print) {
        Comparison::Incomparable => Err(StoreError::IncomparableFingerprint(
            print.algorithm().number(),
        )),
        Comparison::Mismatch => Ok(Some(ClaimOutcome::Mismatch)),
        Comparison::Same => Ok(Some(in_progress())),
    }
}

/// What is said of a key whose lock somebody has. One who only looks has it as well: then there may be a
/// record. `None` where that has changed meanwhile.
pub(super) async fn held_elsewhere(
    shared: &Shared,
    request: &ClaimRequest,
) -> Result<Option<ClaimOutcome>, StoreError> {
    let found = read(&shared.pool, request.key.digest(), AnswerColumn::Bytes).await?;
    match found.stored {
        Some(stored) => decided(shared, request, &stored, &found.at).await,
        None => Ok(Some(in_progress())),
    }
}

/// What is said of a call that is not to be executed now, whatever is known of it. `None`: nothing is.
pub(super) async fn known(
    shared: &Shared,
    request: &ClaimRequest,
) -> Result<Option<ClaimOutcome>, StoreError> {
    for _ in 0..ROUNDS_MAX {
        let found = look(&shared.pool, request.key.digest()).await?;
        let Some(stored) = &found.stored else {
            return Ok(found.is_held.then(in_progress));
        };
        if let Some(outcome) = decided(shared, request, stored, &found.at).await? {
            return Ok(Some(outcome));
        }
    }
    Err(too_contended(request.key.digest()))
}

/// A transaction has the call, here or in another process.
const fn in_progress() -> ClaimOutcome {
    ClaimOutcome::InProgress {
        retry_after: RETRY_AFTER,
    }
}

/// What a record that is there comes to. `None` where it has changed meanwhile.
pub(super) async fn decide(
    shared: &Shared,
    request: &ClaimRequest,
    row: &Row,
    at: &Circumstances,
) -> Result<Option<ClaimOutcome>, StoreError> {
    match stored(row, AnswerColumn::Bytes)? {
        Some(found) => decided(shared, request, &found, at).await,
        None => Ok(None),
    }
}

async fn decided(
    shared: &Shared,
    request: &ClaimRequest,
    found: &Stored,
    at: &Circumstances,
) -> Result<Option<ClaimOutcome>, StoreError> {
    let pool = &*shared.pool;
    let (mut kept, mut stranger) = (None, None);
    if journaling::is_wanted(request, found) {
        match journaling::with_journal(pool, found).await? {
            None => return Ok(None),
            Some(journaled) if journaled.is_whole => kept = Some(journaled.record),
            // Nobody goes on with it, and nobody takes a claim for his own by which he would.
            Some(_) => {
                let mut request = request.clone();
                request.attempt = AttemptId::random();
                stranger = Some(request);
            }
        }
    }
    let record = kept.as_ref().unwrap_or(&found.record);
    let request = stranger.as_ref().unwrap_or(request);
    let step = transition::claim(Some(record), request, NOT_DRAWN, at)?;
    Ok(match step {
        ClaimStep::Claim(call) => {
            let token = write_claim(pool, found, &call).await?;
            token.map(|token| claimed(shared, &CallRecord { token, ..call }))
        }
        ClaimStep::Doubt(call) => {
            let written = write(pool, found, &call).await?;
            written.then(|| replayed(call))
        }
        ClaimStep::OwnClaim(call) => Some(claimed(shared, &call)),
        ClaimStep::Refuse(refusal) => Some(of_refusal(refusal)),
        ClaimStep::Replay(call) => Some(replayed(call)),
    })
}

/// The claim that the database has just written.
fn given(shared: &Shared, request: &ClaimRequest, row: &Row) -> Result<ClaimOutcome, StoreError> {
    let written = stored(row, AnswerColumn::Bytes)?;
    match written {
        Some(Stored {
            record: Record::Call(mut call),
            ..
        }) if call.key == request.key => {
            let kept = request.journal.clone();
            let kept = kept.map(|request| CallJournal::new(request, call.claimed_at));
            call.journal = kept.map(Box::new);
            Ok(claimed(shared, &call))
        }
        _ => Err(corrupt("what was claimed is another key")),
    }
}

fn claimed(shared: &Shared, call: &CallRecord) -> ClaimOutcome {
    let State::InProgress { lease } = call.state else {
        return replayed(call.clone());
    };
    let on_drop = Arc::clone(&shared.abandonment) as Arc<dyn Abandoned>;
    let claim = Claim::new(call.key.clone(), call.token, lease, Some(on_drop));
    ClaimOutcome::Claimed(claim.with_journal(call.journal.clone()))
}

fn replayed(call: CallRecord) -> ClaimOutcome {
    match call.state {
        State::Completed {
            at,
            answer: AnswerKept::Here(answer),
            ..
        } => ClaimOutcome::Completed(Completion {
            answer,
            completed_at: at,
            token: call.token,
        }),
        State::InDoubt {
            since,
            reason,
            answer,
        } => ClaimOutcome::InDoubt(InDoubt {
            token: call.token,
            since,
            reason,
            answer: match answer {
                Some(AnswerKept::Here(answer)) => Some(answer),
                _ => None,
            },
        }),
        // OK because only settled and doubted calls are replayed: this one's answer is gone.
        State::Completed { .. } | State::InProgress { .. } => ClaimOutcome::Stale,
    }
}

fn of_refusal(refusal: Refusal) -> ClaimOutcome {
    match refusal {
        Refusal::FirstSentAhead => ClaimOutcome::FirstSentAhead,
        Refusal::InProgress { retry_after } => ClaimOutcome::InProgress { retry_after },
        Refusal::Mismatch => ClaimOutcome::Mismatch,
        Refusal::SessionExpired => ClaimOutcome::SessionExpired,
        Refusal::Stale => ClaimOutcome::Stale,
        Refusal::UnknownSession => ClaimOutcome::UnknownSession,
        Refusal::WindowFull => ClaimOutcome::WindowFull,
    }
}

pub(super) fn refused(verdict: i32) -> Result<ClaimOutcome, StoreError> {
    Ok(match verdict {
        2 => ClaimOutcome::FirstSentAhead,
        3 => ClaimOutcome::Stale,
        4 => ClaimOutcome::OverQuota,
        5 => ClaimOutcome::SessionExpired,
        6 => ClaimOutcome::UnknownSession,
        7 => ClaimOutcome::WindowFull,
        other => return Err(corrupt(&format!("a claim was answered with {other}"))),
    })
}

/// On what those wait for each other who find a key absent. Two keys may share it; then they wait.
pub(super) fn lock(key: KeyDigest) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = *key.as_bytes();
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// What a transaction has that executes the key, for as long as it runs. Locks are of the database, and
/// more than one store may be there.
pub(super) fn held_lock(store: StoreId, key: KeyDigest) -> i64 {
    held(store, &[key.as_bytes()])
}

/// The same of a number in a session: one number, one key.
pub(super) fn held_number(store: StoreId, call: SessionCall) -> i64 {
    let numbers = [call.session.to_le_bytes(), call.sequence.to_le_bytes()];
    held(store, &[&numbers[0], &numbers[1]])
}

fn held(store: StoreId, parts: &[&[u8]]) -> i64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(store.as_bytes());
    for part in parts {
        hasher.update(part);
    }
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Most transactions take milliseconds.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The database draws the token in the statement that writes the claim.
const NOT_DRAWN: FencingToken = FencingToken::new(u64::MAX, u64::MAX);

const FOUND: i32 = 0;
const CLAIMED: i32 = 1;
