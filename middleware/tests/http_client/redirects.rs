//! Redirects are of a call, and not calls.

use http::{HeaderValue, Request, StatusCode};
use onlyonce_middleware::client::{Outcome, Stopped, Ticket};
use onlyonce_middleware::http::Body;
use onlyonce_middleware::http::client::{Reqwest, stack};
use onlyonce_storage::IdempotencyKey;

use crate::peer::{Fault, Peer, Seen, answer, over_hyper, over_reqwest, quick};

/// A call that is sent on by this code, and what its two requests were.
async fn sent_on(code: u16, from: &Peer, to: &Peer, location: &str) -> [Seen; 2] {
    let client = quick(over_reqwest()).build();
    from.misbehave([Fault::Say(answer(
        code,
        &format!("location: {location}\r\n"),
        "",
    ))]);
    let mut request = from.post("a");
    let secret = HeaderValue::from_static("Bearer of-anna");
    request.headers_mut().insert("authorization", secret);
    client.send(request).await.unwrap();
    let first = from.seen().remove(0);
    let second = to.seen().pop().unwrap();
    assert_eq!(to.effects(), [b"a"], "{code}");
    [first, second]
}

// H1
#[tokio::test]
async fn a_redirect_of_the_same_origin_keeps_key_method_body_and_credential() {
    for code in [307, 308] {
        let peer = Peer::deduping(1).await;
        let [first, second] = sent_on(code, &peer, &peer, "/moved").await;
        assert_eq!(second.path, "/moved");
        assert_eq!(
            (second.method.as_str(), &second.body),
            ("POST", &first.body)
        );
        for name in ["idempotency-key", "idempotency-first-sent", "authorization"] {
            assert!(first.header(name).is_some(), "{code} {name}");
            assert_eq!(first.header(name), second.header(name), "{code} {name}");
        }
    }
}

// H1
#[tokio::test]
async fn a_redirect_to_another_origin_keeps_the_key_and_not_the_credential() {
    for code in [307, 308] {
        let (from, to) = (Peer::plain().await, Peer::deduping(1).await);
        let [first, second] = sent_on(code, &from, &to, &to.url("/moved")).await;
        let key = first.header("idempotency-key");
        assert!(key.is_some());
        assert_eq!(key, second.header("idempotency-key"), "{code}");
        assert_eq!(first.header("authorization"), Some("Bearer of-anna"));
        assert_eq!(second.header("authorization"), None, "{code}");
    }
}

// H1
#[tokio::test]
async fn hyper_follows_no_redirect_and_its_caller_goes_on_with_the_same_key() {
    for code in [307, 308] {
        let (from, to) = (Peer::plain().await, Peer::deduping(1).await);
        let client = quick(over_hyper()).build();
        let location = to.url("/moved");
        let elsewhere = format!("location: {location}\r\n");
        from.misbehave([Fault::Say(answer(code, &elsewhere, ""))]);
        let ticket = Ticket::never_sent(IdempotencyKey::parse("invoice-7").unwrap());
        let mut request = from.post("a");
        request.extensions_mut().insert(ticket.clone());
        let redirect = client.send(request).await.unwrap();
        assert_eq!(redirect.status().as_u16(), code);
        // No layer has seen the call there.
        assert!(!redirect.headers().contains_key("idempotency-status"));
        assert_eq!((from.seen().len(), to.seen().len()), (1, 0));

        let location = redirect.headers()["location"].to_str().unwrap();
        let mut request = Request::post(location).body(Body::from("a")).unwrap();
        request.extensions_mut().insert(ticket);
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.headers()["idempotency-status"], "executed");
        let keys = [from.seen(), to.seen()].map(|seen| {
            let key = seen[0].header("idempotency-key").unwrap();
            key.trim_matches('"').to_owned()
        });
        assert_eq!(keys, ["invoice-7", "invoice-7"]);
        assert_eq!((from.effects().len(), to.effects().len()), (0, 1));
    }
}

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
