//! The exact bytes of a request, once an attempt.

use std::slice;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use onlyonce_middleware::client::{Outcome, Stopped};
use onlyonce_middleware::http::Body;

use crate::h2_peer::{H2Fault, H2Peer};
use crate::peer::{
    Fault, Peer, at_once, clients, over_hyper, over_hyper_h2, over_reqwest, over_reqwest_h2, quick,
};

/// A body that nobody can clone, with no word of its length, whose data come late.
fn trickling(pieces: Vec<Vec<u8>>, trailers: Option<HeaderMap>) -> Body {
    let pieces = pieces
        .into_iter()
        .map(|piece| Frame::data(Bytes::from(piece)));
    let frames: Vec<_> = pieces.chain(trailers.map(Frame::trailers)).collect();
    let frames = stream::unfold(frames.into_iter(), |mut frames| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let frame = frames.next()?;
        Some((Ok::<_, std::io::Error>(frame), frames))
    });
    Body::stream(StreamBody::new(frames))
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

const REFUSED: &str = "HTTP/1.1 503 X\r\nidempotency-status: not-executed\r\n\
                       retry-after-ms: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

// P19, P21, P23
#[tokio::test]
async fn a_body_arrives_whole_and_once_though_its_first_attempt_ended_before_it_was_read() {
    for fault in [
        Fault::CloseAtHead,
        Fault::AnswerAtHead(REFUSED),
        Fault::CloseUndone,
        Fault::CloseDone,
    ] {
        for (name, client) in clients() {
            let peer = Peer::deduping(1).await;
            peer.misbehave([fault.clone()]);
            // It fits, and has no length that anybody could know beforehand.
            let body = bytes(64 * 1024);
            let body_of = trickling(body.chunks(30_000).map(<[_]>::to_vec).collect(), None);
            let request = Request::post(peer.url("/a")).body(body_of).unwrap();
            client.send(request).await.unwrap();
            assert_eq!(peer.effects(), slice::from_ref(&body), "{name}: {fault:?}");
            let seen = peer.seen();
            assert_eq!(seen.len(), 2, "{name}: {fault:?}");
            assert_eq!(seen[1].body, body, "{name}: {fault:?}");
        }
    }
}

// P19
#[tokio::test]
async fn a_request_that_is_cut_at_any_byte_arrives_whole_the_next_time() {
    for (name, stack) in [("hyper-util", over_hyper()), ("reqwest", over_reqwest())] {
        let client = at_once(stack).build();
        let peer = Peer::deduping(1).await;
        client.send(peer.post("the body")).await.unwrap();
        // As long as a request is at least.
        for cut in 1..200 {
            // The connection that is kept does not know of the cut; the next one does.
            peer.misbehave([Fault::CloseUndone, Fault::CloseAfter(cut)]);
            client.send(peer.post("the body")).await.unwrap();
            let effects = peer.effects();
            assert_eq!(effects.len(), cut + 1, "{name}: cut at {cut}");
            assert_eq!(effects[cut], b"the body", "{name}: cut at {cut}");
        }
    }
}

// P19
#[tokio::test]
async fn a_body_arrives_whole_and_once_though_its_stream_was_refused() {
    for stack in [over_hyper_h2(), over_reqwest_h2()] {
        let client = quick(stack).build();
        for fault in [H2Fault::Refuse, H2Fault::GoAway] {
            let peer = H2Peer::start([fault]).await;
            let body = bytes(40_000);
            let body_of = trickling(vec![body.clone()], None);
            let request = Request::post(peer.url("/a")).body(body_of).unwrap();
            client.send(request).await.unwrap();
            assert_eq!(peer.effects(), [body], "{fault:?}");
        }
    }
}

// H8, P19
#[tokio::test]
async fn a_body_that_is_too_large_to_keep_is_sent_once_as_it_is() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        let body = bytes(64 * 1024 + 1);
        let pieces = || trickling(body.chunks(30_000).map(<[_]>::to_vec).collect(), None);
        let request = || Request::post(peer.url("/a")).body(pieces()).unwrap();
        client.send(request()).await.unwrap();
        assert_eq!(peer.effects(), slice::from_ref(&body), "{name}");

        peer.misbehave([Fault::CloseDone]);
        let error = client.send(request()).await.unwrap_err();
        assert_eq!(error.stopped, Stopped::OneShot, "{name}");
        assert_eq!(error.outcome, Outcome::Unknown, "{name}");
        assert_eq!(peer.effects(), [body.clone(), body.clone()], "{name}");
    }
}

// P21
#[tokio::test]
async fn a_length_that_lies_about_a_body_is_not_believed() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        peer.misbehave([Fault::CloseDone]);
        for lie in ["1", "1000000", "not a number"] {
            let mut request = peer.post("five!");
            request
                .headers_mut()
                .insert("content-length", lie.parse().unwrap());
            client.send(request).await.unwrap();
        }
        assert_eq!(peer.effects(), vec![b"five!"; 3], "{name}");
    }
}

#[tokio::test]
async fn trailers_go_with_every_attempt_and_come_with_the_answer() {
    for stack in [over_hyper_h2(), over_reqwest_h2()] {
        let client = quick(stack).build();
        let peer = H2Peer::start([H2Fault::ResetDone]).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-digest", "abc".parse().unwrap());
        let body = trickling(vec![b"a".to_vec()], Some(trailers.clone()));
        let request = Request::post(peer.url("/a")).body(body).unwrap();
        let response = client.send(request).await.unwrap();
        assert_eq!(peer.trailers(), [Some(trailers.clone()), Some(trailers)]);
        let answer = response.into_body().collect().await.unwrap();
        assert_eq!(answer.trailers().unwrap()["x-sum"], "7");
    }
}

#[tokio::test]
async fn trailers_go_over_http1_too() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        peer.misbehave([Fault::CloseDone]);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-digest", "abc".parse().unwrap());
        let request = Request::post(peer.url("/a"))
            .header("trailer", "x-digest")
            .body(trickling(vec![b"a".to_vec()], Some(trailers)))
            .unwrap();
        client.send(request).await.unwrap();
        let seen = peer.seen();
        assert_eq!(seen.len(), 2, "{name}");
        assert_eq!(seen[1].body, b"a", "{name}");
        assert_eq!(seen[1].trailers, ["x-digest: abc"], "{name}");
    }
}

#[tokio::test]
async fn a_body_that_fails_before_it_was_read_is_not_sent() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        let frames = [Ok(Frame::data(Bytes::from("ab"))), Err("disk is gone")];
        let body = Body::stream(StreamBody::new(stream::iter(frames)));
        let request = Request::post(peer.url("/a")).body(body).unwrap();
        let error = client.send(request).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::NotExecuted, "{name}");
        assert!(error.to_string().contains("disk is gone"), "{error}");
        assert!(peer.seen().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_waited_for_until_the_deadline() {
    let client = quick(over_hyper_h2())
        .with_call_timeout(Duration::from_millis(100))
        .build();
    let body = Body::stream(StreamBody::new(
        stream::pending::<Result<_, std::io::Error>>(),
    ));
    let request = Request::post("http://127.0.0.1:1/").body(body).unwrap();
    let error = client.send(request).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::NotExecuted);
    assert_eq!(error.stopped, Stopped::Deadline);
}
