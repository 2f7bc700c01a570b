//! Requests without effects, and destinations beside each other.

use http::Request;
use onlyonce_middleware::client::{EarnedBy, Outcome, RetryBudget, RetryBudgetOptions, Stopped};

use crate::peer::{Fault, Peer, answer, clients, over_hyper, quick, text};

#[tokio::test]
async fn a_request_without_effects_needs_no_key_and_is_repeated_to_any_peer() {
    for (name, client) in clients() {
        let peer = Peer::plain().await;
        peer.misbehave([Fault::CloseDone, Fault::CloseAtHead]);
        let request = Request::get(peer.url("/balance")).body("").unwrap();
        assert_eq!(text(client.send(request).await.unwrap()).await, "done");
        let seen = peer.seen();
        assert_eq!((seen.len(), peer.questions()), (3, 0), "{name}");
        let ours = |name: &&String| name.starts_with("idempotency");
        assert_eq!(seen[0].headers.keys().find(ours), None, "{name}");
    }
}

#[tokio::test]
async fn what_a_request_without_effects_gets_last_is_its_answer() {
    for (name, client) in clients() {
        let peer = Peer::plain().await;
        let busy = answer(503, "retry-after-ms: 1\r\n", "");
        peer.misbehave(vec![Fault::Say(busy); 3]);
        let request = Request::get(peer.url("/balance")).body("").unwrap();
        assert_eq!(client.send(request).await.unwrap().status(), 503, "{name}");
        assert_eq!(peer.seen().len(), 3, "{name}");

        peer.misbehave(vec![Fault::CloseUndone; 3]);
        let request = Request::get(peer.url("/balance")).body("").unwrap();
        let error = client.send(request).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::NotExecuted, "{name}");
    }
}

// P10
#[tokio::test]
async fn a_dead_destination_does_not_spend_what_another_has() {
    let client = quick(over_hyper())
        .with_budget(|| {
            RetryBudget::new(RetryBudgetOptions {
                earned_by: EarnedBy::SuccessfulCalls,
                retries_per_1000_calls: 0,
                reserve_per_second: 1,
            })
        })
        .build();
    let (dead, alive) = (Peer::deduping(1).await, Peer::deduping(2).await);
    dead.misbehave(vec![Fault::CloseUndone; 100]);
    let error = client.send(dead.post("a")).await.unwrap_err();
    assert_eq!(error.stopped, Stopped::Budget);
    alive.misbehave([Fault::CloseUndone]);
    client.send(alive.post("b")).await.unwrap();
    assert_eq!(alive.seen().len(), 2);
}
