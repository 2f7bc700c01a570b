//! Journals: what a run has noted is there for the run after it, and only the run that was claimed last
//! notes anything.

use std::sync::Arc;

use bytes::Bytes;

use super::Harness;
use super::journal_kit::{
    REQUEST, abandoned, done, goes_on, journaled, journaled_request, kept, name, note,
    resolve_step, stays_in_doubt, step, steps_shown, try_note,
};
use super::kit::{
    LEASE, answer, ask, bytes, claimed, completed, gets_in_doubt, given, in_doubt, key, operator,
    request, request_of,
};
use crate::journal::{NoteError, NoteRefused, StepResolution};
use crate::{
    CallJournal, ClaimOutcome, Clock, DoubtReason, FencingToken, Resolution, SettleError, StepNote,
};

/// B3: what a call is begun with is there for the run after a crash, and every note that was
/// acknowledged.
pub async fn a_request_and_its_notes_outlive_a_crash(mut harness: impl Harness) {
    let store = harness.store();
    let (bare, noted) = (key("bare"), key("noted"));
    let begun_at = harness.clock().now();
    let begun = journaled(&*store, &bare).await;
    assert_eq!(
        begun.journal(),
        Some(&CallJournal::new(Bytes::from(REQUEST), begun_at))
    );
    let claim = journaled(&*store, &noted).await;
    note(&*store, &claim, done("reserve", "seat 12a")).await;
    note(&*store, &claim, StepNote::begun(name("charge"))).await;
    note(&*store, &claim, done("charge", "receipt 7")).await;
    let steps = [step("reserve", "seat 12a"), step("charge", "receipt 7")];
    // A crash does not drop its guards.
    std::mem::forget(begun);
    std::mem::forget(claim);
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    harness.clock().advance(LEASE);
    let again = goes_on(&*store, &bare).await;
    assert_eq!(
        again.journal(),
        Some(&CallJournal::new(Bytes::from(REQUEST), begun_at))
    );
    let again = goes_on(&*store, &noted).await;
    assert_eq!(kept(&again), steps);
    assert_eq!(
        again.journal().map(CallJournal::request),
        Some(&Bytes::from(REQUEST))
    );
}

/// The run after a crash of the run after a crash: nothing is lost on the way, and nothing is kept that
/// a run brings as its request.
pub async fn each_run_goes_on_where_the_one_before_it_stopped(mut harness: impl Harness) {
    let key = key("again");
    let mut last = None;
    for run in 0..4 {
        let store = harness.store();
        let mut asked = journaled_request(&key, "transfer 100");
        asked.journal = Some(Bytes::from(format!("request of run {run}")));
        asked.rerun_of = last;
        let claim = given(ask(&*store, asked).await);
        let journal = claim.journal().expect("it was claimed with one");
        assert_eq!(journal.request(), "request of run 0");
        let steps: Vec<_> = (0..run)
            .map(|run| step(&format!("step-{run}"), "done"))
            .collect();
        assert_eq!(journal.steps(), steps);
        note(&*store, &claim, done(&format!("step-{run}"), "done")).await;
        std::mem::forget(claim);
        drop(store);
        harness.reopen().await;
        harness.clock().advance(LEASE);
        last = Some(in_doubt(&*harness.store(), &key).await.token);
    }
}

/// B10: of two runs, the one that was claimed last notes; the other begins nothing any more, finishes
/// nothing, and undoes nothing.
pub async fn a_run_that_was_superseded_notes_nothing(harness: impl Harness) {
    let store = harness.store();
    let key = key("zombie");
    let zombie = journaled(&*store, &key).await;
    note(&*store, &zombie, done("reserve", "seat 12a")).await;
    harness.clock().advance(LEASE);
    let successor = goes_on(&*store, &key).await;
    note(&*store, &successor, StepNote::begun(name("charge"))).await;
    for late in [
        StepNote::begun(name("ship")),
        done("ship", "sent"),
        done("charge", "receipt of the zombie"),
        StepNote::begun(name("charge")),
        StepNote::not_executed(name("charge")),
        done("reserve", "seat 12a"),
    ] {
        let noted = try_note(&*store, &key, zombie.token(), late.clone()).await;
        assert_eq!(noted, Err(NoteError::Fenced), "{late:?}");
    }
    note(&*store, &successor, done("charge", "receipt 7")).await;
    drop(successor);
    assert!(gets_in_doubt(&*store, &key).await);
    let last = goes_on(&*store, &key).await;
    assert_eq!(
        kept(&last),
        [step("reserve", "seat 12a"), step("charge", "receipt 7")]
    );
    drop(zombie);
}

/// B10: a run whose lease has lapsed begins nothing, also where nobody has claimed the call since.
pub async fn a_run_whose_lease_has_lapsed_begins_nothing(harness: impl Harness) {
    let store = harness.store();
    for is_told in [false, true] {
        let key = key(if is_told { "told" } else { "untold" });
        let owner = journaled(&*store, &key).await;
        harness.clock().advance(LEASE);
        if is_told {
            in_doubt(&*store, &key).await;
        }
        for late in [StepNote::begun(name("charge")), done("charge", "receipt 7")] {
            let noted = try_note(&*store, &key, owner.token(), late).await;
            assert_eq!(noted, Err(NoteError::Fenced));
        }
        let next = goes_on(&*store, &key).await;
        assert_eq!(kept(&next), []);
        drop(next);
    }
}

/// What a run has begun before its lease lapsed it may still finish, as long as nobody goes on: it knows.
/// Then the call goes on behind that step.
pub async fn a_step_that_was_begun_is_finished_also_after_the_lease(harness: impl Harness) {
    let store = harness.store();
    for is_told in [false, true] {
        let key = key(if is_told { "told" } else { "untold" });
        let owner = journaled(&*store, &key).await;
        note(&*store, &owner, StepNote::begun(name("charge"))).await;
        note(&*store, &owner, StepNote::begun(name("ship"))).await;
        harness.clock().advance(LEASE);
        if is_told {
            in_doubt(&*store, &key).await;
        }
        note(&*store, &owner, done("charge", "receipt 7")).await;
        stays_in_doubt(&*store, &key).await;
        note(&*store, &owner, StepNote::not_executed(name("ship"))).await;
        let next = goes_on(&*store, &key).await;
        assert_eq!(kept(&next), [step("charge", "receipt 7")]);
        let late = try_note(&*store, &key, owner.token(), done("charge", "receipt 7")).await;
        assert_eq!(late, Err(NoteError::Fenced));
    }
}

/// B2: nobody knows what became of a step that was begun, so no run goes on before somebody says so.
pub async fn a_call_with_a_begun_step_is_not_given_to_the_next_run(mut harness: impl Harness) {
    let store = harness.store();
    let key = key("begun");
    let claim = journaled(&*store, &key).await;
    note(&*store, &claim, done("reserve", "seat 12a")).await;
    note(&*store, &claim, StepNote::begun(name("charge"))).await;
    std::mem::forget(claim);
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    harness.clock().advance(LEASE);
    stays_in_doubt(&*store, &key).await;
    assert_eq!(abandoned(&*store).await, []);
    // A run without a journal is told to run all of it again.
    let mut anew = request(&key);
    anew.rerun_of = Some(in_doubt(&*store, &key).await.token);
    let claim = given(ask(&*store, anew).await);
    assert_eq!(claim.journal(), None);
    // What such a run may have done is nowhere: no journal goes on from there.
    drop(claim);
    assert!(gets_in_doubt(&*store, &key).await);
    stays_in_doubt(&*store, &key).await;
}

/// Both words about a step that was begun let its call go on: behind it, or with it.
pub async fn a_resolved_step_lets_its_call_go_on(mut harness: impl Harness) {
    for (text, resolution, steps) in [
        (
            "done",
            StepResolution::Done(Bytes::from("receipt 7")),
            vec![step("reserve", "seat 12a"), step("charge", "receipt 7")],
        ),
        (
            "undone",
            StepResolution::NotExecuted,
            vec![step("reserve", "seat 12a")],
        ),
    ] {
        let store = harness.store();
        let key = key(text);
        let claim = journaled(&*store, &key).await;
        note(&*store, &claim, done("reserve", "seat 12a")).await;
        note(&*store, &claim, StepNote::begun(name("charge"))).await;
        // The middleware's word for it, which alone would keep the call from going on.
        let written = store.doubt(claim, DoubtReason::Ambiguous, None).await;
        assert_eq!(written, Ok(()));
        let token = in_doubt(&*store, &key).await.token;
        let resolved = resolve_step(&*store, &key, token, "charge", resolution).await;
        assert_eq!(resolved, Ok(()));
        drop(store);
        harness.reopen().await;
        let store = harness.store();
        let listed = abandoned(&*store).await;
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!((&listed[0].key, listed[0].token), (&key, token));
        let claim = goes_on(&*store, &key).await;
        assert_eq!(kept(&claim), steps);
        assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    }
}

/// B8: who resolves a step says which claim was looked at, and which step; only what was begun is
/// resolved, once, and not while its owner may finish it.
pub async fn a_step_is_resolved_only_where_it_was_begun_and_seen(harness: impl Harness) {
    let store = harness.store();
    let key = key("seen");
    let claim = journaled(&*store, &key).await;
    let token = claim.token();
    note(&*store, &claim, done("reserve", "seat 12a")).await;
    note(&*store, &claim, StepNote::begun(name("charge"))).await;
    let undone = || StepResolution::NotExecuted;
    let in_progress = resolve_step(&*store, &key, token, "charge", undone()).await;
    assert_eq!(in_progress, Err(SettleError::Fenced));
    harness.clock().advance(LEASE);
    let other = FencingToken::new(token.incarnation(), token.sequence() + 1);
    for (token, step) in [(other, "charge"), (token, "reserve"), (token, "ship")] {
        let refused = resolve_step(&*store, &key, token, step, undone()).await;
        assert_eq!(refused, Err(SettleError::Fenced), "{step}");
        let done = StepResolution::Done(Bytes::from("guessed"));
        let refused = resolve_step(&*store, &key, token, step, done).await;
        assert_eq!(refused, Err(SettleError::Fenced), "{step}");
    }
    let absent = resolve_step(
        &*store,
        &super::kit::key("absent"),
        token,
        "charge",
        undone(),
    )
    .await;
    assert_eq!(absent, Err(SettleError::Fenced));
    assert_eq!(
        resolve_step(&*store, &key, token, "charge", undone()).await,
        Ok(())
    );
    let again = resolve_step(&*store, &key, token, "charge", undone()).await;
    assert_eq!(again, Err(SettleError::Fenced));
    // Nobody has seen the claim of the run that goes on.
    let next = goes_on(&*store, &key).await;
    note(&*store, &next, StepNote::begun(name("charge"))).await;
    let late = resolve_step(&*store, &key, token, "charge", undone()).await;
    assert_eq!(late, Err(SettleError::Fenced));
    drop(claim);
}

/// B2: a handler that does not know, one whose answer was not recorded and one whose answer is kept have
/// said the last word: no run takes it back.
pub async fn what_its_handler_has_ended_is_not_given_to_the_next_run(harness: impl Harness) {
    let store = harness.store();
    for (text, reason, body) in [
        ("ambiguous", DoubtReason::Ambiguous, None),
        ("unrecorded", DoubtReason::Unrecorded, None),
        ("answered", DoubtReason::OwnerGone, Some("500")),
    ] {
        let key = key(text);
        let claim = journaled(&*store, &key).await;
        note(&*store, &claim, done("reserve", "seat 12a")).await;
        let written = store.doubt(claim, reason, body.map(answer)).await;
        assert_eq!(written, Ok(()));
        stays_in_doubt(&*store, &key).await;
    }
    assert_eq!(abandoned(&*store).await, []);
}

/// A run without a journal may have done anything: no run with one goes on from there.
pub async fn a_call_claimed_without_a_journal_is_not_given_to_a_run_with_one(
    harness: impl Harness,
) {
    let store = harness.store();
    let key = key("plain");
    let claim = claimed(&*store, &key).await;
    assert_eq!(claim.journal(), None);
    let refused = try_note(&*store, &key, claim.token(), done("reserve", "seat 12a")).await;
    assert_eq!(refused, Err(NoteError::Refused(NoteRefused::NoJournal)));
    let written = store.doubt(claim, DoubtReason::OwnerGone, None).await;
    assert_eq!(written, Ok(()));
    stays_in_doubt(&*store, &key).await;
    assert_eq!(abandoned(&*store).await, []);
}

/// Nothing of a journal outlives its call, however that ends; a key that is free again begins anew.
pub async fn a_journal_goes_with_its_call(mut harness: impl Harness) {
    let store = harness.store();
    for text in ["completed", "released", "resolved", "undone"] {
        let key = key(text);
        let claim = journaled(&*store, &key).await;
        let token = claim.token();
        note(&*store, &claim, done("reserve", "seat 12a")).await;
        assert_eq!(steps_shown(&*store, &key).await, 1);
        match text {
            "completed" => assert_eq!(store.complete(claim, answer("paid")).await, Ok(())),
            "released" => assert_eq!(store.release(claim).await, Ok(())),
            _ => {
                let written = store.doubt(claim, DoubtReason::OwnerGone, None).await;
                assert_eq!(written, Ok(()));
                let resolution = match text {
                    "resolved" => Resolution::Applied(answer("paid")),
                    _ => Resolution::NotApplied,
                };
                let resolved = store
                    .resolve(key.clone(), token, resolution, operator())
                    .await;
                assert_eq!(resolved, Ok(()));
            }
        }
        assert_eq!(steps_shown(&*store, &key).await, 0);
        let late = try_note(&*store, &key, token, done("reserve", "seat 12a")).await;
        assert_eq!(late, Err(NoteError::Fenced), "{text}");
    }
    assert_eq!(abandoned(&*store).await, []);
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    for text in ["completed", "resolved"] {
        assert_eq!(completed(&*store, &key(text)).await.answer, answer("paid"));
    }
    for text in ["released", "undone"] {
        assert_eq!(kept(&journaled(&*store, &key(text)).await), []);
    }
}

/// C6: also whoever brings a journal, and names the doubt, is told of a mismatch before anything else.
pub async fn a_mismatch_is_told_before_anything_of_a_journal(harness: impl Harness) {
    let store = harness.store();
    let key = key("mixed-up");
    let claim = journaled(&*store, &key).await;
    let token = claim.token();
    let written = store.doubt(claim, DoubtReason::OwnerGone, None).await;
    assert_eq!(written, Ok(()));
    for length in [10, super::limits().journal_bytes_max + 1] {
        let mut other = request_of(&key, "transfer 999");
        other.journal = Some(Bytes::from(bytes(length)));
        other.rerun_of = Some(token);
        let outcome = ask(&*store, other).await;
        assert!(matches!(outcome, ClaimOutcome::Mismatch), "{outcome:?}");
    }
    drop(goes_on(&*store, &key).await);
}

/// Who lost an answer may ask again; what is finished is never changed.
pub async fn a_note_that_is_made_twice_is_made_once(harness: impl Harness) {
    let store = harness.store();
    let key = key("twice");
    let claim = journaled(&*store, &key).await;
    for made in [
        StepNote::not_executed(name("charge")),
        StepNote::begun(name("charge")),
        done("charge", "receipt 7"),
    ] {
        for _ in 0..2 {
            note(&*store, &claim, made.clone()).await;
        }
    }
    for other in [
        done("charge", "receipt 8"),
        StepNote::begun(name("charge")),
        StepNote::not_executed(name("charge")),
    ] {
        let refused = try_note(&*store, &key, claim.token(), other).await;
        assert_eq!(refused, Err(NoteError::Refused(NoteRefused::Finished)));
    }
    drop(claim);
    assert!(gets_in_doubt(&*store, &key).await);
    assert_eq!(
        kept(&goes_on(&*store, &key).await),
        [step("charge", "receipt 7")]
    );
}

/// B9: many see the same abandoned call; one goes on with it.
pub async fn of_many_that_go_on_with_a_call_one_is_given_its_journal(harness: impl Harness) {
    let store = harness.store();
    let key = key("orphan");
    let claim = journaled(&*store, &key).await;
    note(&*store, &claim, done("reserve", "seat 12a")).await;
    harness.clock().advance(LEASE);
    let token = in_doubt(&*store, &key).await.token;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (store, key) = (Arc::clone(&store), key.clone());
            tokio::spawn(async move {
                let mut asked = journaled_request(&key, "transfer 100");
                asked.rerun_of = Some(token);
                ask(&*store, asked).await
            })
        })
        .collect();
    let mut claims = Vec::new();
    for task in tasks {
        if let ClaimOutcome::Claimed(claim) = task.await.expect("a task that asks does not panic") {
            claims.push(claim);
        }
    }
    assert_eq!(claims.len(), 1);
    assert_eq!(kept(&claims[0]), [step("reserve", "seat 12a")]);
    drop(claim);
}

/// B2: a key that a transaction holds has no record: nothing of it can be noted or resolved.
pub async fn what_a_transaction_holds_keeps_no_journal(harness: impl Harness) {
    let store = harness.store();
    let Some(transactions) = store.transactions() else {
        return;
    };
    let key = key("held");
    let begun = transactions
        .begin(journaled_request(&key, "transfer 100"))
        .await;
    let claim = given(begun.expect("the store begins"));
    assert_eq!(claim.journal(), None);
    let noted = try_note(&*store, &key, claim.token(), done("reserve", "seat 12a")).await;
    assert!(noted.is_err(), "{noted:?}");
    assert_eq!(abandoned(&*store).await, []);
}
