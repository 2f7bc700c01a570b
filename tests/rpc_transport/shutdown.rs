//! A server that goes away says which calls it took.

use std::time::Duration;

use onlyonce::rpc::{Connecting, HandshakeError, RefusalCode, Status, TransportError};
use onlyonce_middleware::client::Executed;
use tower::ServiceExt;

use super::peers::{Raw, channel_to, opening, request, send, server};

#[tokio::test]
async fn a_graceful_shutdown_answers_what_it_took_and_executes_nothing_else() {
    let (serving, mut calls) = server().await;
    let address = serving.local_addr();
    let mut client = Raw::client(address).await;
    client.write_call(1).await;
    let held = calls.next().await;
    let shutdown = tokio::spawn(serving.shutdown(Duration::from_secs(60)));

    // Which calls were taken; what comes later is refused.
    let go_away = client.read_frame().await;
    assert_eq!(go_away[..2], [4, 1]);
    client.write_call(2).await;
    let refused = client.read_frame().await;
    assert_eq!(refused[..3], [3, 2, Status::NotExecuted.number()]);
    assert!(refused.ends_with(b"shutting down"));

    held.answer("done");
    let reply = client.read_frame().await;
    assert_eq!(reply[..3], [3, 1, Status::Executed.number()]);
    assert!(client.read_rest().await.is_empty());
    drop(client);
    assert_eq!(shutdown.await.unwrap().cut_off, 0);

    let error = channel_to(address).oneshot(request("m")).await.unwrap_err();
    assert!(matches!(error, TransportError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn our_client_leaves_a_server_that_goes_away_and_gets_its_reply() {
    let (serving, mut calls) = server().await;
    let channel = channel_to(serving.local_addr());
    let response = send(&channel, request("m")).await;
    let held = calls.next().await;
    let shutdown = tokio::spawn(serving.shutdown(Duration::from_secs(60)));
    held.answer("done");
    assert_eq!(response.await.unwrap().body, "done");
    assert_eq!(shutdown.await.unwrap().cut_off, 0);
}

#[tokio::test]
async fn calls_that_take_too_long_are_cut_off_and_counted() {
    let (serving, mut calls) = server().await;
    let channel = channel_to(serving.local_addr());
    let (one, two) = (
        send(&channel, request("one")).await,
        send(&channel, request("two")).await,
    );
    let held = (calls.next().await, calls.next().await);
    assert_eq!(serving.in_flight(), 2);
    assert_eq!(serving.shutdown(Duration::ZERO).await.cut_off, 2);
    for response in [one, two] {
        let error = response.await.unwrap_err();
        assert!(matches!(error, TransportError::Lost(_)), "{error}");
        assert_eq!(error.executed(), Executed::Unknown);
    }
    drop(held);
}

#[tokio::test]
async fn a_client_that_was_shaking_hands_is_told_of_the_shutdown() {
    let (serving, _calls) = server().await;
    let address = serving.local_addr();
    let mut client = Raw::connect(address).await;
    // Connections are accepted in order: once this one is served, the other one is being shaken.
    Raw::client(address).await;
    let shutdown = tokio::spawn(serving.shutdown(Duration::from_secs(60)));
    let (version, refusal) = client.read_opening().await;
    assert_eq!((version, &refusal[..2]), (1, &[3, 3][..]));
    assert!(refusal.ends_with(b"shutting down"));
    drop(client);
    assert_eq!(shutdown.await.unwrap().cut_off, 0);
}

#[tokio::test]
async fn our_client_names_the_refusal_of_a_server_that_goes_away() {
    let listener = super::peers::listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let refuse = async {
        let mut peer = Raw(listener.accept().await.unwrap().0);
        peer.read_opening().await;
        peer.write(&opening(1, b"\x03\x03\x05later")).await;
    };
    let (result, ()) = tokio::join!(channel.oneshot(request("m")), refuse);
    match result.unwrap_err() {
        TransportError::Connect {
            source: Connecting::Handshake(HandshakeError::Refused { code, text }),
            ..
        } => {
            assert_eq!(code, RefusalCode::ShuttingDown);
            assert_eq!(&*text, "later");
        }
        error => panic!("{error}"),
    }
}
