//! What operators see: everything that is open, nothing that they did not ask for, and who
//! resolved what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Harness;
use super::kit::{
    LEASE, MINUTE, answer, ask, claimed, completed, given, in_doubt, key, key_of, operator_named,
    peek, request, seal, settle,
};
use crate::{
    AnswerBytes, ClaimOutcome, Clock as _, DoubtReason, Inspect, KeyState, KeyView, ListRequest,
    OpenState, RecordView, Resolution, ScopedKey, SettleError, StateView,
};

/// Calls in progress and in doubt, and neither answers nor seals.
pub async fn what_is_open_is_listed_and_what_is_settled_is_not(harness: impl Harness) {
    let store = harness.store();
    let (busy, doubted) = (key("busy"), key("doubted"));
    settle(&*store, &key("done"), "paid").await;
    seal(&*store, &key("sealed")).await;
    let claim = claimed(&*store, &busy).await;
    let token = put_in_doubt(&*store, &doubted).await;
    let listed = list(&*store, ListRequest::new()).await;
    let seen: Vec<_> = listed.iter().map(|view| (&view.key, view.token)).collect();
    // What is in progress comes first: what becomes in doubt meanwhile is found further behind.
    assert_eq!(seen, [(&busy, claim.token()), (&doubted, token)]);
    let now = harness.clock().now();
    assert_eq!(listed[0].claimed_at, now);
    assert_eq!(
        listed[0].state,
        StateView::InProgress {
            lease_until: now.plus(LEASE)
        }
    );
    assert_eq!(
        listed[1].state,
        StateView::InDoubt {
            since: now,
            reason: DoubtReason::Ambiguous,
            answer: None
        }
    );
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    let listed = list(&*store, ListRequest::new()).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    // A lapse counts as what it is, also where nobody has looked at the key.
    let late = claimed(&*store, &key("late")).await;
    harness.clock().advance(LEASE);
    let mut doubts = ListRequest::new();
    doubts.state = Some(OpenState::InDoubt);
    assert_eq!(list(&*store, doubts).await.len(), 2);
    drop(late);
}

/// A call whose claim is held for a transaction is in progress for operators, as for everybody else,
/// and who seals its key is shown what keeps it from being sealed.
pub async fn what_a_transaction_holds_is_in_progress_for_operators(harness: impl Harness) {
    let store = harness.store();
    let Some(transactions) = store.transactions() else {
        return;
    };
    // Nothing is written of it, so operators of another process cannot see what one holds.
    if harness.is_shared() {
        return;
    }
    let held = key("held");
    let begun = transactions.begin(request(&held)).await;
    let claim = given(begun.expect("the store begins"));
    let in_progress = StateView::InProgress {
        lease_until: harness.clock().now().plus(LEASE),
    };
    let listed = list(&*store, ListRequest::new()).await;
    let seen: Vec<_> = listed.iter().map(|view| (&view.key, &view.state)).collect();
    assert_eq!(seen, [(&held, &in_progress)]);
    let is_in_progress = |state| matches!(state, KeyState::InProgress { .. });
    assert!(is_in_progress(seal(&*store, &held).await));
    let view = shown(&*store, &held, AnswerBytes::Show).await;
    assert_eq!((view.token, view.state), (claim.token(), in_progress));
    assert!(is_in_progress(peek(&*store, &held).await));
    assert_eq!(store.release(claim).await, Ok(()));
    assert_eq!(list(&*store, ListRequest::new()).await, []);
}

/// Pages of any size, and changes between them.
pub async fn a_list_in_small_pages_shows_every_doubt_once_while_calls_come_and_go(
    harness: impl Harness,
) {
    let store = harness.store();
    let doubted: Vec<_> = (0..7).map(|at| key(&format!("doubted-{at}"))).collect();
    for (at, key) in doubted.iter().enumerate() {
        // Some begin at the same moment.
        if at % 2 == 0 {
            harness.clock().advance(Duration::from_millis(1));
        }
        put_in_doubt(&*store, key).await;
    }
    for size in [1, 2, 3, 7, 100] {
        let mut request = ListRequest::new();
        request.records_max = size;
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        let mut pages = 0;
        loop {
            let page = store.list(request.clone()).await.expect("a page");
            assert!(
                page.records.len() <= size,
                "{} of {size}",
                page.records.len()
            );
            for view in page.records {
                *seen.entry(view.key.key().as_str().to_owned()).or_default() += 1;
            }
            pages += 1;
            assert!(pages < 50, "a list of seven ends");
            let Some(next) = page.next else { break };
            assert!(
                request.after.is_none_or(|before| before < next),
                "a page is behind the one before"
            );
            request.after = Some(next);
            // Meanwhile somebody is served, and something else gets in doubt.
            settle(&*store, &key(&format!("done-{size}-{pages}")), "paid").await;
            let other = key(&format!("other-{size}-{pages}"));
            let token = put_in_doubt(&*store, &other).await;
            let not_applied = Resolution::NotApplied;
            let by = operator_named("suite");
            let resolved = store.resolve(other, token, not_applied, by).await;
            assert_eq!(resolved, Ok(()));
        }
        for key in &doubted {
            assert_eq!(seen.get(key.key().as_str()), Some(&1), "{size}: {seen:?}");
        }
    }
}

/// Each filter by itself, and all together.
pub async fn a_list_leaves_out_other_states_scopes_and_ages(harness: impl Harness) {
    let store = harness.store();
    let (old, young) = (key_of("alice", "old"), key_of("alice", "young"));
    let other = key_of("bob", "old");
    let transfer = crate::Scope::principal("alice")
        .and_then(|scope| scope.operation("transfer"))
        .expect("a scope");
    let narrow = ScopedKey::new(transfer, old.key().clone());
    put_in_doubt(&*store, &old).await;
    put_in_doubt(&*store, &other).await;
    put_in_doubt(&*store, &narrow).await;
    harness.clock().advance(MINUTE);
    put_in_doubt(&*store, &young).await;
    let busy = claimed(&*store, &key_of("alice", "busy")).await;
    let names = async |change: &dyn Fn(&mut ListRequest)| {
        let mut request = ListRequest::new();
        change(&mut request);
        let listed = list(&*store, request).await;
        let mut keys: Vec<_> = listed.into_iter().map(|view| view.key.digest()).collect();
        keys.sort_unstable();
        keys
    };
    let digests = |keys: &[&ScopedKey]| {
        let mut digests: Vec<_> = keys.iter().map(|key| key.digest()).collect();
        digests.sort_unstable();
        digests
    };
    let alice = |request: &mut ListRequest| request.principal = Some("alice".to_owned());
    let by_state = |state| move |request: &mut ListRequest| request.state = Some(state);
    assert_eq!(
        names(&alice).await,
        digests(&[&old, &young, &narrow, busy.key()])
    );
    assert_eq!(
        names(&by_state(OpenState::InProgress)).await,
        digests(&[busy.key()])
    );
    assert_eq!(
        names(&by_state(OpenState::InDoubt)).await,
        digests(&[&old, &other, &young, &narrow])
    );
    assert_eq!(
        names(&|request| request.operation = Some("transfer".to_owned())).await,
        digests(&[&narrow])
    );
    assert_eq!(
        names(&|request| request.age_min = MINUTE).await,
        digests(&[&old, &other, &narrow])
    );
    let all = |request: &mut ListRequest| {
        alice(request);
        request.age_min = MINUTE;
        request.operation = Some("transfer".to_owned());
        request.state = Some(OpenState::InDoubt);
    };
    assert_eq!(names(&all).await, digests(&[&narrow]));
    drop(busy);
}

/// Its size is shown in any case, until it is past its retention.
pub async fn an_answer_is_shown_only_to_who_asks_for_it(harness: impl Harness) {
    let store = harness.store();
    let (done, doubted) = (key("done"), key("doubted"));
    settle(&*store, &done, "paid").await;
    let claim = claimed(&*store, &doubted).await;
    let kept = Some(answer("500"));
    let written = store.doubt(claim, DoubtReason::Ambiguous, kept).await;
    assert_eq!(written, Ok(()));
    for (key, body) in [(&done, "paid"), (&doubted, "500")] {
        let view = shown(&*store, key, AnswerBytes::LeaveOut).await;
        let size = view.answer().expect("there is an answer");
        assert_eq!((size.format, size.bytes), (7, body.len() as u64));
        assert_eq!(size.answer, None, "nobody asked for it");
        let view = shown(&*store, key, AnswerBytes::Show).await;
        let size = view.answer().expect("there is an answer");
        assert_eq!(size.answer, Some(answer(body)));
    }
    let listed = list(&*store, ListRequest::new()).await;
    let answers: Vec<_> = listed.iter().filter_map(RecordView::answer).collect();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].answer, None, "a list has no answers");
    assert_eq!(
        store.show(key("nobody's"), AnswerBytes::Show).await,
        Ok(KeyView::Absent)
    );
    seal(&*store, &key("sealed")).await;
    let sealed = KeyView::Sealed {
        at: harness.clock().now(),
    };
    let view = store.show(key("sealed"), AnswerBytes::Show).await;
    assert_eq!(view, Ok(sealed));
    harness.clock().advance(super::kit::DAY);
    let view = shown(&*store, &done, AnswerBytes::Show).await;
    assert_eq!(view.answer(), None, "it is past its retention");
}

/// Of what was applied, also after reopening and in the presence of calls that nobody resolved.
pub async fn who_resolved_and_when_is_kept(mut harness: impl Harness) {
    let (resolved, own) = (key("resolved"), key("own"));
    let store = harness.store();
    settle(&*store, &own, "paid").await;
    let token = put_in_doubt(&*store, &resolved).await;
    harness.clock().advance(MINUTE);
    let when = harness.clock().now();
    let (applied, by) = (Resolution::Applied(answer("paid")), operator_named("carol"));
    let done = store.resolve(resolved.clone(), token, applied, by).await;
    assert_eq!(done, Ok(()));
    harness.clock().advance(MINUTE);
    drop(store);
    for _ in 0..2 {
        let store = harness.store();
        let who = |view: RecordView| match view.state {
            StateView::Completed {
                at, resolved_by, ..
            } => (at, resolved_by),
            other => panic!("it is completed, and shown as {other:?}"),
        };
        let view = shown(&*store, &resolved, AnswerBytes::LeaveOut).await;
        assert_eq!(who(view), (when, Some(operator_named("carol"))));
        let view = shown(&*store, &own, AnswerBytes::LeaveOut).await;
        assert_eq!(who(view).1, None, "its owner completed it");
        assert_eq!(completed(&*store, &resolved).await.answer, answer("paid"));
        drop(store);
        if !harness.reopen().await {
            return;
        }
    }
}

/// Whoever comes second learns that the doubt is not theirs any more, and the first stays named.
pub async fn of_two_operators_at_once_one_resolves_and_the_other_is_told(harness: impl Harness) {
    let store = harness.store();
    for round in 0..8 {
        let key = key(&format!("contested-{round}"));
        let token = put_in_doubt(&*store, &key).await;
        let tasks: Vec<_> = ["carol", "dave"]
            .into_iter()
            .map(|name| {
                let (store, key) = (Arc::clone(&store), key.clone());
                tokio::spawn(async move {
                    let applied = Resolution::Applied(answer(name));
                    let by = operator_named(name);
                    (name, store.resolve(key, token, applied, by).await)
                })
            })
            .collect();
        let (mut first, mut told) = (Vec::new(), 0);
        for task in tasks {
            match task.await.expect("a task that resolves does not panic") {
                (name, Ok(())) => first.push(name),
                (_, Err(SettleError::Fenced)) => told += 1,
                (_, Err(error)) => panic!("{error}"),
            }
        }
        assert_eq!((first.len(), told), (1, 1));
        assert_eq!(completed(&*store, &key).await.answer, answer(first[0]));
        let view = shown(&*store, &key, AnswerBytes::LeaveOut).await;
        let StateView::Completed { resolved_by, .. } = view.state else {
            panic!("it is completed, and shown as {view:?}");
        };
        assert_eq!(resolved_by, Some(operator_named(first[0])));
    }
}

/// By state and by scope, also after reopening.
pub async fn the_figures_count_what_is_open_and_what_is_settled(mut harness: impl Harness) {
    let store = harness.store();
    let (id, made) = (store.id(), store.stats().await.expect("figures"));
    assert_eq!((made.id, made.settled, made.poisoned), (id, 0, None));
    assert_eq!((made.open.in_progress, made.open.in_doubt), (0, 0));
    for at in 0..5 {
        settle(&*store, &key(&format!("done-{at}")), "paid").await;
    }
    seal(&*store, &key("sealed")).await;
    put_in_doubt(&*store, &key_of("alice", "a")).await;
    let since = harness.clock().now();
    harness.clock().advance(MINUTE);
    put_in_doubt(&*store, &key_of("bob", "b")).await;
    put_in_doubt(&*store, &key_of("bob", "c")).await;
    let claim = claimed(&*store, &key_of("carol", "d")).await;
    let stats = store.stats().await.expect("figures");
    assert_eq!(stats.settled, 6);
    assert_eq!((stats.open.in_progress, stats.open.in_doubt), (1, 3));
    assert_eq!(stats.open.oldest_doubt, Some(since));
    assert_eq!(stats.open.scopes, 3);
    let most = &stats.open.most[0];
    assert_eq!(most.scope.principal_name(), Some("bob"));
    assert_eq!((most.in_progress, most.in_doubt), (0, 2));
    assert_eq!(stats.forgotten_until, made.forgotten_until);
    // What ends is not open any more, whichever way it ends.
    let token = put_in_doubt(&*store, &key_of("bob", "e")).await;
    let claim_of_f = claimed(&*store, &key_of("carol", "f")).await;
    let applied = Resolution::Applied(answer("paid"));
    let by = operator_named("suite");
    let resolved = store.resolve(key_of("bob", "e"), token, applied, by).await;
    assert_eq!(resolved, Ok(()));
    assert_eq!(store.release(claim_of_f).await, Ok(()));
    let stats = store.stats().await.expect("figures");
    assert_eq!((stats.open.in_progress, stats.open.in_doubt), (1, 3));
    assert_eq!((stats.settled, stats.open.scopes), (7, 3));
    // A crash does not drop its guards.
    std::mem::forget(claim);
    drop(store);
    if !harness.reopen().await {
        return;
    }
    if harness.is_shared() {
        harness.clock().advance(LEASE);
    }
    let stats = harness.store().stats().await.expect("figures");
    assert_eq!(stats.id, id);
    assert!(stats.incarnation > made.incarnation);
    assert_eq!(stats.settled, 7);
    assert_eq!((stats.open.in_progress, stats.open.in_doubt), (0, 4));
    assert_eq!(stats.open.oldest_doubt, Some(since));
}

/// Neither an absent key nor one in progress nor one in doubt is another afterwards.
pub async fn looking_changes_nothing(harness: impl Harness) {
    let store = harness.store();
    let (absent, busy, doubted) = (key("absent"), key("busy"), key("doubted"));
    let claim = claimed(&*store, &busy).await;
    let token = put_in_doubt(&*store, &doubted).await;
    for _ in 0..3 {
        for key in [&absent, &busy, &doubted] {
            store
                .show(key.clone(), AnswerBytes::Show)
                .await
                .expect("a key is shown");
        }
        list(&*store, ListRequest::new()).await;
        store.stats().await.expect("figures");
    }
    assert_eq!(peek(&*store, &absent).await, KeyState::Absent);
    assert_eq!(in_doubt(&*store, &doubted).await.token, token);
    let outcome = ask(&*store, request(&busy)).await;
    assert!(
        matches!(outcome, ClaimOutcome::InProgress { .. }),
        "{outcome:?}"
    );
    assert_eq!(store.complete(claim, answer("paid")).await, Ok(()));
    let claim = claimed(&*store, &absent).await;
    assert_eq!(store.release(claim).await, Ok(()));
}

/// All pages.
async fn list(store: &dyn Inspect, mut request: ListRequest) -> Vec<RecordView> {
    let mut records = Vec::new();
    loop {
        let page = store.list(request.clone()).await.expect("a page");
        records.extend(page.records);
        if page.next.is_none() {
            return records;
        }
        request.after = page.next;
    }
}

async fn shown(store: &dyn Inspect, key: &ScopedKey, bytes: AnswerBytes) -> RecordView {
    match store.show(key.clone(), bytes).await {
        Ok(KeyView::Call(view)) => view,
        other => panic!("a call should be shown, and the store says {other:?}"),
    }
}

/// Claims a key and leaves it in doubt, without an answer.
async fn put_in_doubt(store: &dyn Inspect, key: &ScopedKey) -> crate::FencingToken {
    let claim = claimed(store, key).await;
    let token = claim.token();
    let written = store.doubt(claim, DoubtReason::Ambiguous, None).await;
    written.expect("the owner says that it does not know");
    token
}
