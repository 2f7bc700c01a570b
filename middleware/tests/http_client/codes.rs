//! What answers mean.

use std::num::NonZeroU32;

use http::Response;
use onlyonce_middleware::client::{Call, Cost, Executed, Last, Outcome, Stopped, Ticket, Verdict};
use onlyonce_middleware::http::client::Classification;
use onlyonce_middleware::http::{Body, ServingStore};
use onlyonce_storage::{IdempotencyKey, StoreId};

use crate::peer::{Fault, Peer, answer, clients, over_hyper, quick, text};

const STATUSES: [Option<&str>; 11] = [
    None,
    Some("attached"),
    Some("executed"),
    Some("executed; unrecorded"),
    Some("in-doubt"),
    Some("in-progress"),
    Some("mismatch"),
    Some("not-executed"),
    Some("replayed"),
    Some("stale"),
    Some("unprotected"),
];

fn verdict(status: Option<&str>, code: u16, store: Option<u8>) -> (Verdict, Call) {
    let call = Call::new(Ticket::never_sent(IdempotencyKey::unique()));
    verdict_on(call, status, code, store)
}

fn verdict_on(call: Call, status: Option<&str>, code: u16, store: Option<u8>) -> (Verdict, Call) {
    let mut response = Response::builder().status(code);
    if let Some(status) = status {
        response = response.header("idempotency-status", status);
    }
    if let Some(byte) = store {
        let id = StoreId::from_bytes([byte; 16]);
        let line = ServingStore { id, now: None }.header_value();
        response = response.header("idempotency-store", line);
    }
    let response = response.body(Body::default()).unwrap();
    let verdict = Classification::http().classify(&call, Ok(&response));
    (verdict, call)
}

// P27, H5
#[test]
fn what_another_attempt_would_meet_again_is_never_retried() {
    for code in 200..600 {
        for status in STATUSES {
            for store in [None, Some(1)] {
                let (verdict, _) = verdict(status, code, store);
                let retried = matches!(verdict, Verdict::Retry(_));
                let at = format!("{status:?} {code} {store:?}: {verdict:?}");
                match status {
                    Some("executed" | "executed; unrecorded" | "replayed" | "attached") => {
                        assert_eq!(verdict, Verdict::Accept, "{at}");
                    }
                    Some("in-doubt") => assert_eq!(verdict, Verdict::InDoubt, "{at}"),
                    Some("mismatch" | "stale" | "unprotected") => assert!(!retried, "{at}"),
                    Some("in-progress") => assert!(retried, "{at}"),
                    _ if [400, 412, 413, 422].contains(&code) => assert!(!retried, "{at}"),
                    _ if [408, 425, 429, 502, 503, 504].contains(&code) => {
                        assert!(retried, "{at}");
                    }
                    // Only of a store that is not there any more, and only by its successor.
                    Some("not-executed") if code == 421 => assert!(retried, "{at}"),
                    Some("not-executed") if code == 500 => assert!(retried, "{at}"),
                    _ => assert!(!retried, "{at}"),
                }
            }
        }
    }
}

#[test]
fn an_answer_proves_no_more_than_it_says() {
    for (status, code, proves) in [
        (None, 503, Executed::Unknown),
        (None, 504, Executed::Unknown),
        (None, 429, Executed::NotThisAttempt),
        (Some("not-executed"), 503, Executed::NotThisAttempt),
        (Some("not-executed"), 504, Executed::NotThisAttempt),
        (Some("in-progress"), 504, Executed::Unknown),
        (Some("in-progress"), 409, Executed::Unknown),
    ] {
        let (verdict, _) = verdict(status, code, Some(1));
        let Verdict::Retry(advice) = verdict else {
            panic!("{status:?} {code}: {verdict:?}");
        };
        assert_eq!(advice.executed, proves, "{status:?} {code}");
        let only_time = (status, code) == (Some("in-progress"), 409);
        assert_eq!(advice.cost == Cost::OnlyTime, only_time, "{code}");
    }
    assert_eq!(
        verdict(None, 500, None).0,
        Verdict::Refuse(Executed::Unknown)
    );
    assert_eq!(
        verdict(Some("mismatch"), 422, None).0,
        Verdict::Refuse(Executed::NotThisAttempt)
    );
}

#[test]
fn a_status_that_is_not_known_proves_nothing_whatever_the_code() {
    for code in 200..600 {
        let (verdict, _) = verdict(Some("partly-executed"), code, None);
        let proves = match verdict {
            Verdict::Retry(advice) => advice.executed,
            Verdict::Refuse(executed) => executed,
            _ => continue,
        };
        assert_eq!(proves, Executed::Unknown, "{code}");
    }
}

#[test]
fn what_a_route_without_protection_says_of_a_store_binds_nothing() {
    assert_eq!(verdict(Some("unprotected"), 200, Some(1)).1.store(), None);
    let bound = Some(StoreId::from_bytes([1; 16]));
    assert_eq!(verdict(Some("executed"), 200, Some(1)).1.store(), bound);
}

#[test]
fn what_another_store_answers_is_no_answer_to_what_the_first_was_sent() {
    let first = StoreId::from_bytes([1; 16]);
    for (status, expected) in [
        (Some("executed"), Verdict::Refuse(Executed::Unknown)),
        (None, Verdict::Refuse(Executed::Unknown)),
        (Some("in-progress"), Verdict::Refuse(Executed::Unknown)),
        (
            Some("not-executed"),
            Verdict::Refuse(Executed::NotThisAttempt),
        ),
        // It speaks of the keys of that store alone.
        (Some("mismatch"), Verdict::Refuse(Executed::NotThisAttempt)),
    ] {
        let ticket = Ticket::never_sent(IdempotencyKey::unique()).store(first);
        let (verdict, call) = verdict_on(Call::new(ticket), status, 200, Some(2));
        assert_eq!(verdict, expected, "{status:?}");
        assert_eq!(call.store(), Some(first));
    }
}

// P27
#[tokio::test]
async fn a_refusal_is_given_as_it_came_and_is_no_answer_to_an_attempt_that_was_lost() {
    for (code, status) in [
        (400, "not-executed"),
        (409, ""),
        (412, "stale"),
        (413, "not-executed"),
        (422, "mismatch"),
        (422, ""),
    ] {
        for (name, client) in clients() {
            let peer = Peer::deduping(1).await;
            let mut lines = peer.store_line();
            if !status.is_empty() {
                lines.push_str(&format!("idempotency-status: {status}\r\n"));
            }
            let refusal = Fault::Say(answer(code, &lines, "no"));
            peer.misbehave([refusal.clone()]);
            let response = client.send(peer.post("a")).await.unwrap();
            assert_eq!(response.status(), code, "{name}");
            assert_eq!(peer.seen().len(), 1, "{name}: {code}");

            if status == "mismatch" {
                // Speaks of every attempt.
                continue;
            }
            peer.misbehave([Fault::CloseDone, refusal]);
            let error = client.send(peer.post("b")).await.unwrap_err();
            assert_eq!(error.outcome, Outcome::Unknown, "{name}: {code}");
            assert_eq!(error.stopped, Stopped::Final, "{name}: {code}");
            assert!(matches!(error.last, Last::Response(response) if response.status() == code));
        }
    }
}

// H5
#[tokio::test]
async fn waiting_for_an_answer_that_is_being_made_costs_only_time() {
    let client = quick(over_hyper())
        .with_attempts_max(NonZeroU32::new(2).unwrap())
        .build();
    let peer = Peer::deduping(1).await;
    let lines = peer.store_line();
    let lines = format!(
        "idempotency-status: in-progress\r\nretry-after: 1\r\nretry-after-ms: 5\r\n{lines}"
    );
    peer.misbehave(vec![Fault::Say(answer(409, &lines, "")); 6]);
    let response = client.send(peer.post("a")).await.unwrap();
    assert_eq!(text(response).await, "done");
    assert_eq!(peer.seen().len(), 7);
}

#[tokio::test]
async fn a_call_in_doubt_is_not_retried_and_keeps_the_answer_that_there_was() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        let lines = format!("idempotency-status: in-doubt\r\n{}", peer.store_line());
        peer.misbehave([Fault::Say(answer(500, &lines, "half done"))]);
        let error = client.send(peer.post("a")).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::InDoubt, "{name}");
        assert_eq!(peer.seen().len(), 1, "{name}");
        let Last::Response(response) = error.last else {
            panic!("it was answered");
        };
        assert_eq!(text(response).await, "half done");
    }
}

#[tokio::test]
async fn an_unprotected_answer_that_asks_for_a_retry_gets_none() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        let lines = format!("idempotency-status: unprotected\r\n{}", peer.store_line());
        peer.misbehave([Fault::Say(answer(503, &lines, ""))]);
        let error = client.send(peer.post("a")).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{name}");
        assert_eq!(peer.seen().len(), 1, "{name}");
    }
}

#[test]
fn a_conflict_without_a_status_proves_nothing_and_is_no_answer_to_an_earlier_attempt() {
    for code in [409, 412, 422] {
        for store in [None, Some(1)] {
            let (first, _) = verdict(None, code, store);
            assert_eq!(first, Verdict::Accept, "{code}");
            let before = Call::new(Ticket::new(IdempotencyKey::unique()));
            let (later, _) = verdict_on(before, None, code, store);
            assert!(matches!(later, Verdict::Refuse(_)), "{code}: {later:?}");
        }
    }
}
