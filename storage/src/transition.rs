//! The legal changes of a record: pure, and the same for every store.
//!
//! ```text
//!              claim                     complete
//!   (absent) ----------> in progress ---------------> completed --retention--> tombstone
//!      ^  |               |   |                          |                        |
//!      |  |   release     |   | lease lapsed, owner      | replay, same           | stale: refused,
//!      +--|---------------+   | gone, ambiguous          | fingerprint            | never executed
//!         | seal              v                          v                        ^
//!         |               in doubt --resolve--> completed | absent (not applied)  |
//!         |                   |      --claim of a re-run--> in progress (new token)|
//!         +-----------------------------------------------------------------------+
//! ```
//!
//! A store reads the record, asks here what shall happen, and writes the result atomically with
//! that read. Nothing here reads a clock or draws a number: [`Circumstances`] brings both.

mod journaling;

use std::time::Duration;

use self::journaling::{begun_journal, may_go_on};
pub use self::journaling::{check_journal, is_abandoned, note, resolve_step};
use crate::planted;
use crate::record::{AnswerKept, CallRecord, KeyState, Record, State};
use crate::{
    Answer, ClaimRequest, Comparison, Completion, DoubtReason, FencingToken, InDoubt, Lease,
    Operator, RetentionOptions, StoreError, Timestamp,
};

/// What a store knows at the moment of a change.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// The store's clock.
    pub now: Timestamp,
    /// How long settled calls are remembered.
    pub retention: RetentionOptions,
    /// Calls first sent at or before this time may have been forgotten.
    pub forgotten_until: Timestamp,
    /// For a store that one process owns alone: its incarnation. A claim of an earlier one belongs
    /// to a process that is gone. `None` where several processes share the store.
    pub sole_incarnation: Option<u64>,
}

/// What a store does about a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimStep {
    /// Write the record; the caller may execute.
    Claim(CallRecord),
    /// Write nothing; the claim in the record is this caller's own.
    OwnClaim(CallRecord),
    /// Write the record, which is now in doubt, and say so.
    Doubt(CallRecord),
    /// Write nothing and answer this.
    Refuse(Refusal),
    /// Write nothing and replay what the record holds.
    Replay(CallRecord),
}

/// Why a claim is not given, where no answer is kept in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// First sent further in the future than clocks may differ.
    FirstSentAhead,
    /// Somebody is executing.
    InProgress {
        /// Until the lease lapses.
        retry_after: Duration,
    },
    /// The key was first used with another request.
    Mismatch,
    /// Its session has expired.
    SessionExpired,
    /// Older than what is remembered, acknowledged, or sealed.
    Stale,
    /// No such session was ever given to its principal.
    UnknownSession,
    /// Its session has as many calls unacknowledged as it may have.
    WindowFull,
}

/// What a change by a claim does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The record as it is to be written.
    Write(CallRecord),
    /// The key is to be absent.
    Remove,
}

/// The record belongs to a newer claim, or nothing is left to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced;

/// absent => in progress; in progress => (in progress | in doubt); completed => (replay | stale);
/// in doubt => (in doubt | in progress, where the request names its token).
///
/// `token` must be larger than every token given before. It is spent even if it is not used.
///
/// # Errors
///
/// When the record cannot be compared with the request.
pub fn claim(
    existing: Option<&Record>,
    request: &ClaimRequest,
    token: FencingToken,
    at: &Circumstances,
) -> Result<ClaimStep, StoreError> {
    let Some(record) = existing else {
        return Ok(claim_absent(request, token, at));
    };
    let Record::Call(call) = record else {
        return Ok(ClaimStep::Refuse(Refusal::Stale));
    };
    // The fingerprint is compared before anything else is answered, so that a wrong request
    // learns nothing about the right one.
    match request.fingerprints.compare(&call.fingerprint) {
        Comparison::Mismatch if planted!(FingerprintNotCompared) => {}
        Comparison::Mismatch if planted!(MismatchOverwrites) => {
            return Ok(ClaimStep::Claim(claim_anew(call, request, token, at)));
        }
        Comparison::Incomparable => {
            let algorithm = call.fingerprint.algorithm().number();
            return Err(StoreError::IncomparableFingerprint(algorithm));
        }
        Comparison::Mismatch => return Ok(ClaimStep::Refuse(Refusal::Mismatch)),
        Comparison::Same => {}
    }
    Ok(match &call.state {
        State::InDoubt { .. } if planted!(InDoubtReRun) => {
            ClaimStep::Claim(claim_anew(call, request, token, at))
        }
        State::Completed { .. } if planted!(ReplayRunsHandler) => {
            ClaimStep::Claim(claim_anew(call, request, token, at))
        }
        State::InProgress { .. } if planted!(InProgressReRun) => {
            ClaimStep::Claim(claim_anew(call, request, token, at))
        }
        State::InProgress { lease }
            if planted!(LapsedLeaseFreed) && ended_claim(call, *lease, at).is_some() =>
        {
            ClaimStep::Claim(claim_anew(call, request, token, at))
        }
        // A call that would be stale if its key were absent is not executed here either.
        State::InDoubt { .. }
            if request.rerun_of == Some(call.token)
                && !is_forgotten(request.first_sent, at)
                && may_go_on(call, request) =>
        {
            ClaimStep::Claim(claim_anew(call, request, token, at))
        }
        State::InDoubt { reason, .. } => {
            ClaimStep::Replay(with_reason(call, told(*reason, call, at)))
        }
        State::Completed { .. } if is_past_retention(call, at) => ClaimStep::Refuse(Refusal::Stale),
        State::Completed { .. } => ClaimStep::Replay(call.clone()),
        // The attempt id never leaves the server, so whoever knows it made this very claim and
        // lost the store's answer to it on the way. Between a store and its own process nothing
        // gets lost: there the claim is held, or was dropped and is in doubt, and giving it again
        // would make two holders.
        State::InProgress { lease }
            if at.sole_incarnation.is_none()
                && call.attempt == request.attempt
                && !lease.is_lapsed(at.now) =>
        {
            ClaimStep::OwnClaim(call.clone())
        }
        State::InProgress { lease } => match ended_claim(call, *lease, at) {
            Some(reason) => ClaimStep::Doubt(into_doubt(call, reason, None, at)),
            None => ClaimStep::Refuse(Refusal::InProgress {
                retry_after: lease.expires_at().since(at.now),
            }),
        },
    })
}

/// in progress => in progress, for longer.
///
/// # Errors
///
/// [`Fenced`] when the record is not in progress under `token`.
pub fn renew(
    existing: Option<&Record>,
    token: FencingToken,
    lease: Duration,
    at: &Circumstances,
) -> Result<CallRecord, Fenced> {
    let call = owned(existing, token)?;
    match call.state {
        // A claim that has ended is not revived: somebody may already have been told "in doubt".
        State::InProgress { lease: held } if ended_claim(call, held, at).is_none() => {
            let lease = Lease::until(at.now.plus(lease));
            Ok(CallRecord {
                state: State::InProgress { lease },
                ..call.clone()
            })
        }
        _ => Err(Fenced),
    }
}

/// (in progress | in doubt) => completed.
///
/// The owner of a doubt may still say what happened: it knows. Once somebody else has resolved it,
/// the token is no longer the record's and the late word is refused.
///
/// # Errors
///
/// [`Fenced`] when the record is settled or not under `token`.
pub fn complete(
    existing: Option<&Record>,
    token: FencingToken,
    answer: Answer,
    at: &Circumstances,
) -> Result<CallRecord, Fenced> {
    let call = unsettled(existing, token)?;
    let answer = match planted!(AnswerNotRecorded) {
        true => Answer::new(answer.format(), [&answer.body()[..1], &[0]].concat()),
        false => answer,
    };
    let kept = call
        .retention
        .unwrap_or(at.retention.answer)
        .min(at.retention.answer);
    let state = State::Completed {
        at: at.now,
        answer_until: at.now.plus(kept),
        answer: AnswerKept::Here(answer),
        resolved_by: None,
    };
    Ok(CallRecord {
        state,
        journal: None,
        ..call.clone()
    })
}

/// (in progress | in doubt) => absent.
///
/// # Errors
///
/// [`Fenced`] when the record is settled or not under `token`.
pub fn release(existing: Option<&Record>, token: FencingToken) -> Result<Settled, Fenced> {
    if planted!(ReleaseByNonOwner) {
        return Ok(Settled::Remove);
    }
    unsettled(existing, token).map(|_| Settled::Remove)
}

/// (in progress | in doubt) => in doubt.
///
/// # Errors
///
/// [`Fenced`] when the record is settled or not under `token`.
pub fn doubt(
    existing: Option<&Record>,
    token: FencingToken,
    reason: DoubtReason,
    answer: Option<Answer>,
    at: &Circumstances,
) -> Result<CallRecord, Fenced> {
    let call = unsettled(existing, token)?;
    Ok(into_doubt(call, reason, answer, at))
}

/// in doubt => (completed | absent), by somebody who is not the owner. A completed record says by
/// whom; of an absent one nothing is kept.
///
/// # Errors
///
/// [`Fenced`] when the record is not in doubt under `token`.
pub fn resolve(
    existing: Option<&Record>,
    token: FencingToken,
    resolution: crate::Resolution,
    by: Operator,
    at: &Circumstances,
) -> Result<Settled, Fenced> {
    let call = owned(existing, token)?;
    // A lapse that nobody has written down yet was already told to whoever looked.
    if !matches!(call.state, State::InDoubt { .. }) && lapse(existing, at).is_none() {
        return Err(Fenced);
    }
    match resolution {
        crate::Resolution::NotApplied => Ok(Settled::Remove),
        crate::Resolution::Applied(answer) => {
            let mut call = complete(existing, token, answer, at)?;
            if let State::Completed { resolved_by, .. } = &mut call.state {
                *resolved_by = Some(by);
            }
            Ok(Settled::Write(call))
        }
    }
}

/// The claim of a record in progress has ended without being spent: the record in doubt.
/// `None` while the claim still holds, and for every other state.
#[must_use]
pub fn lapse(existing: Option<&Record>, at: &Circumstances) -> Option<CallRecord> {
    let call = existing?.call()?;
    let State::InProgress { lease } = call.state else {
        return None;
    };
    if planted!(LapsedLeaseFreed) {
        return None;
    }
    let reason = ended_claim(call, lease, at)?;
    Some(into_doubt(call, reason, None, at))
}

/// What a reader may be told of a record whose answer is at hand (or gone), who asks about a call
/// that was first sent at this time, as far as it knows.
#[must_use]
pub fn state(
    existing: Option<&Record>,
    first_sent: Option<Timestamp>,
    at: &Circumstances,
) -> KeyState {
    let forgotten = is_forgotten(first_sent, at);
    let call = match existing {
        // It may have been executed and forgotten, and the key sealed afterwards.
        None | Some(Record::Sealed { .. }) if forgotten => return KeyState::Stale,
        None => return KeyState::Absent,
        Some(Record::Sealed { at }) => return KeyState::Sealed { at: *at },
        Some(Record::Call(call)) => call,
    };
    match &call.state {
        State::Completed {
            at: completed_at,
            answer: AnswerKept::Here(answer),
            ..
        } if !is_past_retention(call, at) => KeyState::Completed(Completion {
            answer: answer.clone(),
            completed_at: *completed_at,
            token: call.token,
        }),
        State::Completed { at, .. } => KeyState::Tombstone { completed_at: *at },
        State::InDoubt {
            since,
            reason,
            answer,
        } => {
            let answer = match answer {
                Some(AnswerKept::Here(answer)) => Some(answer.clone()),
                _ => None,
            };
            KeyState::InDoubt(InDoubt {
                token: call.token,
                since: *since,
                reason: told(*reason, call, at),
                answer,
            })
        }
        State::InProgress { lease } => match ended_claim(call, *lease, at) {
            None => KeyState::InProgress {
                since: call.claimed_at,
            },
            Some(reason) => KeyState::InDoubt(InDoubt {
                token: call.token,
                since: at.now,
                reason,
                answer: None,
            }),
        },
    }
}

/// Whether a settled record may be forgotten: its horizon is past. Never true for a call in
/// progress or in doubt.
#[must_use]
pub fn is_past_horizon(record: &Record, at: &Circumstances) -> bool {
    match record {
        Record::Sealed { at: sealed } => at.now >= sealed.plus(at.retention.horizon),
        Record::Call(CallRecord {
            state: State::Completed { at: completed, .. },
            ..
        }) => at.now >= completed.plus(at.retention.horizon),
        Record::Call(_) => false,
    }
}

/// Whether the answer of a completed call is past its retention.
#[must_use]
pub fn is_past_retention(call: &CallRecord, at: &Circumstances) -> bool {
    matches!(&call.state, State::Completed { answer_until, answer, .. }
        if at.now >= *answer_until || *answer == AnswerKept::Gone)
}

/// The time that a store tells: its clock, raised above what it may have forgotten, so that a call
/// first sent at this time is not stale from the start.
#[must_use]
pub fn now_told(clock: Timestamp, forgotten_until: Timestamp) -> Timestamp {
    clock.max(forgotten_until.plus(Duration::from_millis(1)))
}

/// Up to which first-sent time calls are forgotten once this settled record is removed. `None`
/// for a record that must not be.
#[must_use]
pub fn forgotten_with(record: &Record) -> Option<Timestamp> {
    let latest = match record {
        Record::Sealed { at } => *at,
        Record::Call(call) => {
            let State::Completed { at, .. } = call.state else {
                return None;
            };
            let first_sent = call.first_sent.unwrap_or_default();
            at.max(call.claimed_at).max(first_sent)
        }
    };
    // A late duplicate may say that it was first sent this far ahead of the store's clock.
    Some(latest.plus(CLOCK_DIFFERENCE_MAX))
}

fn claim_absent(request: &ClaimRequest, token: FencingToken, at: &Circumstances) -> ClaimStep {
    if let Some(first_sent) = request.first_sent {
        // Against the time that the store tells its clients, which is never one that it forgot:
        // a clock that was set back must not make their first-sent times a mistake.
        let told = now_told(at.now, at.forgotten_until);
        if first_sent > told.plus(CLOCK_DIFFERENCE_MAX) {
            return ClaimStep::Refuse(Refusal::FirstSentAhead);
        }
    }
    if is_forgotten(request.first_sent, at) {
        return ClaimStep::Refuse(Refusal::Stale);
    }
    ClaimStep::Claim(CallRecord {
        key: request.key.clone(),
        fingerprint: request.fingerprints.current(),
        token,
        attempt: request.attempt,
        claimed_at: at.now,
        first_sent: request.first_sent,
        session: request.session,
        retention: request.retention,
        journal: begun_journal(request),
        state: State::InProgress {
            lease: Lease::until(at.now.plus(request.lease)),
        },
    })
}

/// The claim of a re-run. The key is never absent between the two: an absent key could be used for
/// another request, or sealed, as if nothing had happened under it.
fn claim_anew(
    doubted: &CallRecord,
    request: &ClaimRequest,
    token: FencingToken,
    at: &Circumstances,
) -> CallRecord {
    CallRecord {
        token,
        attempt: request.attempt,
        // Not earlier than before, so that nothing is forgotten sooner where a clock was set back.
        claimed_at: at.now.max(doubted.claimed_at),
        // Of whoever runs it without one everything is new.
        journal: request.journal.as_ref().and(doubted.journal.clone()),
        state: State::InProgress {
            lease: Lease::until(at.now.plus(request.lease)),
        },
        ..doubted.clone()
    }
}

/// The reason that is told: of a lapsed lease one can say more once its process is gone.
fn told(reason: DoubtReason, call: &CallRecord, at: &Circumstances) -> DoubtReason {
    match at.sole_incarnation {
        Some(incarnation)
            if reason == DoubtReason::LeaseLapsed && call.token.incarnation() != incarnation =>
        {
            DoubtReason::OwnerGone
        }
        _ => reason,
    }
}

fn with_reason(call: &CallRecord, told: DoubtReason) -> CallRecord {
    let mut call = call.clone();
    if let State::InDoubt { reason, .. } = &mut call.state {
        *reason = told;
    }
    call
}

/// Whether a call that was first sent at this time may have been forgotten.
fn is_forgotten(first_sent: Option<Timestamp>, at: &Circumstances) -> bool {
    !planted!(StaleNotRefused)
        && first_sent.is_some_and(|first_sent| first_sent <= at.forgotten_until)
}

/// Why the claim of a record in progress no longer holds, if it does not.
fn ended_claim(call: &CallRecord, lease: Lease, at: &Circumstances) -> Option<DoubtReason> {
    match at.sole_incarnation {
        Some(incarnation) if call.token.incarnation() != incarnation => {
            Some(DoubtReason::OwnerGone)
        }
        _ if lease.is_lapsed(at.now) => Some(DoubtReason::LeaseLapsed),
        _ => None,
    }
}

fn into_doubt(
    call: &CallRecord,
    reason: DoubtReason,
    answer: Option<Answer>,
    at: &Circumstances,
) -> CallRecord {
    let state = match &call.state {
        // A doubt that is already known keeps its beginning, and its answer unless a new one came.
        State::InDoubt {
            since,
            answer: kept,
            ..
        } => State::InDoubt {
            since: *since,
            reason,
            answer: answer.map(AnswerKept::Here).or_else(|| kept.clone()),
        },
        _ => State::InDoubt {
            since: at.now,
            reason,
            answer: answer.map(AnswerKept::Here),
        },
    };
    CallRecord {
        state,
        ..call.clone()
    }
}

fn owned(existing: Option<&Record>, token: FencingToken) -> Result<&CallRecord, Fenced> {
    existing
        .and_then(Record::call)
        .filter(|call| call.token == token || planted!(FencingOff))
        .ok_or(Fenced)
}

fn unsettled(existing: Option<&Record>, token: FencingToken) -> Result<&CallRecord, Fenced> {
    let call = owned(existing, token)?;
    match call.state {
        State::Completed { .. } if !planted!(SettledOverwritten) => Err(Fenced),
        State::Completed { .. } | State::InDoubt { .. } | State::InProgress { .. } => Ok(call),
    }
}

/// A first-sent time further ahead of the store's clock is a client's mistake: it would protect
/// the call for longer than anybody meant.
pub const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5 * 60);
