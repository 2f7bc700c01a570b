//! Wrong peers get a clear error at once, and nobody waits for bytes that never come.

use std::time::Duration;

use futures_util::FutureExt;
use onlyonce::rpc::{
    BuildError, Channel, ChannelOptions, Connecting, Credential, HandshakeError, RefusalCode,
    Server, ServerOptions, TransportError,
};
use onlyonce_middleware::client::Executed;
use onlyonce_storage::Scope;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tower::ServiceExt;

use super::peers::{
    Raw, channel_to, channel_with, listener, opening, request, send, serve, server,
};

/// What a channel says of a peer that answers its hello with `bytes` and then closes.
async fn meet(bytes: &[u8]) -> HandshakeError {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let peer = async {
        let mut peer = Raw(listener.accept().await.unwrap().0);
        peer.read_opening().await;
        peer.write(bytes).await;
    };
    let (result, ()) = tokio::join!(channel.oneshot(request("m")), peer);
    handshake_error(result.unwrap_err())
}

fn handshake_error(error: TransportError) -> HandshakeError {
    assert_eq!(error.executed(), Executed::NotThisAttempt);
    match error {
        TransportError::Connect {
            source: Connecting::Handshake(error),
            ..
        } => error,
        error => panic!("{error}"),
    }
}

#[test]
fn a_server_that_does_not_say_who_callers_are_is_not_built() {
    assert_eq!(
        Server::builder().build().unwrap_err(),
        BuildError::CallersUnnamed
    );
}

#[tokio::test]
async fn an_http_client_is_told_in_http_what_this_port_speaks() {
    let (serving, _calls) = server().await;
    let body = "x".repeat(3_000_000);
    for request in [
        "GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(),
        format!("POST /rpc HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n{body}"),
        "G".to_owned(),
    ] {
        let mut client = Raw::connect(serving.local_addr()).await;
        client.write(request.as_bytes()).await;
        let mut answer = String::new();
        client.0.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{answer}"
        );
        assert!(
            answer.ends_with("This port speaks onlyonce RPC (protocol version 1), not HTTP.\n")
        );
    }
}

#[tokio::test]
async fn a_client_that_speaks_something_else_is_refused_at_its_first_wrong_byte() {
    let (serving, _calls) = server().await;
    // A TLS hello, and one of ours whose line end was translated.
    for bytes in [&b"\x16\x03\x01\x02\x00\x01"[..], b"\x89ONCE\n"] {
        let mut client = Raw::connect(serving.local_addr()).await;
        client.write(bytes).await;
        let (_, refusal) = client.read_opening().await;
        assert_eq!(refusal[..2], [3, RefusalCode::Malformed.number()]);
        assert!(client.read_rest().await.is_empty());
    }
}

#[tokio::test]
async fn a_channel_shows_the_first_words_of_a_peer_that_speaks_something_else() {
    for (bytes, shown) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"[..],
            "HTTP/1.1 400 Bad",
        ),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "SSH-2.0-OpenSSH_"),
        (b"\x00\xff\x1b[2J\n", r"\x00\xff\x1b[2J\n"),
    ] {
        let error = meet(bytes).await;
        assert!(
            matches!(&error, HandshakeError::WrongPeer { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.ends_with(&format!("it began with \"{shown}\"")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_peer_that_closes_without_a_word_is_not_a_hang() {
    assert!(matches!(meet(b"").await, HandshakeError::Closed));
    assert!(matches!(meet(b"\x89ONCE\r").await, HandshakeError::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_a_timeout_that_names_the_time() {
    let listener = listener().await;
    let begun = Instant::now();
    let channel = channel_to(listener.local_addr().unwrap());
    let error = handshake_error(channel.oneshot(request("m")).await.unwrap_err());
    assert_eq!(error.to_string(), "handshake did not end within 3.1 s");
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(3_100) && waited < Duration::from_millis(3_200));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_handshake_is_dropped_in_time() {
    let (serving, _calls) = server().await;
    for bytes in [&b""[..], b"\x89ONC", &opening(1, &[1, 0, 0, 1])[..16]] {
        let begun = Instant::now();
        let mut client = Raw::connect(serving.local_addr()).await;
        client.write(bytes).await;
        assert!(client.read_rest().await.is_empty());
        assert!(begun.elapsed() < Duration::from_millis(3_200));
    }
}

#[tokio::test]
async fn another_version_is_named_on_both_sides() {
    let error = meet(&opening(9, &[2])).await;
    assert!(
        matches!(error, HandshakeError::Version { ours: 1, theirs: 9 }),
        "{error}"
    );

    let (serving, _calls) = server().await;
    let mut client = Raw::connect(serving.local_addr()).await;
    client.write(&opening(9, &[1, 2, 3])).await;
    let (version, refusal) = client.read_opening().await;
    assert_eq!(
        (version, &refusal[..2]),
        (1, &[3, RefusalCode::Version.number()][..])
    );
    let text = String::from_utf8_lossy(&refusal);
    assert!(
        text.ends_with("client speaks protocol version 9, this server speaks version 1"),
        "{text}"
    );
}

// The shape of what follows may be another in another version, so nothing of it is looked at.
#[tokio::test]
async fn every_other_version_is_named_whatever_follows_it() {
    let (serving, _calls) = server().await;
    for version in [0, 2, 256, u16::MAX] {
        let mut hello = opening(version, &[]);
        hello[10..14].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut client = Raw::connect(serving.local_addr()).await;
        client.write(&hello).await;
        let (_, refusal) = client.read_opening().await;
        let text = String::from_utf8_lossy(&refusal);
        let both =
            format!("client speaks protocol version {version}, this server speaks version 1");
        assert!(text.ends_with(&both), "{text}");

        let error = meet(&hello).await;
        let both = format!("peer speaks protocol version {version}, this program speaks version 1");
        assert_eq!(error.to_string(), both);
    }
}

#[tokio::test]
async fn a_hello_that_cannot_be_read_is_refused() {
    let (serving, _calls) = server().await;
    let too_long = [&b"\x89ONCE\r\n\x1a\x01\x00"[..], &8193_u32.to_le_bytes()].concat();
    let mut fat = vec![1, 251, 0x01, 0x10];
    fat.resize(4 + 4097, b'x');
    fat.extend_from_slice(&[0, 0]);
    for (bytes, what) in [
        (opening(1, &[]), "it is no client's hello"),
        (opening(1, &[2, 0]), "it is no client's hello"),
        (opening(1, &[1, 9, 0]), "it is too short"),
        (
            opening(1, &[1, 0, 0, 0, 0]),
            "bytes are left over behind it",
        ),
        (opening(1, &fat), "its credential is longer than 4 KiB"),
        (too_long, "it is longer than 8 KiB"),
    ] {
        let mut client = Raw::connect(serving.local_addr()).await;
        client.write(&bytes).await;
        let (_, refusal) = client.read_opening().await;
        assert_eq!(refusal[..2], [3, RefusalCode::Malformed.number()]);
        let text = String::from_utf8_lossy(&refusal);
        assert!(text.ends_with(what), "{text}");
    }
    for bytes in [&[][..], &[1, 0], &[2, 0], &[2, 0, 0, 0, 1, 0]] {
        let error = meet(&opening(1, bytes)).await;
        assert!(matches!(error, HandshakeError::Malformed(_)), "{error}");
    }
}

#[tokio::test]
async fn a_credential_becomes_a_scope_or_a_refusal() {
    let builder = Server::builder().authenticate(|credential| match credential {
        b"alice's" => Scope::principal("alice").ok(),
        _ => None,
    });
    let (serving, mut calls) = serve(builder, listener().await);
    let address = serving.local_addr();
    let with = |credential: &'static str| {
        channel_with(address, |options| {
            options.credential = Credential::new(credential).unwrap();
        })
    };
    let _response = send(&with("alice's"), request("m")).await;
    assert_eq!(
        calls.next().await.incoming.scope,
        Scope::principal("alice").unwrap()
    );

    for channel in [
        with("mallory's"),
        Channel::new(address.to_string(), ChannelOptions::default()),
    ] {
        let error = handshake_error(channel.oneshot(request("m")).await.unwrap_err());
        assert_eq!(
            error.to_string(),
            "server refused the connection (bad credential): the credential names nobody known here"
        );
    }
}

#[tokio::test]
async fn connections_beyond_the_bound_are_refused_until_one_ends() {
    let mut options = ServerOptions::default();
    options.connections_max = 1;
    let builder = Server::builder().global_scope().options(options);
    let (serving, mut calls) = serve(builder, listener().await);
    let mut first = Raw::client(serving.local_addr()).await;
    let channel = channel_to(serving.local_addr());
    let error = channel.clone().oneshot(request("m")).await.unwrap_err();
    match handshake_error(error) {
        HandshakeError::Refused { code, text } => {
            assert_eq!(code, RefusalCode::TooManyConnections);
            assert_eq!(&*text, "the server has as many connections as it takes");
        }
        error => panic!("{error}"),
    }
    first.write_frame(&[2]).await;
    assert!(first.read_rest().await.is_empty());
    // The place is given back right after the connection is closed, not before.
    loop {
        let response = send(&channel, request("m")).await;
        tokio::select! {
            _ = calls.next() => break,
            result = response => assert!(result.is_err()),
        }
    }
}

#[tokio::test]
async fn handshakes_beyond_the_bound_are_closed_at_once() {
    let mut options = ServerOptions::default();
    options.handshakes_max = 1;
    options.handshake_timeout = Duration::from_secs(3_600);
    let builder = Server::builder().global_scope().options(options);
    let (serving, _calls) = serve(builder, listener().await);
    let silent = Raw::connect(serving.local_addr()).await;
    let mut second = Raw::connect(serving.local_addr()).await;
    assert!(second.read_rest().await.is_empty());
    drop(silent);
}

#[tokio::test]
async fn a_peer_that_floods_its_refusal_is_cut_off() {
    let (serving, _calls) = server().await;
    let mut client = Raw::connect(serving.local_addr()).await;
    client.write(b"GET / HTTP/1.1\r\n").await;
    let flood = vec![b'x'; 1 << 20];
    // Until the server has had enough, which is a failure to write.
    while tokio::io::AsyncWriteExt::write_all(&mut client.0, &flood)
        .await
        .is_ok()
    {}
    assert!(listener().await.accept().now_or_never().is_none());
}
