//! A network that is cut at every byte of a call.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::kit::{layer, paying, raw, send};

/// How many bytes are carried each way before everything ends.
#[derive(Clone, Copy, Debug)]
struct Room {
    to_server: usize,
    to_client: usize,
}

const ALL: usize = usize::MAX;

/// Makes one call with this key over such a network. Says whether its answer came, and how many bytes
/// went each way.
async fn call(server: SocketAddr, key: &str, room: Room) -> (bool, Room) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let network = listener.local_addr().unwrap();
    let carried = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (mut sent, mut received) = (0, 0);
        tokio::select! {
            () = carry(from_client, to_server, room.to_server, &mut sent) => {}
            () = carry(from_server, to_client, room.to_client, &mut received) => {}
        }
        Room {
            to_server: sent,
            to_client: received,
        }
    });
    let answered = {
        // One attempt and one connection.
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .retry_canceled_requests(false)
            .build_http();
        let answer = client.request(raw(network, key).map(Full::new)).await;
        match answer {
            Ok(answer) => answer.into_body().collect().await.is_ok(),
            Err(_) => false,
        }
    };
    (answered, carried.await.unwrap())
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    room: usize,
    carried: &mut usize,
) {
    let mut piece = vec![0; 4096];
    loop {
        let most = piece.len().min(room - *carried);
        if most == 0 {
            return;
        }
        let read = from.read(&mut piece[..most]).await.unwrap_or(0);
        if read == 0 || to.write_all(&piece[..read]).await.is_err() {
            return;
        }
        *carried += read;
    }
}

#[tokio::test]
async fn a_call_that_is_cut_at_any_byte_pays_at_most_once_and_its_retry_is_answered() {
    let (server, ledger) = paying(layer()).await;
    let everything = Room {
        to_server: ALL,
        to_client: ALL,
    };
    let (answered, bytes) = call(server, "whole", everything).await;
    assert!(answered);
    let requests = (0..bytes.to_server).map(|room| Room {
        to_server: room,
        ..everything
    });
    let answers = (0..bytes.to_client).map(|room| Room {
        to_client: room,
        ..everything
    });
    let (mut cuts, mut lost, mut unsent) = (0, 0, 0);
    for room in requests.chain(answers) {
        let key = format!("{}-{}", room.to_server, room.to_client);
        let before = ledger.effects();
        let (answered, _) = call(server, &key, room).await;
        let again = send(raw(server, &key)).await;
        assert_eq!(again.grpc_status(), 0, "{room:?}");
        assert_eq!(ledger.effects(), before + 1, "{room:?}");
        cuts += 1;
        match again.said() {
            "executed" => {
                assert!(!answered, "{room:?}");
                unsent += 1;
            }
            "replayed" | "attached" => lost += u32::from(!answered),
            other => panic!("{other}: {room:?}"),
        }
    }
    println!("{cuts} cuts: {unsent} before the request was there, {lost} answers lost");
    assert!(unsent > 100 && lost > 100, "{unsent} {lost}");
}
