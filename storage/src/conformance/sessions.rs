//! Sessions: what is acknowledged is forgotten and never executed again; nothing else is forgotten.
//!
//! A store that has none leaves these out.

use std::time::Duration;

use super::kit::{
    DAY, MINUTE, answer, ask, completed, given, key, key_of, peek, request, seal, settle, sweep,
};
use super::{Harness, SESSIONS_MAX};
use crate::transaction::TransactionalStore;
use crate::{
    Claim, ClaimOutcome, ClaimRequest, DoubtReason, Inspect, KeyState, Question, SESSION_WINDOW,
    Scope, ScopedKey, SessionCall, SessionRequest, SessionState, StoreError,
};

/// E7: what was acknowledged leaves nothing, and its late duplicates are stale also after reopening.
pub async fn an_acknowledged_call_is_forgotten_and_its_duplicate_is_stale(
    mut harness: impl Harness,
) {
    let store = harness.store();
    let Some(session) = open(&*store).await else {
        return;
    };
    for sequence in 1..=3 {
        call(&*store, session, sequence, sequence).await;
    }
    assert_eq!(peek(&*store, &numbered(1)).await, KeyState::Stale);
    assert_eq!(peek(&*store, &numbered(2)).await, KeyState::Stale);
    // What is not acknowledged is replayed.
    assert_eq!(replayed(&*store, session, 3, 3).await, "3");
    for (sequence, first_unanswered) in [(1, 1), (2, 1), (2, 2)] {
        let outcome = ask(&*store, in_session(session, sequence, first_unanswered)).await;
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    }
    let told = acknowledge(&*store, session, 4).await;
    assert_eq!(told, live(session, 4));
    assert_eq!(peek(&*store, &numbered(3)).await, KeyState::Stale);
    // It only grows.
    assert_eq!(acknowledge(&*store, session, 2).await, live(session, 4));
    drop(store);
    if !harness.reopen().await {
        return;
    }
    let store = harness.store();
    for sequence in 1..=3 {
        let outcome = ask(&*store, in_session(session, sequence, 1)).await;
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    }
    call(&*store, session, 4, 4).await;
}

/// E7: what nobody acknowledged is replayed, also after reopening, from whatever session it is asked.
pub async fn what_is_not_acknowledged_is_replayed(mut harness: impl Harness) {
    let store = harness.store();
    let Some(session) = open(&*store).await else {
        return;
    };
    for sequence in 1..=20 {
        call(&*store, session, sequence, 1).await;
    }
    assert_eq!(replayed(&*store, session, 7, 1).await, "7");
    // A resumed call says its key and no session.
    assert_eq!(completed(&*store, &numbered(7)).await.answer.body(), "7");
    acknowledge(&*store, session, 6).await;
    drop(store);
    if !harness.reopen().await {
        return;
    }
    let store = harness.store();
    assert_eq!(peek(&*store, &numbered(5)).await, KeyState::Stale);
    for sequence in 6..=20 {
        let body = replayed(&*store, session, sequence, 6).await;
        assert_eq!(body, sequence.to_string());
    }
}

/// E7: an acknowledgement cannot take what has no answer, and what then gets one is kept like any
/// other call.
pub async fn what_is_open_is_not_forgotten_by_an_acknowledgement(mut harness: impl Harness) {
    let store = harness.store();
    let Some(session) = open(&*store).await else {
        return;
    };
    let running = begun(&*store, session, 1, 1).await;
    let doubted = begun(&*store, session, 2, 1).await;
    let doubt = store.doubt(doubted, DoubtReason::Ambiguous, Some(answer("2")));
    assert_eq!(doubt.await, Ok(()));
    acknowledge(&*store, session, 3).await;
    let outcome = ask(&*store, in_session(session, 1, 1)).await;
    let held = matches!(outcome, ClaimOutcome::InProgress { .. });
    assert!(held, "{outcome:?}");
    let outcome = ask(&*store, in_session(session, 2, 1)).await;
    assert!(matches!(outcome, ClaimOutcome::InDoubt(_)), "{outcome:?}");
    assert_eq!(store.complete(running, answer("1")).await, Ok(()));
    assert_eq!(replayed(&*store, session, 1, 3).await, "1");
    acknowledge(&*store, session, 10).await;
    assert_eq!(completed(&*store, &numbered(1)).await.answer.body(), "1");
    drop(store);
    if harness.reopen().await {
        let store = harness.store();
        assert_eq!(completed(&*store, &numbered(1)).await.answer.body(), "1");
    }
    let store = harness.store();
    harness.clock().advance(DAY);
    let outcome = ask(&*store, request(&numbered(1))).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
}

/// E7: the record of an acknowledged call is gone; its late duplicate is stale also where a
/// transaction would execute it, and who is in no session known is refused there as well.
pub async fn no_transaction_executes_what_was_acknowledged(harness: impl Harness) {
    let store = harness.store();
    let (Some(session), Some(transactions)) = (open(&*store).await, store.transactions()) else {
        return;
    };
    let running = begun(&*store, session, 1, 1).await;
    assert_eq!(store.complete(running, answer("1")).await, Ok(()));
    acknowledge(&*store, session, 2).await;
    let late = transactions.begin(in_session(session, 1, 1)).await;
    assert!(matches!(late, Ok(ClaimOutcome::Stale)), "{late:?}");
    let unknown = transactions.begin(in_session(session + 99, 1, 1)).await;
    assert!(
        !matches!(unknown, Ok(ClaimOutcome::Claimed(_))),
        "{unknown:?}"
    );
    let next = transactions.begin(in_session(session, 2, 2)).await;
    assert!(matches!(next, Ok(ClaimOutcome::Claimed(_))), "{next:?}");
}

/// E7: what a transaction came to is held for its session like what was claimed: it goes with its
/// acknowledgement, also after reopening.
pub async fn a_transaction_is_forgotten_once_it_is_acknowledged(mut harness: impl Harness) {
    let mut store = harness.store();
    if store.transactions().is_none() {
        return;
    }
    let Some(session) = open(&*store).await else {
        return;
    };
    for sequence in 1..=5 {
        commit(&*store, session, sequence, 1).await;
    }
    for first_unanswered in [2, 4] {
        assert_eq!(replayed(&*store, session, 4, 1).await, "4");
        let told = acknowledge(&*store, session, first_unanswered).await;
        assert_eq!(told, live(session, first_unanswered));
        for sequence in 1..first_unanswered {
            let gone = peek(&*store, &numbered(sequence)).await;
            assert_eq!(gone, KeyState::Stale, "call {sequence} has left its record");
            let late = transactional(&*store).begin(in_session(session, sequence, 1));
            let late = ok(late.await);
            assert!(matches!(late, ClaimOutcome::Stale), "{late:?}");
        }
        drop(store);
        if !harness.reopen().await {
            return;
        }
        store = harness.store();
    }
    assert_eq!(replayed(&*store, session, 5, 4).await, "5");
}

/// E14: a claim that is held in memory counts like one that is written: nobody else gets its number,
/// and the window ends where it ends.
pub async fn a_run_that_is_held_takes_its_number_in_the_window(harness: impl Harness) {
    let store = harness.store();
    let (Some(session), Some(transactions)) = (open(&*store).await, store.transactions()) else {
        return;
    };
    let held = given(ok(transactions.begin(in_session(session, 1, 1)).await));
    let mut other = request(&key("another"));
    other.session = in_session(session, 1, 1).session;
    for outcome in [
        ok(transactions.begin(other.clone()).await),
        ask(&*store, other.clone()).await,
    ] {
        // Where another process may hold it, nobody knows yet who has the number for good.
        let refused = matches!(outcome, ClaimOutcome::Stale)
            || harness.is_shared() && matches!(outcome, ClaimOutcome::InProgress { .. });
        assert!(refused, "{outcome:?}");
    }
    let over = SESSION_WINDOW + 1;
    let outcome = ok(transactions.begin(in_session(session, over, 1)).await);
    assert!(matches!(outcome, ClaimOutcome::WindowFull), "{outcome:?}");
    // It was never executed: its number is free, for the one who has it.
    store.release(held).await.expect("the owner releases");
    let again = given(ok(transactions.begin(in_session(session, 1, 1)).await));
    // A message that acknowledges it takes nothing: what it comes to is remembered like any other.
    acknowledge(&*store, session, 2).await;
    let transaction = transactions.start(&again);
    let work = transaction.end().expect("it has not failed");
    let committed = transactions.commit(again, work, answer("1")).await;
    committed.expect("the owner commits");
    assert_eq!(completed(&*store, &numbered(1)).await.answer.body(), "1");
}

/// E7: nothing is left of a call that was acknowledged, so who knows no more than its key is not told
/// that it never happened. Who says when a call was first sent has no answer of it, so it was not
/// acknowledged; and a principal without sessions is told what there is.
pub async fn what_was_acknowledged_is_never_said_not_to_have_happened(mut harness: impl Harness) {
    let store = harness.store();
    let Some(session) = open(&*store).await else {
        return;
    };
    assert_eq!(peek(&*store, &numbered(9)).await, KeyState::Absent);
    call(&*store, session, 1, 1).await;
    acknowledge(&*store, session, 2).await;
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    assert_eq!(peek(&*store, &numbered(1)).await, KeyState::Stale);
    let since = Some(store.now());
    let unsent = store.ask(Question::Peek, numbered(2), since).await;
    assert_eq!(unsent, Ok(KeyState::Absent));
    let stranger = key_of("bob", "in-session-1");
    assert_eq!(peek(&*store, &stranger).await, KeyState::Absent);
    let sealed = seal(&*store, &stranger).await;
    assert!(matches!(sealed, KeyState::Sealed { .. }), "{sealed:?}");
    // The seal is there; that it came before any effect is what nobody knows.
    assert_eq!(seal(&*store, &numbered(1)).await, KeyState::Stale);
    let outcome = ask(&*store, request(&numbered(1))).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
}

/// E7: who sends a call has not had its answer; a message that says otherwise takes nothing.
pub async fn a_call_cannot_acknowledge_itself(harness: impl Harness) {
    let store = harness.store();
    let Some(session) = open(&*store).await else {
        return;
    };
    call(&*store, session, 1, 1).await;
    let outcome = ask(&*store, in_session(session, 2, 3)).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    assert_eq!(replayed(&*store, session, 1, 2).await, "1");
    // Nor do two keys share a number.
    let mut other = request(&key("another"));
    other.session = in_session(session, 1, 1).session;
    let outcome = ask(&*store, other).await;
    assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    assert_eq!(peek(&*store, &key("another")).await, KeyState::Stale);
}

/// E7: a lost acknowledgement costs room until the session expires; then retention frees.
pub async fn without_an_acknowledgement_retention_frees(mut harness: impl Harness) {
    let store = harness.store();
    let Some(session) = open(&*store).await else {
        return;
    };
    let first_sent = Some(store.now());
    call(&*store, session, 1, 1).await;
    let running = begun(&*store, session, 2, 1).await;
    harness.clock().advance(IDLE);
    // Somebody else's call is enough for a store to look.
    settle(&*store, &key_of("bob", "other"), "other").await;
    assert_eq!(replayed(&*store, session, 1, 1).await, "1");
    assert_eq!(store.complete(running, answer("2")).await, Ok(()));
    sweep(&*store).await;
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    assert_eq!(completed(&*store, &numbered(1)).await.answer.body(), "1");
    assert_eq!(completed(&*store, &numbered(2)).await.answer.body(), "2");
    harness.clock().advance(DAY);
    sweep(&*store).await;
    for sequence in [1, 2] {
        let outcome = ask(&*store, request(&numbered(sequence))).await;
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    }
    harness.clock().advance(DAY * 10);
    sweep(&*store).await;
    let state = store.ask(Question::Peek, numbered(1), first_sent);
    assert_eq!(state.await, Ok(KeyState::Stale), "it was forgotten");
}

/// E13: whose session was not used for too long is told so, and not that it never had one.
pub async fn an_expired_session_is_told_from_one_that_was_never_given(mut harness: impl Harness) {
    let store = harness.store();
    let Some(old) = open(&*store).await else {
        return;
    };
    call(&*store, old, 1, 1).await;
    harness.clock().advance(IDLE / 2);
    let young = open(&*store).await.expect("there is room");
    harness.clock().advance(IDLE / 2 + MINUTE);
    for round in 0..2 {
        let store = harness.store();
        let outcome = ask(&*store, in_session(old, 2, 1)).await;
        let expired = matches!(outcome, ClaimOutcome::SessionExpired);
        assert!(expired, "{round}: {outcome:?}");
        assert_eq!(resume(&*store, old).await, SessionState::Expired);
        assert_eq!(acknowledge(&*store, old, 2).await, SessionState::Expired);
        assert_eq!(resume(&*store, young).await, live(young, 0));
        for never in [0, young + 1, u64::MAX] {
            let outcome = ask(&*store, in_session(never, 2, 1)).await;
            let unknown = matches!(outcome, ClaimOutcome::UnknownSession);
            assert!(unknown, "{round}: {outcome:?}");
            assert_eq!(resume(&*store, never).await, SessionState::Unknown);
        }
        assert_eq!(peek(&*store, &numbered(2)).await, KeyState::Absent);
        // What it had is remembered like any other.
        assert_eq!(completed(&*store, &numbered(1)).await.answer.body(), "1");
        drop(store);
        if !harness.reopen().await {
            return;
        }
    }
    // Never given twice.
    let next = open(&*harness.store()).await.expect("there is room");
    assert!(next > young);
}

/// A session that is used does not expire, however long it lives.
pub async fn a_session_in_use_lives_on(harness: impl Harness) {
    let store = harness.store();
    let Some(session) = open(&*store).await else {
        return;
    };
    for sequence in 1..=10 {
        harness.clock().advance(IDLE - MINUTE);
        call(&*store, session, sequence, sequence).await;
    }
}

/// E14: who is too far ahead is refused, not executed, and nothing is forgotten for it.
pub async fn a_full_window_refuses_and_forgets_nothing(mut harness: impl Harness) {
    let store = harness.store();
    let Some(session) = open(&*store).await else {
        return;
    };
    for sequence in (1..=SESSION_WINDOW).rev().step_by(101) {
        call(&*store, session, sequence, 1).await;
    }
    let over = SESSION_WINDOW + 1;
    let outcome = ask(&*store, in_session(session, over, 1)).await;
    assert!(matches!(outcome, ClaimOutcome::WindowFull), "{outcome:?}");
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    let outcome = ask(&*store, in_session(session, over, 1)).await;
    assert!(matches!(outcome, ClaimOutcome::WindowFull), "{outcome:?}");
    assert_eq!(peek(&*store, &numbered(over)).await, KeyState::Stale);
    for sequence in (1..=SESSION_WINDOW).rev().step_by(101) {
        let body = replayed(&*store, session, sequence, 1).await;
        assert_eq!(body, sequence.to_string());
    }
    // The first one is answered: there is room again.
    call(&*store, session, over, 2).await;
}

/// Two principals never meet in a session.
pub async fn two_principals_never_share_a_session(harness: impl Harness) {
    let store = harness.store();
    let Some(session) = open(&*store).await else {
        return;
    };
    call(&*store, session, 1, 1).await;
    let bob = Scope::principal("bob").expect("a principal");
    for request in [
        SessionRequest::Resume { session },
        SessionRequest::Acknowledge {
            session,
            first_unanswered: 2,
        },
    ] {
        let told = store.session(bob.clone(), request).await;
        assert_eq!(told, Ok(SessionState::Unknown));
    }
    let mut stranger = request(&key_of("bob", "1"));
    stranger.session = in_session(session, 2, 2).session;
    let outcome = ask(&*store, stranger).await;
    let unknown = matches!(outcome, ClaimOutcome::UnknownSession);
    assert!(unknown, "{outcome:?}");
    assert_eq!(replayed(&*store, session, 1, 1).await, "1");
}

/// Whoever has too many sessions gets no more, and others do.
pub async fn a_principal_with_too_many_sessions_gets_no_more(mut harness: impl Harness) {
    let store = harness.store();
    let Some(_) = open(&*store).await else {
        return;
    };
    for _ in 1..SESSIONS_MAX {
        open(&*store).await.expect("there is room");
    }
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    let limit = SESSIONS_MAX;
    let open_one = || store.session(scope("alice"), SessionRequest::Open);
    assert_eq!(open_one().await, Ok(SessionState::TooMany { limit }));
    let other = store.session(scope("bob"), SessionRequest::Open).await;
    assert!(matches!(other, Ok(SessionState::Live { .. })), "{other:?}");
    harness.clock().advance(IDLE);
    let outcome = open_one().await;
    assert!(
        matches!(outcome, Ok(SessionState::Live { .. })),
        "{outcome:?}"
    );
}

/// Many calls leave what is in flight, and no more.
pub async fn a_thousand_acknowledged_calls_leave_nothing(mut harness: impl Harness) {
    let store = harness.store();
    let Some(session) = open(&*store).await else {
        return;
    };
    for sequence in 1..=1_000 {
        call(&*store, session, sequence, sequence).await;
    }
    acknowledge(&*store, session, 1_001).await;
    drop(store);
    harness.reopen().await;
    let store = harness.store();
    for sequence in [1, 2, 500, 999, 1_000] {
        assert_eq!(peek(&*store, &numbered(sequence)).await, KeyState::Stale);
        let outcome = ask(&*store, in_session(session, sequence, 1)).await;
        assert!(matches!(outcome, ClaimOutcome::Stale), "{outcome:?}");
    }
}

/// `None` where the store has no sessions.
async fn open(store: &dyn Inspect) -> Option<u64> {
    let opened = store.session(scope("alice"), SessionRequest::Open).await;
    match opened.expect("the store answers") {
        SessionState::Live { session, .. } => Some(session),
        SessionState::Unsupported => None,
        other => panic!("a session was asked for, and what came is {other:?}"),
    }
}

async fn resume(store: &dyn Inspect, session: u64) -> SessionState {
    let told = store.session(scope("alice"), SessionRequest::Resume { session });
    told.await.expect("the store answers")
}

async fn acknowledge(store: &dyn Inspect, session: u64, first_unanswered: u64) -> SessionState {
    let request = SessionRequest::Acknowledge {
        session,
        first_unanswered,
    };
    let told = store.session(scope("alice"), request).await;
    told.expect("the store answers")
}

fn scope(principal: &str) -> Scope {
    Scope::principal(principal).expect("the suite's principals are valid")
}

fn live(session: u64, first_unanswered: u64) -> SessionState {
    SessionState::Live {
        session,
        first_unanswered,
    }
}

fn transactional(store: &dyn Inspect) -> &dyn TransactionalStore {
    store.transactions().expect("the store keeps tables")
}

fn ok(outcome: Result<ClaimOutcome, StoreError>) -> ClaimOutcome {
    outcome.expect("the store answers a claim")
}

/// A transaction without rows that is answered with its number.
async fn commit(store: &dyn Inspect, session: u64, sequence: u64, first_unanswered: u64) {
    let transactions = transactional(store);
    let request = in_session(session, sequence, first_unanswered);
    let claim = given(ok(transactions.begin(request).await));
    let work = transactions.start(&claim).end();
    let answer = answer(sequence.to_string());
    let committed = transactions.commit(claim, work.expect("it has not failed"), answer);
    committed.await.expect("the owner commits");
}

fn numbered(sequence: u64) -> ScopedKey {
    // Sessions are for all operations of a principal.
    let scope = scope("alice").operation(if sequence.is_multiple_of(2) {
        "pay"
    } else {
        "ship"
    });
    let plain = key(&format!("in-session-{sequence}"));
    ScopedKey::new(scope.expect("an operation"), plain.key().clone())
}

fn in_session(session: u64, sequence: u64, first_unanswered: u64) -> ClaimRequest {
    let mut request = request(&numbered(sequence));
    request.session = Some(SessionCall {
        session,
        sequence,
        first_unanswered,
    });
    request
}

async fn begun(store: &dyn Inspect, session: u64, sequence: u64, first_unanswered: u64) -> Claim {
    given(ask(store, in_session(session, sequence, first_unanswered)).await)
}

/// A call that is answered with its number.
async fn call(store: &dyn Inspect, session: u64, sequence: u64, first_unanswered: u64) {
    let claim = begun(store, session, sequence, first_unanswered).await;
    let settled = store.complete(claim, answer(sequence.to_string())).await;
    settled.expect("the owner completes");
}

async fn replayed(
    store: &dyn Inspect,
    session: u64,
    sequence: u64,
    first_unanswered: u64,
) -> bytes::Bytes {
    match ask(store, in_session(session, sequence, first_unanswered)).await {
        ClaimOutcome::Completed(completion) => completion.answer.body().clone(),
        other => panic!("call {sequence} should be replayed, and is answered {other:?}"),
    }
}

/// The default of [`StoreLimits`](crate::StoreLimits).
const IDLE: Duration = Duration::from_secs(60 * 60);
