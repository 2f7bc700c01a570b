//! What operators ask of a core. Nothing here changes anything, and each answer takes a bounded
//! time: the thread that gives it serves all calls.

use super::core::GroupCore;
use super::overlay::Overlay;
use crate::inspect::{PAGE_RECORDS_MAX, PAGE_SEEN_MAX};
use crate::record::Record;
use crate::transition::{self, Circumstances};
use crate::{AnswerBytes, KeyDigest, KeyView, ListPage, ListRequest, RecordView, StoreError};

/// A page of what is open.
pub(super) fn list(
    core: &GroupCore,
    overlay: &Overlay<'_>,
    request: &ListRequest,
    at: &Circumstances,
) -> Result<ListPage, StoreError> {
    let records_max = request.records_max.clamp(1, PAGE_RECORDS_MAX);
    let mut page = ListPage {
        records: Vec::new(),
        next: None,
    };
    for (seen, place) in core.open.listed(request, at.now).enumerate() {
        if seen == PAGE_SEEN_MAX || page.records.len() == records_max {
            return Ok(page);
        }
        // What is not wanted is passed over without a look at its record.
        page.next = Some(place);
        let view = view(core, overlay, place.key, at)?;
        if let KeyView::Call(call) = view
            && request.matches(&call, at.now)
        {
            page.records.push(call.listed());
        }
    }
    page.next = None;
    Ok(page)
}

/// One key.
pub(super) fn show(
    core: &GroupCore,
    overlay: &Overlay<'_>,
    key: KeyDigest,
    answer: AnswerBytes,
    at: &Circumstances,
) -> Result<KeyView, StoreError> {
    let shown = view(core, overlay, key, at)?;
    let KeyView::Call(call) = shown else {
        return Ok(shown);
    };
    if answer == AnswerBytes::LeaveOut || call.answer().is_none() {
        return Ok(KeyView::Call(call));
    }
    let bytes = overlay.answer(key)?;
    Ok(KeyView::Call(call.with_answer(bytes)))
}

fn view(
    core: &GroupCore,
    overlay: &Overlay<'_>,
    key: KeyDigest,
    at: &Circumstances,
) -> Result<KeyView, StoreError> {
    // Written nowhere, and in progress all the same: who is told "absent" takes it for free.
    if let Some(held) = core.held(key, at) {
        return Ok(KeyView::Call(RecordView::of(held, at.now)));
    }
    let record = overlay.record(key)?;
    // A lapse that nobody has written down yet is told as what it is.
    let lapsed = transition::lapse(record.as_ref(), at);
    Ok(match (lapsed, record) {
        (Some(call), _) | (None, Some(Record::Call(call))) => {
            KeyView::Call(RecordView::of(&call, at.now))
        }
        (None, Some(Record::Sealed { at })) => KeyView::Sealed { at },
        (None, None) => KeyView::Absent,
    })
}
