//! The example `reqwest_client`, against a server in this process that loses answers.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it unwraps, and its server with it"
)]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "../examples/reqwest_client.rs"]
mod reqwest_client;

use reqwest_client::{Payment, client, pay};

const STORE: &str =
    "idempotency-store: \"01010101-0101-0101-0101-010101010101\"; now=1763740800000\r\n";

/// Pays once for each key, and loses every other answer.
async fn bank(payments: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/payments", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut keys, mut answers) = (HashSet::new(), 0);
        while let Ok((mut socket, _)) = listener.accept().await {
            while let Some((head, _body)) = request(&mut socket).await {
                let line = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
                if head.starts_with("options ") {
                    say(&mut socket, "", "").await;
                    continue;
                }
                let fresh = keys.insert(line("idempotency-key: ").unwrap().to_owned());
                payments.fetch_add(usize::from(fresh), Ordering::SeqCst);
                answers += 1;
                if answers % 2 == 1 {
                    break;
                }
                let status = if fresh { "executed" } else { "replayed" };
                let status = format!("idempotency-status: {status}\r\n");
                say(&mut socket, &status, "receipt 1").await;
            }
        }
    });
    url
}

async fn say(socket: &mut TcpStream, headers: &str, body: &str) {
    let length = body.len();
    let said = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{STORE}{headers}\r\n{body}");
    socket.write_all(said.as_bytes()).await.unwrap();
}

async fn request(socket: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec())
                .unwrap()
                .to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let whole = end + 4 + length.map_or(0, |length| length.parse().unwrap());
            if bytes.len() >= whole {
                return Some((head, bytes.split_off(end + 4)));
            }
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn an_invoice_is_paid_once_however_often_its_answer_is_lost_and_it_is_paid_again() {
    let payments = Arc::new(AtomicUsize::new(0));
    let url = bank(Arc::clone(&payments)).await;
    // As after a restart: a new client each time.
    for _ in 0..2 {
        let paid = pay(&client().unwrap(), &url, "invoice-17", 25)
            .await
            .unwrap();
        let receipt = "receipt 1".to_owned();
        let replayed = true;
        assert_eq!(paid, Payment::Made { receipt, replayed });
    }
    assert_eq!(payments.load(Ordering::SeqCst), 1);
}
