//! Clients that do not keep to the protocol are told so and left; nobody else notices.

use std::time::Duration;

use super::peers::{Raw, channel_to, request, send, server, soon};

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told_and_left() {
    let (serving, mut calls) = server().await;
    let channel = channel_to(serving.local_addr());
    let response = send(&channel, request("honest")).await;
    let held = calls.next().await;
    for (bytes, what) in [
        (
            &[255, 255, 255, 127][..],
            "frame of 2147483647 bytes is longer than the 2097152",
        ),
        (&[0, 0, 0, 0], "frame is empty"),
        (&[1, 0, 0, 0, 77], "message kind 77 is unknown"),
        (&[5, 0, 0, 0, 3, 1, 1, 0, 0], "message kind 3 is unknown"),
        (
            &[2, 0, 0, 0, 1, 1],
            "message of kind 1 is malformed: it is too short",
        ),
        (
            &[3, 0, 0, 0, 2, 1, 1],
            "message of kind 2 is malformed: bytes are left over",
        ),
        (
            &[12, 0, 0, 0, 1, 1, 9, 1, b'm', 0, 0, 1, 0, 0, 0, 0],
            "verb 9 is unknown",
        ),
        (
            &[12, 0, 0, 0, 1, 0, 1, 1, b'm', 0, 0, 1, 0, 0, 0, 0],
            "call number 0 came after 0",
        ),
    ] {
        let mut client = Raw::client(serving.local_addr()).await;
        client.write(bytes).await;
        let go_away = client.read_frame().await;
        assert_eq!(go_away[..2], [4, 0]);
        let reason = String::from_utf8_lossy(&go_away[2..]);
        assert!(reason.contains(what), "{reason}");
        assert!(client.read_rest().await.is_empty());
    }
    held.answer("still here");
    assert_eq!(soon(response).await.unwrap().body, "still here");
}

#[tokio::test]
async fn a_number_that_does_not_rise_ends_the_connection() {
    let (serving, mut calls) = server().await;
    let mut client = Raw::client(serving.local_addr()).await;
    client.write_call(5).await;
    let mut held = calls.next().await;
    client.write_call(5).await;
    let go_away = client.read_frame().await;
    assert_eq!(go_away[..2], [4, 5]);
    soon(held.reply.closed()).await;
    assert!(client.read_rest().await.is_empty());
}

#[tokio::test]
async fn a_client_that_ends_within_a_frame_disturbs_nobody() {
    let (serving, mut calls) = server().await;
    let call = [12, 0, 0, 0, 1, 1, 1, 1, b'm', 0, 0, 1, 0, 0, 0, 0];
    for length in 1..call.len() {
        let mut client = Raw::client(serving.local_addr()).await;
        client.write(&call[..length]).await;
    }
    let channel = channel_to(serving.local_addr());
    let response = send(&channel, request("m")).await;
    let held = calls.next().await;
    assert!(held.incoming.key.is_some());
    held.answer("");
    assert!(soon(response).await.is_ok());
}

#[tokio::test]
async fn a_key_that_is_none_reaches_the_service_as_such() {
    let (serving, mut calls) = server().await;
    let mut client = Raw::client(serving.local_addr()).await;
    client
        .write_frame(&[1, 1, 1, 1, b'm', 1, 3, b'a', b' ', b'b', 0, 1, 0, 0, 0, 0])
        .await;
    let incoming = calls.next().await.incoming;
    assert!(matches!(incoming.key, Some(Err(_))), "{:?}", incoming.key);
}

#[tokio::test]
async fn a_deadline_beyond_all_time_is_none() {
    let (serving, mut calls) = server().await;
    let mut client = Raw::client(serving.local_addr()).await;
    let mut payload = vec![1, 1, 1, 1, b'm', 0, 0, 1, 1, 253];
    payload.extend_from_slice(&u64::MAX.to_le_bytes());
    payload.extend_from_slice(&[0, 0, 0]);
    client.write_frame(&payload).await;
    let held = calls.next().await;
    let far = tokio::time::Instant::now() + Duration::from_secs(1 << 30);
    assert!(held.incoming.deadline.is_none_or(|deadline| deadline > far));
}
