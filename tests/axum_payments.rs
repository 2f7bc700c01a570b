//! The example `axum_payments`: what it costs to wrap a service, and what that gives.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "../examples/axum_payments/accounts.rs"]
mod accounts;
#[path = "../examples/axum_payments/books.rs"]
mod books;
#[path = "../examples/axum_payments/plain.rs"]
mod plain;
#[path = "../examples/axum_payments/wrapped.rs"]
mod wrapped;

use std::net::SocketAddr;

use axum::Router;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PLAIN: &str = include_str!("../examples/axum_payments/plain.rs");
const WRAPPED: &str = include_str!("../examples/axum_payments/wrapped.rs");

#[test]
fn wrapping_the_service_adds_five_lines_and_changes_none() {
    // What the files say of themselves aside.
    let code = |text: &'static str| text.lines().filter(|line| !line.starts_with("//!"));
    let mut added = Vec::new();
    let mut plain = code(PLAIN).peekable();
    for line in code(WRAPPED) {
        if plain.next_if_eq(&line).is_none() {
            added.push(line.trim());
        }
    }
    assert_eq!(plain.next(), None, "a line is gone; added: {added:#?}");
    println!("{}", added.join("\n"));
    assert!(added.len() <= 5, "{added:#?}");
}

#[tokio::test]
async fn a_payment_that_is_sent_twice_pays_twice_plain_and_once_wrapped() {
    let payment = r#"{"to":"bob","cents":250}"#;
    let folder = tempfile::tempdir().unwrap();
    let server = serve(plain::router(folder.path()).await.unwrap()).await;
    for _ in 0..2 {
        assert!(
            post(server, "/payments", "k", payment)
                .await
                .starts_with("HTTP/1.1 201")
        );
    }
    assert!(get(server, "/payments/count").await.ends_with("\r\n\r\n2"));

    let folder = tempfile::tempdir().unwrap();
    let server = serve(wrapped::router(folder.path()).await.unwrap()).await;
    for said in ["executed", "replayed"] {
        let reply = post(server, "/payments", "k", payment).await;
        assert!(reply.starts_with("HTTP/1.1 201"), "{reply}");
        assert!(
            reply.contains(&format!("idempotency-status: {said}\r\n")),
            "{reply}"
        );
        assert!(reply.ends_with(r#"{"number":1,"cents":250}"#), "{reply}");
    }
    assert!(get(server, "/payments/count").await.ends_with("\r\n\r\n1"));
    // A definitive refusal is replayed too; a request that cannot be parsed likewise.
    for said in ["executed", "replayed"] {
        let reply = post(server, "/payments", "zero", r#"{"to":"bob","cents":0}"#).await;
        assert!(reply.starts_with("HTTP/1.1 422"), "{reply}");
        assert!(reply.contains(said), "{reply}");
    }
}

#[tokio::test]
async fn a_transfer_that_is_sent_twice_moves_money_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(accounts::router(folder.path()).await.unwrap()).await;
    let transfer = |cents| format!(r#"{{"from":"alice","to":"bob","cents":{cents}}}"#);
    for said in ["executed", "replayed"] {
        let reply = post(server, "/transfers", "k", &transfer(250)).await;
        assert!(reply.starts_with("HTTP/1.1 204"), "{reply}");
        assert!(reply.contains(said), "{reply}");
    }
    for said in ["executed", "replayed"] {
        let reply = post(server, "/transfers", "too-much", &transfer(2_000)).await;
        assert!(reply.starts_with("HTTP/1.1 409"), "{reply}");
        assert!(reply.contains(said), "{reply}");
    }
    let to_himself = r#"{"from":"bob","to":"bob","cents":1}"#;
    post(server, "/transfers", "himself", to_himself).await;
    assert!(
        get(server, "/accounts/alice")
            .await
            .ends_with("\r\n\r\n750")
    );
    assert!(get(server, "/accounts/bob").await.ends_with("\r\n\r\n1250"));
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn post(server: SocketAddr, path: &str, key: &str, json: &str) -> String {
    let length = json.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nidempotency-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    send(server, &(head + json)).await
}

async fn get(server: SocketAddr, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    send(server, &head).await
}

async fn send(server: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(server).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).await.unwrap();
    reply
}
