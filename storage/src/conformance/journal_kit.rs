//! What the claims about journals are told with.

use bytes::Bytes;

use super::kit::{ask, given, in_doubt, request_of};
use crate::journal::{
    ABANDONED_CALLS_MAX, AbandonedCall, AbandonedPage, Journal, NoteError, Step, StepResolution,
};
use crate::{
    AnswerBytes, CallJournal, Claim, ClaimOutcome, ClaimRequest, Cursor, FencingToken, Inspect,
    KeyView, ScopedKey, SettleError, StepName, StepNote,
};

pub(super) fn journal(store: &dyn Inspect) -> &dyn Journal {
    store.journal().expect("the store keeps journals")
}

pub(super) fn journaled_request(key: &ScopedKey, body: &str) -> ClaimRequest {
    let mut request = request_of(key, body);
    request.journal = Some(Bytes::from(REQUEST));
    request
}

pub(super) async fn journaled(store: &dyn Inspect, key: &ScopedKey) -> Claim {
    given(ask(store, journaled_request(key, "transfer 100")).await)
}

/// The claim of the run that goes on with a call in doubt.
pub(super) async fn goes_on(store: &dyn Inspect, key: &ScopedKey) -> Claim {
    let mut request = journaled_request(key, "transfer 100");
    request.rerun_of = Some(in_doubt(store, key).await.token);
    given(ask(store, request).await)
}

/// That no run goes on with it.
pub(super) async fn stays_in_doubt(store: &dyn Inspect, key: &ScopedKey) {
    let mut request = journaled_request(key, "transfer 100");
    request.rerun_of = Some(in_doubt(store, key).await.token);
    let outcome = ask(store, request).await;
    assert!(matches!(outcome, ClaimOutcome::InDoubt(_)), "{outcome:?}");
}

pub(super) async fn note(store: &dyn Inspect, claim: &Claim, note: StepNote) {
    let noted = journal(store)
        .note(claim.digest(), claim.token(), note)
        .await;
    assert_eq!(noted, Ok(()));
}

pub(super) async fn try_note(
    store: &dyn Inspect,
    key: &ScopedKey,
    token: FencingToken,
    note: StepNote,
) -> Result<(), NoteError> {
    journal(store).note(key.digest(), token, note).await
}

pub(super) async fn resolve_step(
    store: &dyn Inspect,
    key: &ScopedKey,
    token: FencingToken,
    step: &str,
    resolution: StepResolution,
) -> Result<(), SettleError> {
    let resolved = journal(store).resolve_step(key.clone(), token, name(step), resolution);
    resolved.await
}

pub(super) async fn page(
    store: &dyn Inspect,
    after: Option<Cursor>,
    calls_max: usize,
) -> AbandonedPage {
    let page = journal(store).abandoned(after, calls_max).await;
    page.expect("the store lists")
}

/// All of them.
pub(super) async fn abandoned(store: &dyn Inspect) -> Vec<AbandonedCall> {
    let (mut calls, mut after) = (Vec::new(), None);
    loop {
        let page = page(store, after, ABANDONED_CALLS_MAX).await;
        calls.extend(page.calls);
        after = page.next;
        if after.is_none() {
            return calls;
        }
    }
}

pub(super) async fn shown(store: &dyn Inspect, key: &ScopedKey) -> KeyView {
    let view = store.show(key.clone(), AnswerBytes::LeaveOut).await;
    view.expect("the store shows a key")
}

pub(super) async fn steps_shown(store: &dyn Inspect, key: &ScopedKey) -> usize {
    match shown(store, key).await {
        KeyView::Call(view) => view.steps.len(),
        _ => 0,
    }
}

pub(super) fn kept(claim: &Claim) -> &[Step] {
    claim.journal().map_or(&[], CallJournal::steps)
}

pub(super) fn name(name: &str) -> StepName {
    StepName::parse(name).expect("the suite's steps have valid names")
}

pub(super) fn step(step: &str, result: &'static str) -> Step {
    Step::done(name(step), Bytes::from(result))
}

pub(super) fn done(step: &str, result: &'static str) -> StepNote {
    StepNote::done(name(step), Bytes::from(result))
}

pub(super) const REQUEST: &str = "POST /transfers 100";
