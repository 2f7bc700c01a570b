//! Journals: their bounds, the list of what can go on, and what else holds for such calls.

use bytes::Bytes;

use super::journal_kit::{
    REQUEST, abandoned, done, goes_on, journaled, journaled_request, kept, name, note, page,
    resolve_step, shown, stays_in_doubt, step, steps_shown, try_note,
};
use super::kit::{
    DAY, LEASE, answer, ask, bytes, claimed, gets_in_doubt, given, in_doubt, key, key_of, peek,
    request, settle, sweep,
};
use super::{Harness, IN_DOUBT_MAX};
use crate::journal::{ABANDONED_CALLS_MAX, NoteError, NoteRefused, Step, StepResolution};
use crate::{
    CallJournal, ClaimOutcome, Clock, DoubtReason, KeyState, KeyView, ScopedKey, SessionCall,
    SessionRequest, SessionState, SettleError, StepNote, StoreError,
};

/// A result that does not fit is refused with the bound, and the step stays begun.
pub async fn a_resolution_that_is_too_large_changes_nothing(harness: impl Harness) {
    let store = harness.store();
    let key = key("large");
    let claim = journaled(&*store, &key).await;
    note(&*store, &claim, StepNote::begun(name("charge"))).await;
    harness.clock().advance(LEASE);
    let token = in_doubt(&*store, &key).await.token;
    let limit = super::limits().journal_bytes_max;
    let large = StepResolution::Done(Bytes::from(bytes(limit)));
    let refused = resolve_step(&*store, &key, token, "charge", large).await;
    let size = limit + REQUEST.len() + "charge".len();
    let too_large = StoreError::JournalTooLarge { size, limit };
    assert_eq!(refused, Err(SettleError::Store(too_large)));
    stays_in_doubt(&*store, &key).await;
    drop(claim);
}

/// E10: a request beyond the bound is refused before anything is written, with the bound; whoever asks
/// for a call that is there is answered, whatever the request's length.
pub async fn a_request_beyond_the_bound_claims_nothing(harness: impl Harness) {
    let store = harness.store();
    let limit = super::limits().journal_bytes_max;
    let large = |key: &ScopedKey| {
        let mut large = request(key);
        large.journal = Some(Bytes::from(bytes(limit + 1)));
        large
    };
    let over = key("over");
    let refused = store.claim(large(&over)).await;
    let too_large = StoreError::JournalTooLarge {
        size: limit + 1,
        limit,
    };
    assert_eq!(refused.map(drop), Err(too_large));
    assert_eq!(peek(&*store, &over).await, KeyState::Absent);
    let full = key("full");
    let mut fits = request(&full);
    fits.journal = Some(Bytes::from(bytes(limit)));
    let claim = given(ask(&*store, fits).await);
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    let outcome = ask(&*store, large(&full)).await;
    assert!(matches!(outcome, ClaimOutcome::Completed(_)), "{outcome:?}");
}

/// E10: a note beyond a bound is refused before the step takes effect, with the bound, and leaves the
/// journal as it was.
pub async fn a_note_beyond_a_bound_changes_nothing(harness: impl Harness) {
    let store = harness.store();
    let (limit, steps) = (super::limits().journal_bytes_max, super::limits().steps_max);
    let claim = journaled(&*store, &key("many")).await;
    for number in 0..steps {
        note(&*store, &claim, done(&number.to_string(), "")).await;
    }
    let over = try_note(&*store, &key("many"), claim.token(), done("over", "")).await;
    let too_many = NoteRefused::TooManySteps { limit: steps };
    assert_eq!(over, Err(NoteError::Refused(too_many)));
    drop(claim);
    assert!(gets_in_doubt(&*store, &key("many")).await);
    assert_eq!(kept(&goes_on(&*store, &key("many")).await).len(), steps);

    let claim = journaled(&*store, &key("large")).await;
    note(&*store, &claim, StepNote::begun(name("a"))).await;
    let rest = limit - REQUEST.len() - 1;
    let large = |length| StepNote::done(name("a"), Bytes::from(bytes(length)));
    let over = try_note(&*store, &key("large"), claim.token(), large(rest + 1)).await;
    let size = limit + 1;
    let too_large = NoteRefused::TooLarge { size, limit };
    assert_eq!(over, Err(NoteError::Refused(too_large)));
    note(&*store, &claim, large(rest)).await;
    let begun = StepNote::begun(name("b"));
    let over = try_note(&*store, &key("large"), claim.token(), begun).await;
    assert_eq!(over, Err(NoteError::Refused(too_large)));
    drop(claim);
    assert!(gets_in_doubt(&*store, &key("large")).await);
    let next = goes_on(&*store, &key("large")).await;
    assert_eq!(
        kept(&next),
        [Step::done(name("a"), Bytes::from(bytes(rest)))]
    );
}

/// What can go on is found with everything that is needed for it, and nothing else is: in pages, each
/// call once, those that stand still for longest first.
pub async fn every_abandoned_call_is_listed_once_in_small_pages(mut harness: impl Harness) {
    let store = harness.store();
    let mut expected = Vec::new();
    for number in 0..10_u32 {
        let key = key(&format!("abandoned-{number}"));
        let mut asked = journaled_request(&key, "transfer 100");
        asked.first_sent = Some(store.now());
        let (print, sent) = (asked.fingerprints.current(), asked.first_sent);
        let claim = given(ask(&*store, asked).await);
        let token = claim.token();
        let written = store.doubt(claim, DoubtReason::OwnerGone, None).await;
        assert_eq!(written, Ok(()));
        expected.push((key, token, print, sent));
        harness.clock().advance(LEASE / 30);
    }
    // None of these can go on.
    let running = journaled(&*store, &key("running")).await;
    let plain = claimed(&*store, &key("plain")).await;
    let written = store.doubt(plain, DoubtReason::OwnerGone, None).await;
    assert_eq!(written, Ok(()));
    settle(&*store, &key("settled"), "paid").await;
    std::mem::forget(running);
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = page(&*store, after, 3).await;
        assert!(page.calls.len() <= 3, "{page:?}");
        seen.extend(page.calls);
        after = page.next;
        if after.is_none() {
            break;
        }
        // Listing changes nothing, also not what comes behind.
        assert!(seen.len() <= expected.len(), "{seen:?}");
    }
    let listed: Vec<_> = seen
        .iter()
        .map(|call| {
            (
                call.key.clone(),
                call.token,
                call.fingerprint,
                call.first_sent,
            )
        })
        .collect();
    assert_eq!(listed, expected);
    assert!(seen.iter().all(|call| call.request == REQUEST), "{seen:?}");
    // After a crash the call that ran can go on as well, as soon as its lease has lapsed.
    drop(store);
    harness.reopen().await;
    harness.clock().advance(LEASE);
    let store = harness.store();
    let keys: Vec<_> = abandoned(&*store)
        .await
        .into_iter()
        .map(|call| call.key)
        .collect();
    assert_eq!(keys.len(), expected.len() + 1, "{keys:?}");
    assert!(keys.contains(&key("running")), "{keys:?}");
}

/// A lapse that nobody has written down yet counts as what it is, and one that goes on is listed no
/// more.
pub async fn a_lapsed_run_is_listed_until_somebody_goes_on(harness: impl Harness) {
    let store = harness.store();
    let key = key("lapsed");
    let owner = journaled(&*store, &key).await;
    assert_eq!(abandoned(&*store).await, []);
    harness.clock().advance(LEASE);
    let listed = abandoned(&*store).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0].key, listed[0].token), (&key, owner.token()));
    let mut asked = journaled_request(&key, "transfer 100");
    asked.rerun_of = Some(listed[0].token);
    let next = match ask(&*store, asked.clone()).await {
        ClaimOutcome::Claimed(claim) => claim,
        // That nobody had written it down was written down first.
        ClaimOutcome::InDoubt(_) => given(ask(&*store, asked).await),
        other => panic!("the call should go on, and is answered {other:?}"),
    };
    assert_eq!(abandoned(&*store).await, []);
    assert_eq!(store.complete(next, answer("paid")).await, Ok(()));
    assert_eq!(abandoned(&*store).await, []);
    drop(owner);
}

/// No page is larger than the bound, whatever is asked for.
pub async fn a_page_of_abandoned_calls_is_bounded(harness: impl Harness) {
    let store = harness.store();
    let calls = IN_DOUBT_MAX - 1;
    for principal in ["alice", "bob"] {
        for number in 0..calls {
            let key = key_of(principal, &number.to_string());
            let claim = journaled(&*store, &key).await;
            let written = store.doubt(claim, DoubtReason::OwnerGone, None).await;
            assert_eq!(written, Ok(()));
        }
    }
    let first = page(&*store, None, usize::MAX).await;
    assert!(
        first.calls.len() <= ABANDONED_CALLS_MAX,
        "{}",
        first.calls.len()
    );
    assert!(first.next.is_some());
    let none = page(&*store, None, 0).await;
    assert!(none.calls.len() <= 1 && none.next.is_some(), "{none:?}");
    assert_eq!(abandoned(&*store).await.len(), 2 * calls);
}

/// E10: a call that goes on is counted already, and is kept from nothing by a full quota.
pub async fn a_call_that_goes_on_is_counted_once(harness: impl Harness) {
    let store = harness.store();
    for number in 0..IN_DOUBT_MAX {
        let claim = journaled(&*store, &key(&number.to_string())).await;
        let written = store.doubt(claim, DoubtReason::OwnerGone, None).await;
        assert_eq!(written, Ok(()));
    }
    let over = ask(&*store, journaled_request(&key("over"), "transfer 100")).await;
    assert!(matches!(over, ClaimOutcome::OverQuota), "{over:?}");
    for _ in 0..3 {
        let claim = goes_on(&*store, &key("0")).await;
        note(&*store, &claim, done("reserve", "seat 12a")).await;
        let written = store.doubt(claim, DoubtReason::OwnerGone, None).await;
        assert_eq!(written, Ok(()));
    }
    let claim = goes_on(&*store, &key("0")).await;
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    drop(journaled(&*store, &key("over")).await);
}

/// E1: a run that says when its call was first sent does not go on with it once calls of that time are
/// forgotten: its peers may have forgotten them as well.
pub async fn a_call_that_is_older_than_what_is_remembered_goes_on_no_more(harness: impl Harness) {
    let store = harness.store();
    let (older, filler) = (key("older"), key("filler"));
    harness.clock().advance(DAY / 24);
    let mut asked = journaled_request(&older, "transfer 100");
    asked.first_sent = Some(store.now());
    let claim = given(ask(&*store, asked.clone()).await);
    asked.rerun_of = Some(claim.token());
    note(&*store, &claim, done("reserve", "seat 12a")).await;
    let written = store.doubt(claim, DoubtReason::OwnerGone, None).await;
    assert_eq!(written, Ok(()));
    settle(&*store, &filler, "paid").await;
    for _ in 0..9 {
        harness.clock().advance(DAY);
        sweep(&*store).await;
    }
    assert_eq!(peek(&*store, &filler).await, KeyState::Absent);
    let late = ask(&*store, asked).await;
    assert!(matches!(late, ClaimOutcome::InDoubt(_)), "{late:?}");
    assert_eq!(steps_shown(&*store, &older).await, 1);
}

/// B6: since when a call may have had effects is said of it in every run, however often it was gone on with
/// and its store was opened.
pub async fn a_call_that_goes_on_says_when_it_was_begun(mut harness: impl Harness) {
    let key = key("begun");
    let begun_at = harness.clock().now();
    drop(journaled(&*harness.store(), &key).await);
    for _ in 0..3 {
        harness.clock().advance(LEASE + DAY);
        if !harness.reopen().await {
            return;
        }
        let store = harness.store();
        let listed = abandoned(&*store).await;
        let listed: Vec<_> = listed.iter().map(|call| call.begun_at).collect();
        assert_eq!(listed, [begun_at]);
        let claim = goes_on(&*store, &key).await;
        assert_eq!(claim.journal().map(CallJournal::begun_at), Some(begun_at));
        note(&*store, &claim, done("reserve", "seat 12a")).await;
        std::mem::forget(claim);
    }
}

/// E1: neither a session nor a first-sent time is lost by going on.
pub async fn sessions_and_first_sent_times_hold_for_a_call_that_goes_on(harness: impl Harness) {
    let store = harness.store();
    let scope = key("scope").scope().clone();
    let opened = store.session(scope, SessionRequest::Open).await;
    let session = match opened {
        Ok(SessionState::Live { session, .. }) => Some(session),
        Ok(SessionState::Unsupported) => None,
        other => panic!("a session should be opened, and is {other:?}"),
    };
    let key = key("numbered");
    let (sent, in_session) = (
        store.now(),
        session.map(|session| SessionCall {
            session,
            sequence: 1,
            first_unanswered: 1,
        }),
    );
    let asked = |rerun_of| {
        let mut asked = journaled_request(&key, "transfer 100");
        (asked.first_sent, asked.session, asked.rerun_of) = (Some(sent), in_session, rerun_of);
        asked
    };
    let claim = given(ask(&*store, asked(None)).await);
    let token = claim.token();
    note(&*store, &claim, done("reserve", "seat 12a")).await;
    let written = store.doubt(claim, DoubtReason::OwnerGone, None).await;
    assert_eq!(written, Ok(()));
    let claim = given(ask(&*store, asked(Some(token))).await);
    assert_eq!(kept(&claim), [step("reserve", "seat 12a")]);
    let view = shown(&*store, &key).await;
    let KeyView::Call(view) = view else {
        panic!("the call is open, and is shown as {view:?}");
    };
    assert_eq!((view.first_sent, view.session), (Some(sent), in_session));
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    let replayed = ask(&*store, asked(None)).await;
    assert!(
        matches!(replayed, ClaimOutcome::Completed(_)),
        "{replayed:?}"
    );
}

/// Operators see the names of the steps, and how large their results are.
pub async fn operators_see_the_steps_and_none_of_their_results(harness: impl Harness) {
    let store = harness.store();
    let key = key("looked-at");
    let claim = journaled(&*store, &key).await;
    note(&*store, &claim, done("reserve", "seat 12a")).await;
    note(&*store, &claim, StepNote::begun(name("charge"))).await;
    let view = shown(&*store, &key).await;
    let KeyView::Call(view) = view else {
        panic!("the call is open, and is shown as {view:?}");
    };
    let steps: Vec<_> = view
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.result_bytes))
        .collect();
    assert_eq!(steps, [("reserve", Some(8)), ("charge", None)]);
    drop(claim);
}
