//! Redirects are of a call, and not calls.

use http::StatusCode;
use onlyonce_middleware::client::{Outcome, Stopped};
use onlyonce_middleware::http::client::{Reqwest, stack};

use crate::peer::{Fault, Peer, answer, over_hyper, over_reqwest, quick};

// H1
#[tokio::test]
async fn the_key_is_the_same_through_redirects_and_attempts() {
    let built_elsewhere = Reqwest::from(reqwest::Client::new());
    for client in [over_reqwest(), stack(built_elsewhere)] {
        let client = quick(client).build();
        let (from, to) = (Peer::plain().await, Peer::deduping(1).await);
        from.redirect_to(to.url("/moved"));
        to.misbehave([Fault::CloseDone]);
        client.send(from.post("a")).await.unwrap();
        assert_eq!(to.effects(), [b"a"]);
        let (first, second) = (from.seen(), to.seen());
        assert_eq!((first.len(), second.len()), (2, 2));
        let key = first[0].header("idempotency-key").unwrap();
        for seen in first.iter().chain(&second) {
            assert_eq!(seen.header("idempotency-key"), Some(key));
            assert_eq!((seen.method.as_str(), &seen.body[..]), ("POST", &b"a"[..]));
        }
        assert_eq!(second[0].path, "/moved");
        // And the next call has another.
        client.send(from.post("b")).await.unwrap();
        assert_ne!(to.seen()[2].header("idempotency-key"), Some(key));
    }
}

#[tokio::test]
async fn a_redirect_that_ends_the_execution_is_the_answer() {
    let see_other = || {
        let nobody = "location: http://127.0.0.1:1/\r\n";
        Fault::Say(answer(303, nobody, ""))
    };
    for client in [over_reqwest(), over_hyper()] {
        let peer = Peer::plain().await;
        peer.misbehave([see_other()]);
        let response = quick(client).build().send(peer.post("a")).await.unwrap();
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
    }
    // A client that follows it by itself fails to connect, which proves nothing here.
    let client = quick(stack(Reqwest::from(reqwest::Client::new()))).build();
    let peer = Peer::plain().await;
    peer.misbehave([see_other()]);
    let error = client.send(peer.post("a")).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::Unknown);
    assert_eq!(error.stopped, Stopped::PeerNotKnownToDedupe);
    assert_eq!(peer.seen().len(), 1);
}
