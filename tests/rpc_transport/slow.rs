//! Slow and silent peers: each is bounded in time or in memory, and nobody else waits for it.

use std::time::Duration;

use onlyonce::rpc::{Reply, Server, ServerOptions, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::peers::{Raw, channel_to, listener, opening, request, send, serve, server, soon};

#[tokio::test]
async fn a_client_that_sends_one_byte_at_a_time_is_served_like_any_other() {
    let (serving, mut calls) = server().await;
    let mut client = Raw::connect(serving.local_addr()).await;
    client.0.set_nodelay(true).unwrap();
    for byte in opening(1, &[1, 0, 0, 252, 0, 0, 0x20, 0]) {
        client.write(&[byte]).await;
    }
    assert_eq!(client.read_opening().await.1[0], 2);
    for byte in [12, 0, 0, 0, 1, 1, 1, 1, b'm', 0, 0, 1, 0, 0, 0, 0] {
        client.write(&[byte]).await;
    }
    calls.next().await.answer("");
    assert_eq!(client.read_frame().await[..3], [3, 1, 1]);
}

#[tokio::test]
async fn a_handshake_that_trickles_has_one_limit_for_all_its_bytes() {
    let mut options = ServerOptions::default();
    options.handshake_timeout = Duration::from_millis(100);
    let builder = Server::builder().global_scope().options(options);
    let (serving, _calls) = serve(builder, listener().await);
    let mut client = Raw::connect(serving.local_addr()).await;
    let (mut listen, mut speak) = client.0.split();
    // A hello of 8 KiB at a byte in five milliseconds takes forty seconds, and no pause in it is
    // as long as the limit.
    let mut hello = opening(1, &[1]);
    hello[10..14].copy_from_slice(&8192_u32.to_le_bytes());
    hello.resize(14 + 8192, 0);
    let trickle = async {
        for byte in hello {
            if speak.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = [0; 1];
    tokio::select! {
        // The end of the connection, or its reset: no word is said to who never finished.
        read = soon(listen.read(&mut answer)) => assert!(matches!(read, Ok(0) | Err(_))),
        () = trickle => {}
    }
}

#[tokio::test]
async fn half_open_peers_within_the_bound_keep_nobody_out_and_beyond_it_only_until_the_limit() {
    let mut options = ServerOptions::default();
    options.handshakes_max = 8;
    options.handshake_timeout = Duration::from_secs(1);
    let builder = Server::builder().global_scope().options(options);
    let (serving, mut calls) = serve(builder, listener().await);
    let address = serving.local_addr();
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(Raw::connect(address).await);
    }
    let channel = channel_to(address);
    let response = send(&channel, request("m")).await;
    calls.next().await.answer("served");
    assert_eq!(soon(response).await.unwrap().body, "served");

    for _ in 0..9 {
        silent.push(Raw::connect(address).await);
    }
    for mut peer in silent {
        assert!(peer.read_rest().await.is_empty());
    }
    // Every place is free again.
    for _ in 0..8 {
        Raw::client(address).await;
    }
}

#[tokio::test]
async fn calls_of_a_client_that_takes_no_replies_are_no_longer_read() {
    let mut options = ServerOptions::default();
    options.in_flight_max = 8;
    options.write_timeout = Duration::from_millis(500);
    let builder = Server::builder().global_scope().options(options);
    let (serving, mut calls) = serve(builder, listener().await);
    let mut client = Raw::client(serving.local_addr()).await;
    client.write_call(1).await;
    let mut held = calls.next().await;
    let mut taken = 1;
    // One call after the other, so that none is refused for the others in flight; each is answered
    // with a mebibyte that nobody reads.
    let chatter = async {
        for id in 2..=250 {
            client.write_call(id).await;
            let reply = Reply::new(Status::Executed, vec![0; 1 << 20]);
            // OK because the server may have left by now.
            let _ = calls.next().await.reply.send(reply);
            taken += 1;
        }
        panic!("the server took every call");
    };
    tokio::select! {
        () = soon(held.reply.closed()) => {}
        () = chatter => {}
    }
    // In flight, queued, being written, and what loopback sockets hold: a few mebibytes.
    assert!(taken <= 8 + 32 + 1 + 64, "{taken} of 250");
    println!("{taken} of 250 calls were taken");
    assert_eq!(serving.in_flight(), 0);

    // Nobody else noticed.
    let mut other = Raw::client(serving.local_addr()).await;
    other.write_call(1).await;
    calls.next().await.answer("");
    assert_eq!(other.read_frame().await[..3], [3, 1, 1]);
}
