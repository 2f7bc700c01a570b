//! What each fault of the wire proves.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use onlyonce_middleware::client::{Executed, Outcome};
use onlyonce_middleware::http::Body;
use onlyonce_middleware::http::client::{Hyper, TransportError, hyper, reqwest};
use tokio::net::TcpListener;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use crate::h2_peer::{H2Fault, H2Peer};
use crate::peer::{Fault, Peer, clients, connector, text};

type Transport = BoxCloneSyncService<Request<Body>, http::Response<Body>, TransportError>;

fn boxed<T>(transport: T) -> Transport
where
    T: Service<Request<Body>, Response = http::Response<Body>, Error = TransportError>
        + Clone
        + Send
        + Sync
        + 'static,
    T::Future: Send + 'static,
{
    BoxCloneSyncService::new(transport)
}

fn over_http1() -> [(&'static str, Transport); 2] {
    let builder = ::reqwest::Client::builder();
    [
        ("hyper-util", boxed(Hyper::over(connector()))),
        ("reqwest", boxed(reqwest(builder).unwrap())),
    ]
}

fn over_http2() -> [(&'static str, Transport); 2] {
    let mut builder =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    builder.http2_only(true).retry_canceled_requests(false);
    let prior = ::reqwest::Client::builder().http2_prior_knowledge();
    [
        ("hyper-util", boxed(hyper(builder.build(connector())))),
        ("reqwest", boxed(reqwest(prior).unwrap())),
    ]
}

fn post(url: String) -> Request<Body> {
    Request::post(url).body("a".into()).unwrap()
}

/// What the transport says; nothing if it was answered.
async fn proven(transport: &Transport, url: String) -> Option<Executed> {
    let result = transport.clone().oneshot(post(url)).await;
    result.err().map(|error| error.executed())
}

// P25
#[tokio::test]
async fn each_fault_of_http1_proves_what_it_proves_and_no_more() {
    let unknown = Some(Executed::Unknown);
    for (fault, expected) in [
        (Fault::CloseAtHead, unknown),
        (Fault::CloseUndone, unknown),
        (Fault::CloseDone, unknown),
        (Fault::Cut(0), unknown),
        (Fault::Cut(5), unknown),
        (Fault::Cut(30), unknown),
        (Fault::Say("SSH-2.0-OpenSSH\r\n\r\n".to_owned()), unknown),
        (
            Fault::Say("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n".to_owned()),
            None,
        ),
        (Fault::None, None),
    ] {
        for (name, transport) in over_http1() {
            let peer = Peer::deduping(1).await;
            peer.misbehave([fault.clone()]);
            let proves = proven(&transport, peer.url("/")).await;
            assert_eq!(proves, expected, "{name}: {fault:?}");
        }
    }
}

// P25
#[tokio::test]
async fn a_connection_that_is_not_made_proves_that_nothing_was_sent() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    for (name, transport) in over_http1().into_iter().chain(over_http2()) {
        for url in [
            format!("http://{address}/"),
            "http://no.such.host.invalid/".to_owned(),
        ] {
            let proves = proven(&transport, url.clone()).await;
            assert_eq!(proves, Some(Executed::NotThisAttempt), "{name}: {url}");
        }
    }
}

// P25, H11
#[tokio::test]
async fn each_fault_of_http2_proves_what_it_proves_and_no_more() {
    for (fault, expected) in [
        (H2Fault::Refuse, Executed::NotThisAttempt),
        (H2Fault::GoAway, Executed::NotThisAttempt),
        (H2Fault::GoAwayWithError, Executed::Unknown),
        (H2Fault::ResetDone, Executed::Unknown),
        (H2Fault::CloseDone, Executed::Unknown),
    ] {
        for (name, transport) in over_http2() {
            let peer = H2Peer::start([fault]).await;
            let proves = proven(&transport, peer.url("/")).await;
            assert_eq!(proves, Some(expected), "{name}: {fault:?}");
        }
    }
}

// P25
#[tokio::test]
async fn a_body_that_fails_on_the_way_is_not_judged_by_what_its_own_source_met() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let http1 = over_http1().map(|(name, transport)| (name, transport, false));
    let http2 = over_http2().map(|(name, transport)| (name, transport, true));
    for (name, transport, is_h2) in http1.into_iter().chain(http2) {
        // As of a body that is fetched from elsewhere while it is sent.
        let elsewhere = transport
            .clone()
            .oneshot(post(format!("http://{address}/")));
        let elsewhere = elsewhere.await.unwrap_err();
        assert_eq!(elsewhere.executed(), Executed::NotThisAttempt, "{name}");
        let url = if is_h2 {
            H2Peer::start([]).await.url("/")
        } else {
            Peer::deduping(1).await.url("/")
        };
        let frames = [Ok(Frame::data(Bytes::from("half"))), Err(elsewhere)];
        let frames = stream::iter(frames).then(|frame| async {
            // Until the first half is on its way.
            tokio::time::sleep(Duration::from_millis(50)).await;
            frame
        });
        let request = Request::post(url).body(Body::stream(StreamBody::new(Box::pin(frames))));
        let error = transport
            .clone()
            .oneshot(request.unwrap())
            .await
            .unwrap_err();
        assert_eq!(error.executed(), Executed::Unknown, "{name}: {error:?}");
    }
}

// P25
#[tokio::test]
async fn a_timeout_of_the_client_below_is_not_a_word_of_the_server() {
    let builder = ::reqwest::Client::builder().timeout(Duration::from_millis(200));
    let transport = boxed(reqwest(builder).unwrap());
    let peer = Peer::deduping(1).await;
    peer.misbehave([Fault::Silent]);
    let proves = proven(&transport, peer.url("/")).await;
    assert_eq!(proves, Some(Executed::Unknown));
    assert_eq!(peer.effects().len(), 1);
}

// P26
#[tokio::test]
async fn a_server_that_acts_and_closes_has_one_effect_and_the_caller_one_answer() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        // The connection that the effect comes over has been used before.
        client.send(peer.post("a")).await.unwrap();
        peer.misbehave([Fault::CloseDone]);
        let response = client.send(peer.post("b")).await.unwrap();
        assert_eq!(text(response).await, "done", "{name}");
        assert_eq!(peer.effects(), [b"a", b"b"], "{name}");

        // And from one that does not dedupe no second effect is had.
        let peer = Peer::plain().await;
        client.send(peer.post("a")).await.unwrap();
        peer.misbehave([Fault::CloseDone]);
        let error = client.send(peer.post("b")).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{name}");
        assert_eq!(peer.effects().len(), 2, "{name}");
    }
}

// H11
#[tokio::test]
async fn a_client_that_retries_by_itself_sends_one_key() {
    let mut builder =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    builder.http2_only(true);
    let client = onlyonce_middleware::http::client::stack(hyper(builder.build(connector())));
    let peer = H2Peer::start([H2Fault::Refuse, H2Fault::Refuse]).await;
    client.build().send(post(peer.url("/"))).await.unwrap();
    assert_eq!(peer.effects().len(), 1);
}
