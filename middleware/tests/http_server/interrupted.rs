//! Callers who go away, and streams that are made again.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post as route_post;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use onlyonce_middleware::http::DedupeLayer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::client::post;
use crate::kit::{Ledger, layer, serve};

/// A handler that has its effect at once and answers when it is let.
fn slow(layer: DedupeLayer) -> (Router, Ledger, Arc<Notify>, Arc<Notify>) {
    let ledger = Ledger::default();
    let (applied, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (counted, applies, goes_on) = (ledger.clone(), Arc::clone(&applied), Arc::clone(&go_on));
    let handler = async move || {
        let number = counted.apply();
        applies.notify_one();
        goes_on.notified().await;
        format!("paid #{number}")
    };
    let router = Router::new().route("/pay", route_post(handler).layer(layer));
    (router, ledger, applied, go_on)
}

// P18, B16
#[tokio::test]
async fn a_client_that_disconnects_after_the_effect_gets_the_answer_on_its_retry() {
    let (router, ledger, applied, go_on) = slow(layer());
    let server = serve(router).await;
    let pay = post("/pay", "").key("k");
    let mut socket = TcpStream::connect(server).await.unwrap();
    socket.write_all(&pay.bytes()).await.unwrap();
    applied.notified().await;
    drop(socket);
    // The retry comes while the handler runs, and waits for it.
    let retry = tokio::spawn(async move { pay.send(server).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    go_on.notify_one();
    let retry = retry.await.unwrap();
    assert_eq!((retry.said(), retry.text()), ("attached", "paid #1"));
    assert_eq!(retry.header("idempotent-replayed"), Some("true"));
    let later = post("/pay", "").key("k").send(server).await;
    assert_eq!((later.said(), later.text()), ("replayed", "paid #1"));
    assert_eq!(ledger.effects(), 1);
}

// H11
#[tokio::test]
async fn a_stream_that_is_reset_and_made_again_is_deduped() {
    let (router, ledger, applied, go_on) = slow(layer());
    let server = serve(router).await;
    let socket = TcpStream::connect(server).await.unwrap();
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = || {
        let request = Request::post("http://test/pay").header("idempotency-key", "k");
        request.body(Full::new(Bytes::new())).unwrap()
    };
    client.ready().await.unwrap();
    let mut first = Box::pin(client.send_request(request()));
    tokio::select! {
        _ = &mut first => panic!("nobody let the handler answer"),
        () = applied.notified() => {}
    }
    // RST_STREAM, after the effect.
    drop(first);
    let again = client.send_request(request());
    go_on.notify_one();
    let again = again.await.unwrap();
    let said = again.headers()["idempotency-status"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(said == "attached" || said == "replayed", "{said}");
    let body = again.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "paid #1");
    assert_eq!(ledger.effects(), 1);
}

// A1
#[tokio::test]
async fn of_64_at_once_one_is_executed_and_all_get_its_answer() {
    let (server, ledger) = crate::kit::paying(layer()).await;
    let all =
        (0..64).map(|_| tokio::spawn(async move { post("/pay", "").key("k").send(server).await }));
    let replies = futures_util::future::join_all(all).await;
    let executed = replies
        .iter()
        .filter(|reply| reply.as_ref().unwrap().said() == "executed");
    assert_eq!(executed.count(), 1);
    for reply in replies {
        assert_eq!(reply.unwrap().text(), " #1");
    }
    assert_eq!(ledger.effects(), 1);
}

/// The request is cut after each of its bytes: it is executed whole or not at all.
#[tokio::test]
async fn a_request_that_is_cut_at_any_byte_is_not_executed() {
    let (server, ledger) = crate::kit::paying(layer()).await;
    let bytes = post("/pay", "the body").key("k").bytes();
    for end in 0..bytes.len() {
        let mut socket = TcpStream::connect(server).await.unwrap();
        socket.write_all(&bytes[..end]).await.unwrap();
        socket.shutdown().await.unwrap();
        let reply = crate::client::read_reply(&mut socket).await;
        if let Some(reply) = reply {
            assert!(
                reply.code == 400 || reply.code == 408,
                "{} at {end}",
                reply.code
            );
        }
    }
    assert_eq!(ledger.effects(), 0);
    assert_eq!(
        post("/pay", "the body").key("k").send(server).await.said(),
        "executed"
    );
}

/// The answer is cut after each of its bytes: the retry gets it whole, and pays nothing more.
#[tokio::test]
async fn a_retry_after_an_answer_that_was_cut_at_any_byte_gets_all_of_it() {
    let (server, ledger) = crate::kit::paying(layer()).await;
    let mut whole = usize::MAX;
    let mut calls = 0;
    while calls < whole {
        let pay = post("/pay", "body").key(&format!("k{calls}"));
        let mut socket = TcpStream::connect(server).await.unwrap();
        socket.write_all(&pay.bytes()).await.unwrap();
        let mut read = vec![0; calls];
        socket.read_exact(&mut read).await.unwrap();
        drop(socket);
        let retry = pay.send(server).await;
        assert!(["attached", "executed", "replayed"].contains(&retry.said()));
        calls += 1;
        assert_eq!(retry.text(), format!("body #{calls}"));
        assert_eq!(ledger.effects() as usize, calls);
        whole = whole.min(retry.length - "idempotent-replayed: true\r\n".len());
    }
    assert!(calls > 100, "{calls}");
}
