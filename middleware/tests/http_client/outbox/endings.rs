//! How a call ends that is resumed, where it gets no answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Request;
use onlyonce_middleware::client::{Stopped, Ticket};
use onlyonce_middleware::http::Body;
use onlyonce_middleware::http::client::{
    Deadline, Hyper, Outbox, OutboxFailure, TransportError, Unfinished, stack,
};
use onlyonce_storage::outbox::{FirstSent, OutboxLimits, OutboxState, Unknown};
use onlyonce_storage::{IdempotencyKey, StoreId};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tower::{ServiceExt, service_fn};

use super::folder::{Folder, Opened};
use super::shop::{AFTER, Shop};
use crate::peer::{Fault, Peer, answer, connector, over_hyper, quick, text};

/// More than a client tries.
const LOST: [Fault; 3] = [Fault::CloseDone, Fault::CloseDone, Fault::CloseDone];

/// Resumes the only call, whose outcome stays unknown.
async fn unknown(opened: &Opened) -> Unfinished {
    let key = opened.key().await;
    match opened.outbox.resume(&key).await.unwrap_err() {
        OutboxFailure::OutcomeUnknown(unfinished) => unfinished,
        other => panic!("{other:?}"),
    }
}

// H4, H7
#[tokio::test]
async fn a_call_to_a_server_that_does_not_dedupe_is_sent_by_one_run_only() {
    let (folder, peer) = (Folder::new(), Peer::plain().await);
    let opened = folder.open().await;
    peer.misbehave([Fault::CloseDone]);
    let failed = opened.outbox.call(peer.post("a")).await.unwrap_err();
    assert!(
        matches!(failed, OutboxFailure::OutcomeUnknown(_)),
        "{failed:?}"
    );
    opened.end().await;

    // Also once it dedupes: it knows nothing of what it did before.
    for dedupes in [false, true] {
        if dedupes {
            peer.replace_store(1);
        }
        let opened = folder.open().await;
        let unfinished = unknown(&opened).await;
        assert!(
            unfinished.last.contains("dedupe"),
            "{dedupes}: {unfinished}"
        );
        let state = opened.state().await;
        assert!(
            matches!(state, OutboxState::Sent(FirstSent { store: None, .. })),
            "{state:?}"
        );
        opened.end().await;
    }
    assert_eq!(peer.seen().len(), 1);

    // Its user knows better, and answers for it.
    let knows = quick(over_hyper()).assume_dedupe().build();
    let limits = OutboxLimits::default();
    let opened = folder.open_with(knows, limits, |outbox| outbox).await;
    let kept = opened.outbox.resume(&opened.key().await).await.unwrap();
    assert_eq!(text(kept.response).await, "done");
    let seen = peer.seen();
    assert_eq!(
        seen[0].header("idempotency-key"),
        seen[1].header("idempotency-key")
    );
    // No server is told a time of another clock than its own.
    assert_eq!(seen[1].header("idempotency-first-sent"), None);
}

// E1: there is a horizon for it too, if only by the clock of this machine.
#[tokio::test]
async fn a_call_without_a_date_is_not_sent_without_end_either() {
    let (folder, peer) = (Folder::new(), Peer::plain().await);
    let opened = folder.open().await;
    peer.misbehave([Fault::CloseDone]);
    let _ = opened.outbox.call(peer.post("a")).await.unwrap_err();
    opened.end().await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let (assuming, limits) = (over_hyper().assume_dedupe(), OutboxLimits::default());
    let at_once = |outbox: Outbox| outbox.with_horizon(Duration::ZERO);
    let opened = folder.open_with(quick(assuming).build(), limits, at_once);
    let opened = opened.await;
    let unfinished = unknown(&opened).await;
    assert_eq!(unfinished.cannot_tell, Some(Unknown::Aged));
    assert_eq!(peer.seen().len(), 1);
}

#[tokio::test]
async fn a_key_that_may_have_been_sent_is_written_and_goes_only_to_a_server_that_dedupes() {
    let (folder, peer) = (Folder::new(), Peer::plain().await);
    let opened = folder.open().await;
    let mut request = peer.post("a");
    let key = IdempotencyKey::parse("invoice-7").unwrap();
    request.extensions_mut().insert(Ticket::new(key));
    let failed = opened.outbox.call(request).await.unwrap_err();
    assert!(
        matches!(failed, OutboxFailure::OutcomeUnknown(_)),
        "{failed:?}"
    );
    assert!(peer.seen().is_empty());
    assert_eq!(opened.state().await, OutboxState::Unsent);
}

// E2, H4
#[tokio::test]
async fn a_call_that_is_resumed_towards_another_store_is_not_executed_again_and_stays() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    peer.misbehave(LOST);
    let failed = opened.outbox.call(peer.post("a")).await.unwrap_err();
    assert!(
        matches!(failed, OutboxFailure::OutcomeUnknown(_)),
        "{failed:?}"
    );
    opened.end().await;

    peer.replace_store(2);
    let opened = folder.open().await;
    let unfinished = unknown(&opened).await;
    let response = unfinished.response.expect("it was refused");
    assert_eq!(response.status(), 421);
    // The first store may come back.
    assert_eq!(unfinished.cannot_tell, None);
    assert!(matches!(opened.state().await, OutboxState::Sent(_)));
    assert_eq!(peer.effects().len(), 1);
    let key = opened.key().await;
    assert!(opened.outbox.cancel(&key).await.is_err());
}

// H4
#[tokio::test]
async fn a_421_of_a_handler_that_executed_takes_no_note_back() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let limits = OutboxLimits::default();
    let opened = folder
        .open_with(quick(over_hyper()).build(), limits, |outbox| outbox)
        .await;
    let lines = format!("idempotency-status: executed\r\n{}", peer.store_line());
    // Its body never comes.
    let said = answer(421, &lines, "done").replace("length: 4", "length: 9");
    peer.misbehave([Fault::Say(said)]);
    let (outbox, request) = (opened.outbox.clone(), peer.post("a"));
    let calling = tokio::spawn(async move { outbox.call(request).await });
    while peer.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    peer.replace_store(2);
    let failed = calling.await.unwrap().unwrap_err();
    assert!(
        matches!(failed, OutboxFailure::OutcomeUnknown(_)),
        "{failed:?}"
    );
    let one = Some(StoreId::from_bytes([1; 16]));
    let state = opened.state().await;
    assert!(
        matches!(&state, OutboxState::Sent(FirstSent { store, .. }) if *store == one),
        "{state:?}"
    );
    let key = opened.key().await;
    assert!(opened.outbox.cancel(&key).await.is_err());
    let _ = opened.outbox.resume(&key).await;
    assert_eq!(peer.effects().len(), 0, "by the second store");
}

// E1
#[tokio::test]
async fn a_call_that_is_older_than_the_horizon_is_not_sent_and_said_to_be_unknown() {
    let (told, mut doing) = mpsc::unbounded_channel();
    let (folder, shop) = (Folder::new(), Shop::open(told).await);
    let opened = folder.open().await;
    let (outbox, request) = (opened.outbox.clone(), shop.order("1"));
    let calling = tokio::spawn(async move { outbox.call(request).await });
    while let Some((what, _go_on)) = doing.recv().await {
        if what == AFTER {
            break;
        }
    }
    calling.abort();
    let _ = calling.await;
    opened.end().await;
    drop(doing);

    let week = Duration::from_secs(7 * 86_400);
    shop.clock.advance(week + Duration::from_secs(60));
    let opened = folder.open().await;
    for _ in 0..2 {
        let unfinished = unknown(&opened).await;
        assert_eq!(unfinished.cannot_tell, Some(Unknown::Aged));
        let state = opened.state().await;
        let because = Unknown::Aged;
        assert!(
            matches!(state, OutboxState::Unknown { because: it, .. } if it == because),
            "{state:?}"
        );
    }
    assert_eq!(shop.orders(), ["1"]);
    let key = opened.key().await;
    let outbox = &opened.outbox;
    assert!(outbox.cancel(&key).await.is_err());
    outbox.forget_although_maybe_executed(&key).await.unwrap();
}

// E1
#[tokio::test]
async fn a_call_that_its_server_has_forgotten_is_given_up_by_that_servers_word_only() {
    for store in [1, 2] {
        let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
        let opened = folder.open().await;
        peer.misbehave(LOST);
        let _ = opened.outbox.call(peer.post("a")).await.unwrap_err();
        peer.replace_store(store);
        let stale = format!("idempotency-status: stale\r\n{}", peer.store_line());
        peer.misbehave([Fault::Say(answer(412, &stale, ""))]);
        let unfinished = unknown(&opened).await;
        let forgotten = (store == 1).then_some(Unknown::Forgotten);
        assert_eq!(unfinished.cannot_tell, forgotten);
        let given_up = matches!(opened.state().await, OutboxState::Unknown { .. });
        assert_eq!(given_up, store == 1);
    }
}

#[tokio::test]
async fn a_call_in_doubt_is_kept_as_such_until_its_server_knows() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    let doubt = format!("idempotency-status: in-doubt\r\n{}", peer.store_line());
    peer.misbehave([Fault::Say(answer(409, &doubt, ""))]);
    let failed = opened.outbox.call(peer.post("a")).await.unwrap_err();
    assert!(matches!(failed, OutboxFailure::InDoubt(_)), "{failed:?}");
    opened.end().await;
    let opened = folder.open().await;
    assert!(matches!(opened.state().await, OutboxState::InDoubt(_)));
    let resumed = opened.outbox.resume_all().await.unwrap();
    assert!(resumed[0].unfinished.is_none());
    assert!(matches!(resumed[0].state, OutboxState::Answered { .. }));
}

#[tokio::test]
async fn a_refusal_is_no_answer_and_leaves_the_call_to_be_made_or_cancelled() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    let refused = format!("idempotency-status: not-executed\r\n{}", peer.store_line());
    peer.misbehave([Fault::Say(answer(403, &refused, "who are you?"))]);
    let failed = opened.outbox.call(peer.post("a")).await.unwrap_err();
    let OutboxFailure::NotExecuted(unfinished) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(unfinished.response.unwrap().status(), 403);
    assert_eq!(opened.state().await, OutboxState::Unsent);
    let kept = opened.outbox.resume(&opened.key().await).await.unwrap();
    assert_eq!(text(kept.response).await, "done");
}

// P25: that attempt was noted, and its time is the call's, as if it had been sent.
#[tokio::test]
async fn a_run_whose_first_attempt_was_not_sent_goes_on_with_the_time_that_was_noted() {
    for peer in [Peer::deduping(1).await, Peer::plain().await] {
        let failed = Arc::new(AtomicBool::new(false));
        let transport = service_fn(move |request: Request<Body>| {
            let question = request.method() == http::Method::OPTIONS;
            let fails = !question && !failed.swap(true, Ordering::SeqCst);
            async move {
                if fails {
                    // The clock of the peer goes on.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    return Err(TransportError::not_sent("it is gone"));
                }
                Hyper::over(connector()).oneshot(request).await
            }
        });
        let (folder, limits) = (Folder::new(), OutboxLimits::default());
        let client = quick(stack(transport)).build();
        let opened = folder.open_with(client, limits, |outbox| outbox).await;
        let kept = opened.outbox.call(peer.post("a")).await.unwrap();
        assert_eq!(text(kept.response).await, "done");
        assert_eq!(peer.seen().len(), 1);
        let sent = opened.state().await.sent().unwrap();
        let seen = &peer.seen()[0];
        assert_eq!(seen.header("idempotency-attempt"), Some("2"));
        if let Some(at) = seen.header("idempotency-first-sent") {
            assert_eq!(at, sent.at.as_millis().to_string());
        }
        let dated = seen.header("idempotency-first-sent").is_some();
        assert_eq!(dated, sent.store.is_some());
    }
}

#[tokio::test]
async fn a_run_that_was_noted_without_a_date_goes_on_without_one_though_its_peer_is_known_by_then()
{
    let peer = Peer::silent_about_itself(1).await;
    let known = Arc::new(Notify::new());
    let (waits, failed) = (Arc::clone(&known), Arc::new(AtomicBool::new(false)));
    let transport = service_fn(move |request: Request<Body>| {
        let fails = request.headers().contains_key("x-fails")
            && request.method() == http::Method::POST
            && !failed.swap(true, Ordering::SeqCst);
        let waits = Arc::clone(&waits);
        async move {
            if fails {
                waits.notified().await;
                return Err(TransportError::not_sent("it is gone"));
            }
            Hyper::over(connector()).oneshot(request).await
        }
    });
    let (folder, limits) = (Folder::new(), OutboxLimits::default());
    let client = quick(stack(transport)).build();
    let opened = folder.open_with(client, limits, |outbox| outbox).await;
    let mut first = peer.post("a");
    let fails = http::HeaderValue::from_static("1");
    first.headers_mut().insert("x-fails", fails);
    let other = async {
        let kept = opened.outbox.call(peer.post("b")).await.unwrap();
        opened.outbox.acknowledge(&kept.key).await.unwrap();
        known.notify_one();
    };
    let (kept, ()) = tokio::join!(opened.outbox.call(first), other);
    assert_eq!(text(kept.unwrap().response).await, "done");
    let seen = peer.seen();
    assert_eq!(seen[1].header("idempotency-attempt"), Some("2"));
    assert_eq!(seen[1].header("idempotency-first-sent"), None);
    assert_eq!(opened.state().await.sent().unwrap().store, None);
    assert_eq!(peer.effects(), [b"b", b"a"]);
}

#[tokio::test]
async fn a_run_ends_at_the_deadline_of_its_request_and_the_call_stays() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    peer.misbehave([Fault::Silent]);
    let mut request = peer.post("a");
    let began = Instant::now();
    let deadline = Deadline(began + Duration::from_millis(300));
    request.extensions_mut().insert(deadline);
    let failed = opened.outbox.call(request).await.unwrap_err();
    let OutboxFailure::OutcomeUnknown(unfinished) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(unfinished.stopped, Stopped::Deadline);
    assert!(began.elapsed() < Duration::from_secs(2));
    let left = peer.seen()[0]
        .header("idempotency-deadline-ms")
        .unwrap()
        .to_owned();
    assert!(left.parse::<u64>().unwrap() <= 300, "{left}");
    // Later runs have their own time.
    let kept = opened.outbox.resume(&opened.key().await).await.unwrap();
    assert_eq!(text(kept.response).await, "done");
    assert_eq!(peer.effects().len(), 1);
}

#[tokio::test]
async fn a_deadline_that_has_passed_sends_nothing_and_the_call_may_be_cancelled() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    let mut request = peer.post("a");
    request.extensions_mut().insert(Deadline(Instant::now()));
    let failed = opened.outbox.call(request).await.unwrap_err();
    assert!(
        matches!(failed, OutboxFailure::NotExecuted(_)),
        "{failed:?}"
    );
    assert!(peer.seen().is_empty());
    opened.outbox.cancel(&opened.key().await).await.unwrap();
}

// H4
#[tokio::test]
async fn a_store_that_was_replaced_before_a_call_was_sent_costs_an_attempt_and_not_the_run() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    let first = opened.outbox.call(peer.post("a")).await.unwrap();
    opened.outbox.acknowledge(&first.key).await.unwrap();
    peer.replace_store(2);
    let kept = opened.outbox.call(peer.post("b")).await.unwrap();
    assert_eq!(text(kept.response).await, "done");
    assert_eq!(peer.effects(), [b"a", b"b"]);
    let seen = peer.seen();
    assert_eq!(seen.len(), 3);
    let bound = opened.state().await.sent().unwrap();
    assert_eq!(bound.store, Some(StoreId::from_bytes([2; 16])));
    let said = seen[2].header("idempotency-store").unwrap();
    assert_eq!(said.trim_matches('"'), bound.store.unwrap().to_string());
    let at = seen[2].header("idempotency-first-sent").unwrap();
    assert_eq!(at, bound.at.as_millis().to_string());
}

// H4: only the first attempt of all can be taken back.
#[tokio::test]
async fn a_store_that_was_replaced_after_an_attempt_was_lost_ends_the_run_in_the_unknown() {
    let (folder, peer) = (Folder::new(), Peer::deduping(1).await);
    let opened = folder.open().await;
    let first = opened.outbox.call(peer.post("a")).await.unwrap();
    opened.outbox.acknowledge(&first.key).await.unwrap();
    peer.misbehave([Fault::Silent]);
    let outbox = opened.outbox.clone();
    let calling = tokio::spawn({
        let request = peer.post("b");
        async move { outbox.call(request).await }
    });
    while peer.effects().len() < 2 {
        tokio::task::yield_now().await;
    }
    peer.replace_store(2);
    let failed = calling.await.unwrap().unwrap_err();
    assert!(
        matches!(failed, OutboxFailure::OutcomeUnknown(_)),
        "{failed:?}"
    );
    let bound = opened.state().await.sent().unwrap();
    assert_eq!(bound.store, Some(StoreId::from_bytes([1; 16])));
    assert_eq!(peer.effects(), [b"a", b"b"]);
}

#[tokio::test]
async fn a_conflict_that_says_nothing_of_the_call_is_an_answer_and_no_proof_that_nothing_happened()
{
    for code in [409, 412, 422] {
        for peer in [Peer::plain().await, Peer::deduping(1).await] {
            let (folder, opened_as) = (Folder::new(), OutboxLimits::default());
            let client = quick(over_hyper()).build();
            let opened = folder.open_with(client, opened_as, |outbox| outbox).await;
            peer.misbehave([Fault::Say(answer(code, "", "it is there"))]);
            let kept = opened.outbox.call(peer.post("a")).await.unwrap();
            assert_eq!(kept.response.status(), code);
            assert_eq!(text(kept.response).await, "it is there");
            // It is not made again.
            let kept = opened.outbox.resume(&kept.key).await.unwrap();
            assert_eq!(kept.response.status(), code);
            assert_eq!(peer.seen().len(), 1);
        }
    }
}
