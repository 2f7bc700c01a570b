//! How connections are lost, and what each caller is told.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use onlyonce::rpc::{
    NotSent, ProtocolError, Reply, Request, Server, ServerOptions, Status, TransportError,
};
use onlyonce_middleware::client::Executed;
use tokio::net::TcpListener;

use super::peers::{Raw, channel_to, listener, request, send, serve, server, soon};

#[tokio::test]
async fn a_channel_connects_again_after_a_server_restart() {
    let (serving, mut calls) = server().await;
    let address = serving.local_addr();
    let channel = channel_to(address);
    let response = send(&channel, request("before")).await;
    let held = calls.next().await;
    drop(serving);
    let error = soon(response).await.unwrap_err();
    assert!(matches!(error, TransportError::Lost(_)), "{error}");
    drop(held);

    // The kernel may need a moment to give the port back.
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let (_serving, mut calls) = serve(Server::builder().global_scope(), listener);
    let response = send(&channel, request("after")).await;
    calls.next().await.answer("again");
    assert_eq!(soon(response).await.unwrap().body, "again");
}

#[tokio::test]
async fn a_lost_connection_fails_all_that_were_sent_as_unknown() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let (mut peer, first) = tokio::join!(Raw::accept(&listener), send(&channel, request("a")));
    let second = send(&channel, request("b")).await;
    peer.read_call().await;
    peer.read_call().await;
    drop(peer);
    for response in [first, second] {
        let error = soon(response).await.unwrap_err();
        assert!(matches!(error, TransportError::Lost(_)), "{error}");
        assert_eq!(error.executed(), Executed::Unknown);
    }
}

#[tokio::test]
async fn a_reply_that_came_before_the_loss_counts() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let (mut peer, first) = tokio::join!(Raw::accept(&listener), send(&channel, request("a")));
    let second = send(&channel, request("b")).await;
    peer.read_call().await;
    peer.read_call().await;
    peer.write_reply(2).await;
    drop(peer);
    assert!(soon(second).await.is_ok());
    assert!(matches!(first.await, Err(TransportError::Lost(_))));
}

#[tokio::test]
async fn a_call_of_which_no_byte_was_written_was_provably_not_executed() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    // A peer that reads nothing: the sockets fill up, and later calls stay in the queue.
    let (mut peer, first) = tokio::join!(Raw::accept(&listener), large(&channel));
    let mut responses = vec![first];
    for _ in 1..MORE_THAN_SOCKETS_HOLD {
        responses.push(large(&channel).await);
    }
    // The first one begins to arrive, so it is being written.
    let mut length = [0; 4];
    tokio::io::AsyncReadExt::read_exact(&mut peer.0, &mut length)
        .await
        .unwrap();
    drop(peer);
    let errors = join_all(responses).await;
    let executed: Vec<_> = errors
        .into_iter()
        .map(|result| match result.unwrap_err() {
            error @ TransportError::Lost(_) => error.executed(),
            error @ TransportError::NotSent(NotSent::ConnectionEnded) => error.executed(),
            error => panic!("{error}"),
        })
        .collect();
    assert_eq!(executed[0], Executed::Unknown);
    assert_eq!(executed.last(), Some(&Executed::NotThisAttempt));
    let written = executed.partition_point(|executed| *executed == Executed::Unknown);
    assert!(
        executed[written..]
            .iter()
            .all(|executed| *executed == Executed::NotThisAttempt)
    );
}

#[tokio::test]
async fn a_call_that_is_dropped_before_it_is_written_never_is() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let (mut peer, first) = tokio::join!(Raw::accept(&listener), large(&channel));
    let mut responses = vec![first];
    for _ in 1..MORE_THAN_SOCKETS_HOLD {
        responses.push(large(&channel).await);
    }
    drop(responses);
    // Whatever was begun arrives whole, then the client says goodbye.
    let mut arrived = 0;
    loop {
        let payload = peer.read_frame().await;
        if payload == [2] {
            break;
        }
        assert_eq!(payload[0], 1);
        arrived += 1;
    }
    assert!(arrived < MORE_THAN_SOCKETS_HOLD, "{arrived}");
    assert!(peer.read_rest().await.is_empty());
}

#[tokio::test]
async fn an_attempt_that_is_dropped_in_silence_retires_its_connection() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let (mut old, earlier) = tokio::join!(Raw::accept(&listener), send(&channel, request("a")));
    old.read_call().await;
    let silent = send(&channel, request("b")).await;
    old.read_call().await;
    drop(silent);

    // New calls go another way.
    let (mut new, later) = tokio::join!(Raw::accept(&listener), send(&channel, request("c")));
    assert_eq!(new.read_call().await, 1);
    new.write_reply(1).await;
    assert!(soon(later).await.is_ok());

    // Those under way may finish; then the client leaves.
    old.write_reply(1).await;
    assert!(soon(earlier).await.is_ok());
    assert_eq!(old.read_frame().await, [2]);
    assert!(old.read_rest().await.is_empty());
}

#[tokio::test]
async fn an_attempt_that_is_dropped_while_the_peer_talks_does_not() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let (mut peer, slow) = tokio::join!(Raw::accept(&listener), send(&channel, request("slow")));
    let quick = send(&channel, request("quick")).await;
    peer.read_call().await;
    peer.read_call().await;
    peer.write_reply(2).await;
    assert!(soon(quick).await.is_ok());
    drop(slow);

    // The late reply is nobody's; the connection goes on.
    peer.write_reply(1).await;
    let next = send(&channel, request("next")).await;
    assert_eq!(peer.read_call().await, 3);
    peer.write_reply(3).await;
    assert!(soon(next).await.is_ok());
    assert!(listener.accept().now_or_never().is_none());
}

#[tokio::test]
async fn going_away_tells_executed_calls_from_others() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let (mut peer, taken) = tokio::join!(Raw::accept(&listener), send(&channel, request("a")));
    let refused = send(&channel, request("b")).await;
    peer.read_call().await;
    peer.read_call().await;
    peer.write_go_away(1).await;
    let error = soon(refused).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "server is going away and did not execute this attempt: bye"
    );
    assert_eq!(error.executed(), Executed::NotThisAttempt);

    let (_new, _later) = tokio::join!(Raw::accept(&listener), send(&channel, request("c")));
    peer.write_reply(1).await;
    assert!(soon(taken).await.is_ok());
    assert_eq!(peer.read_frame().await, [2]);
}

#[tokio::test]
async fn a_call_that_was_taken_and_not_answered_before_the_end_is_unknown() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let (mut peer, taken) = tokio::join!(Raw::accept(&listener), send(&channel, request("a")));
    peer.read_call().await;
    peer.write_go_away(1).await;
    drop(peer);
    let error = soon(taken).await.unwrap_err();
    assert!(matches!(error, TransportError::Lost(_)), "{error}");
}

#[tokio::test]
async fn a_channel_that_is_dropped_says_goodbye_when_its_calls_are_done() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let (mut peer, response) = tokio::join!(Raw::accept(&listener), send(&channel, request("a")));
    drop(channel);
    peer.read_call().await;
    peer.write_reply(1).await;
    assert!(soon(response).await.is_ok());
    assert_eq!(peer.read_frame().await, [2]);
    assert!(peer.read_rest().await.is_empty());
}

#[tokio::test]
async fn a_truncated_reply_is_a_lost_connection() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let (mut peer, response) = tokio::join!(Raw::accept(&listener), send(&channel, request("a")));
    peer.read_call().await;
    peer.write(&[9, 0, 0, 0, 3, 1]).await;
    drop(peer);
    let error = soon(response).await.unwrap_err();
    assert!(matches!(error, TransportError::Lost(_)), "{error}");
    assert!(error.to_string().contains("within a frame"), "{error}");
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_left_and_named() {
    let huge = [255, 255, 255, 127];
    for (bytes, what) in [
        (
            &huge[..],
            ProtocolError::FrameTooLong {
                length: 0x7fff_ffff,
                max: 2 << 20,
            },
        ),
        (&[0, 0, 0, 0], ProtocolError::FrameEmpty),
        (&[1, 0, 0, 0, 77], ProtocolError::UnknownKind { kind: 77 }),
        (
            &[5, 0, 0, 0, 3, 1, 99, 0, 0],
            ProtocolError::UnknownStatus { number: 99 },
        ),
        (
            &[5, 0, 0, 0, 3, 9, 1, 0, 0],
            ProtocolError::UnsentCall { id: 9 },
        ),
    ] {
        let listener = listener().await;
        let channel = channel_to(listener.local_addr().unwrap());
        let (mut peer, response) =
            tokio::join!(Raw::accept(&listener), send(&channel, request("a")));
        peer.read_call().await;
        peer.write(bytes).await;
        let error = soon(response).await.unwrap_err();
        assert!(
            matches!(&error, TransportError::Protocol(error) if *error == what),
            "{error}"
        );
        assert_eq!(error.executed(), Executed::Unknown);
        assert!(peer.read_rest().await.is_empty());
    }
}

#[tokio::test]
async fn a_lost_client_drops_the_futures_of_its_calls() {
    let (serving, mut calls) = server().await;
    let mut client = Raw::client(serving.local_addr()).await;
    client.write_call(1).await;
    let mut held = calls.next().await;
    drop(client);
    soon(held.reply.closed()).await;
    assert_eq!(serving.in_flight(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_listen_is_left() {
    let mut options = ServerOptions::default();
    options.write_timeout = Duration::from_millis(50);
    let builder = Server::builder().global_scope().options(options);
    let (serving, mut calls) = serve(builder, listener().await);
    let mut client = Raw::client(serving.local_addr()).await;
    client.write_call(1).await;
    let mut held = calls.next().await;
    let chatter = async {
        for id in 2..=64 {
            client.write_call(id).await;
            let reply = Reply::new(Status::Executed, vec![0; 1 << 20]);
            // OK because the server may have left by now.
            let _ = calls.next().await.reply.send(reply);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = held.reply.closed() => {}
        () = chatter => {}
    }
}

async fn large(channel: &onlyonce::rpc::Channel) -> onlyonce::rpc::ResponseFuture {
    send(channel, Request::new("large", vec![0; 1 << 20])).await
}

/// Mebibytes: loopback sockets grow to a few each.
const MORE_THAN_SOCKETS_HOLD: usize = 64;
