//! H12: an interrupted call leaves a number behind that is nobody's: it is not given again, and its
//! late reply is nobody else's.

use futures_util::FutureExt;
use onlyonce::rpc::{Reply, Status};

use super::peers::{Raw, channel_to, listener, request, send, server, soon};

#[tokio::test]
async fn numbers_rise_over_interrupted_calls_and_late_replies_reach_nobody_else() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let (mut peer, first) = tokio::join!(Raw::accept(&listener), send(&channel, request("m")));
    assert_eq!(peer.read_call().await, 1);
    peer.write_reply(1).await;
    soon(first).await.unwrap();
    let mut interrupted = Vec::new();
    let mut last = 1;
    for _ in 0..40 {
        let (dropped, kept) = (
            send(&channel, request("dropped")).await,
            send(&channel, request("kept")).await,
        );
        let (of_dropped, of_kept) = (peer.read_call().await, peer.read_call().await);
        assert_eq!((of_dropped, of_kept), (last + 1, last + 2));
        last = of_kept;
        // A sign of life, so that the interruption does not retire the connection.
        write_reply(&mut peer, of_kept).await;
        let reply = soon(kept).await.unwrap();
        assert_eq!(reply.body, format!("answer to {of_kept}"));
        drop(dropped);
        interrupted.push(of_dropped);
    }
    // Late replies of all of them, twice, while another call waits.
    let waiting = send(&channel, request("waiting")).await;
    let of_waiting = peer.read_call().await;
    assert_eq!(of_waiting, last + 1);
    for id in interrupted.iter().chain(&interrupted) {
        write_reply(&mut peer, *id).await;
    }
    write_reply(&mut peer, of_waiting).await;
    let reply = soon(waiting).await.unwrap();
    assert_eq!(reply.body, format!("answer to {of_waiting}"));
    assert!(listener.accept().now_or_never().is_none());
}

#[tokio::test]
async fn a_number_is_not_taken_again_after_its_call_was_answered_or_refused() {
    let (serving, mut calls) = server().await;
    for id in [4, 5] {
        let mut client = Raw::client(serving.local_addr()).await;
        client.write_call(5).await;
        calls.next().await.answer("");
        assert_eq!(
            client.read_frame().await[..3],
            [3, 5, Status::Executed.number()]
        );
        client.write_call(id).await;
        assert_eq!(client.read_frame().await[..2], [4, 5]);
        assert!(client.read_rest().await.is_empty());
    }
    // Neither of them reached the service.
    let mut client = Raw::client(serving.local_addr()).await;
    client.write_call(1).await;
    let held = calls.next().await;
    let reply = Reply::new(Status::Executed, "");
    held.reply.send(reply).unwrap();
    assert_eq!(client.read_frame().await[..2], [3, 1]);
}

/// "Executed", and an answer that names its call.
async fn write_reply(peer: &mut Raw, id: u8) {
    let body = format!("answer to {id}");
    let head = [3, id, 1, 0, u8::try_from(body.len()).unwrap()];
    peer.write_frame(&[&head[..], body.as_bytes()].concat())
        .await;
}
