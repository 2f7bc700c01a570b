//! What is legal of a call's journal.

use super::{Circumstances, Fenced, ended_claim, lapse, owned, unsettled};
use crate::journal::{JournalLimits, NoteRefused, Noted, StepNote, StepResolution};
use crate::record::{CallRecord, Record, State};
use crate::{
    CallJournal, ClaimRequest, DoubtReason, FencingToken, NoteError, SettleError, StepName,
    StoreError,
};

/// in progress => in progress, with one more note in its journal.
///
/// That a step is finished, or was not executed, is also taken of a call in doubt whose owner says so
/// of a step that it has begun: it knows.
///
/// # Errors
///
/// [`NoteError::Fenced`] when the record is settled, not under `token`, or its claim has ended;
/// [`NoteError::Refused`] for what the journal does not take.
pub fn note(
    existing: Option<&Record>,
    token: FencingToken,
    note: &StepNote,
    limits: JournalLimits,
    at: &Circumstances,
) -> Result<CallRecord, NoteError> {
    let call = unsettled(existing, token).map_err(|Fenced| NoteError::Fenced)?;
    let journal = call.journal.as_deref();
    let journal = journal.ok_or(NoteRefused::NoJournal)?;
    let is_held = match call.state {
        State::InProgress { lease } => ended_claim(call, lease, at).is_none(),
        _ => false,
    };
    let is_begun = || {
        let step = journal.step(&note.name);
        step.is_some_and(|step| step.result().is_none())
    };
    if !is_held && (note.what == Noted::Begun || !is_begun()) {
        return Err(NoteError::Fenced);
    }
    let noted = journal.noted(note, limits)?;
    Ok(with_journal(call.clone(), noted))
}

/// in doubt => in doubt, with what somebody who is not the owner knows of a step that was begun.
///
/// # Errors
///
/// [`Fenced`](SettleError::Fenced) when the record is not in doubt under `token`, or the step is
/// not begun; an error of the store when its result does not fit.
pub fn resolve_step(
    existing: Option<&Record>,
    token: FencingToken,
    name: &StepName,
    resolution: StepResolution,
    limits: JournalLimits,
    at: &Circumstances,
) -> Result<CallRecord, SettleError> {
    let fenced = |Fenced| SettleError::Fenced;
    let call = owned(existing, token).map_err(fenced)?;
    let doubted = match call.state {
        State::InDoubt { .. } => call.clone(),
        _ => lapse(existing, at).ok_or(Fenced).map_err(fenced)?,
    };
    let journal = doubted.journal.as_deref();
    let begun = journal.filter(|journal| {
        let step = journal.step(name);
        step.is_some_and(|step| step.result().is_none())
    });
    let what = match resolution {
        StepResolution::Done(result) => Noted::Done(result),
        StepResolution::NotExecuted => Noted::NotExecuted,
    };
    let name = name.clone();
    let noted = begun.ok_or(Fenced).map_err(fenced)?;
    let noted = noted.noted(&StepNote { name, what }, limits);
    let noted = noted.map_err(|refused| match refused {
        NoteRefused::TooLarge { size, limit } => {
            SettleError::Store(StoreError::JournalTooLarge { size, limit })
        }
        _ => SettleError::Fenced,
    })?;
    Ok(with_journal(doubted, noted))
}

/// The request of a journaled call, if it fits.
///
/// # Errors
///
/// [`StoreError::JournalTooLarge`] if it does not. For stores, where they would write the record of a key
/// that had none: whoever asks for one that is there is answered as ever.
pub fn check_journal(request: &ClaimRequest, limits: JournalLimits) -> Result<(), StoreError> {
    let (size, limit) = (
        request.journal.as_ref().map_or(0, bytes::Bytes::len),
        limits.bytes_max,
    );
    match size > limit {
        true => Err(StoreError::JournalTooLarge { size, limit }),
        false => Ok(()),
    }
}

/// Whether a call in doubt can go on: it keeps a journal, every step in it is finished or was never begun,
/// and its run just ended, without a word of its handler that would be taken back.
#[must_use]
pub fn is_abandoned(call: &CallRecord) -> bool {
    let State::InDoubt {
        reason: DoubtReason::LeaseLapsed | DoubtReason::OwnerGone,
        answer: None,
        ..
    } = call.state
    else {
        return false;
    };
    let journal = call.journal.as_deref();
    journal.is_some_and(|journal| journal.unfinished().is_none())
}

/// The journal with which a call begins.
pub(super) fn begun_journal(request: &ClaimRequest) -> Option<Box<CallJournal>> {
    let request = request.journal.clone()?;
    Some(Box::new(CallJournal::new(request)))
}

/// The call with this journal.
fn with_journal(mut call: CallRecord, journal: CallJournal) -> CallRecord {
    let goes_on = journal.unfinished().is_none();
    call.journal = Some(Box::new(journal));
    // What nobody could know was the step.
    if let State::InDoubt {
        reason,
        answer: None,
        ..
    } = &mut call.state
        && goes_on
        && *reason == DoubtReason::Ambiguous
    {
        *reason = DoubtReason::OwnerGone;
    }
    call
}

/// Whether a run that keeps a journal can go on with this call: one that was run without a journal, or
/// that has begun a step and not finished it, may have had effects that the run would repeat.
pub(super) fn may_go_on(call: &CallRecord, request: &ClaimRequest) -> bool {
    request.journal.is_none() || is_abandoned(call)
}
