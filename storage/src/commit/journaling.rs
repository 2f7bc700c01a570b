//! Journals in the core: what is noted of the steps of a call, and which calls can go on.

use std::time::Duration;

use super::core::GroupCore;
use super::overlay::Overlay;
use crate::inspect::PAGE_SEEN_MAX;
use crate::journal::{
    ABANDONED_BYTES_MAX, ABANDONED_CALLS_MAX, AbandonedCall, AbandonedPage, StepNote,
    StepResolution,
};
use crate::record::{Record, State};
use crate::transition::{self, Circumstances};
use crate::{
    ClaimRequest, Cursor, FencingToken, KeyDigest, ListRequest, NoteError, OpenState, SettleError,
    StepName, StoreError,
};

impl GroupCore {
    /// in progress => in progress, with a note.
    pub(super) fn note(
        &mut self,
        overlay: &mut Overlay<'_>,
        (key, token): (KeyDigest, FencingToken),
        note: &StepNote,
        at: &Circumstances,
    ) -> Result<(), NoteError> {
        let existing = overlay.record(key)?;
        let limits = self.limits.journal();
        // Taken however large all journals are together: what is noted is how a call comes to its end,
        // and gives its room back.
        let noted = transition::note(existing.as_ref(), token, note, limits, at)?;
        self.write(overlay, key, existing, Some(Record::Call(noted)));
        Ok(())
    }

    /// in doubt => in doubt, with what somebody knows of a step.
    pub(super) fn resolve_step(
        &mut self,
        overlay: &mut Overlay<'_>,
        (key, token): (KeyDigest, FencingToken),
        name: &StepName,
        resolution: StepResolution,
        at: &Circumstances,
    ) -> Result<(), SettleError> {
        let existing = overlay.record(key)?;
        let limits = self.limits.journal();
        let existing_record = existing.as_ref();
        let resolved =
            transition::resolve_step(existing_record, token, name, resolution, limits, at)?;
        self.write(overlay, key, existing, Some(Record::Call(resolved)));
        Ok(())
    }
}

impl GroupCore {
    /// Whether a call that has no record yet may keep a journal.
    pub(super) fn room_for_journal(&self, request: &ClaimRequest) -> Result<(), StoreError> {
        let Some(journal) = &request.journal else {
            return Ok(());
        };
        let limit = self.limits.journals_bytes_max;
        if self.open.journals_bytes().saturating_add(journal.len()) <= limit {
            return Ok(());
        }
        Err(StoreError::Unavailable {
            reason: format!(
                "the journals of its open calls have reached {limit} bytes together; resolve what is \
                 in doubt, or raise the bound"
            ),
            retry_after: FULL_RETRY_AFTER,
        })
    }

    /// How large the journal of an open call is; 0 for one that keeps none.
    pub(crate) fn journal_bytes(&self, key: KeyDigest) -> usize {
        self.open.journal_bytes(key)
    }
}

/// A page of the calls that can go on.
pub(super) fn abandoned(
    core: &GroupCore,
    overlay: &Overlay<'_>,
    after: Option<Cursor>,
    calls_max: usize,
    at: &Circumstances,
) -> Result<AbandonedPage, StoreError> {
    let calls_max = calls_max.clamp(1, ABANDONED_CALLS_MAX);
    let in_doubt = ListRequest {
        state: Some(OpenState::InDoubt),
        after,
        ..ListRequest::default()
    };
    let mut page = AbandonedPage::default();
    let mut bytes = 0;
    for (seen, place) in core.open.listed(&in_doubt, at.now).enumerate() {
        let is_full = page.calls.len() == calls_max || bytes > ABANDONED_BYTES_MAX;
        if seen == PAGE_SEEN_MAX || is_full {
            return Ok(page);
        }
        page.next = Some(place);
        let record = overlay.record(place.key)?;
        let lapsed = transition::lapse(record.as_ref(), at);
        let call = match &lapsed {
            Some(lapsed) => lapsed,
            None => match record.as_ref().and_then(Record::call) {
                Some(call) => call,
                None => continue,
            },
        };
        if let Some(call) = AbandonedCall::of(call) {
            bytes += call.request.len();
            page.calls.push(call);
        }
    }
    page.next = None;
    Ok(page)
}

impl AbandonedCall {
    /// What can go on of this call; `None` where it cannot.
    pub(crate) fn of(call: &crate::record::CallRecord) -> Option<Self> {
        let State::InDoubt { since, .. } = call.state else {
            return None;
        };
        let journal = call
            .journal
            .as_deref()
            .filter(|_| transition::is_abandoned(call))?;
        Some(Self {
            key: call.key.clone(),
            fingerprint: call.fingerprint,
            token: call.token,
            since,
            first_sent: call.first_sent,
            begun_at: journal.begun_at(),
            request: journal.request().clone(),
        })
    }
}

/// Calls in progress end within about that; whoever is in doubt waits for somebody anyway.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(5);
