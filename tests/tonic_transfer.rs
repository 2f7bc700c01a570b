//! The example `tonic_transfer`: its bank and its client, also over a network that loses an answer.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "../examples/tonic_transfer/bank.rs"]
mod bank;
#[path = "../examples/tonic_transfer/client.rs"]
mod client;
#[path = "../examples/tonic_transfer/server.rs"]
mod server;
#[path = "../examples/tonic_transfer/twice.rs"]
mod twice;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use onlyonce::storage::MemoryStore;
use onlyonce::storage::{SledOptions, SledStore, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, Request};

use crate::bank::Transfer;
use crate::server::Books;

async fn bank(store: Arc<dyn Store>) -> (SocketAddr, Books) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let books = Books::default();
    tokio::spawn(server::serve(listener, store, books.clone()));
    (address, books)
}

fn to_anna(cents: u64) -> Request<Transfer> {
    let to = "anna".to_owned();
    Request::new(Transfer { to, cents })
}

#[tokio::test]
async fn the_example_sends_a_transfer_twice_and_makes_it_once() {
    let expected = [
        "receipt 1: anna has 750 cents (executed)",
        "receipt 1: anna has 750 cents (replayed)",
        "transfers made: 1",
    ];
    assert_eq!(twice::send_twice().await.unwrap(), expected);
}

#[tokio::test]
async fn a_refusal_of_the_banks_is_replayed_as_it_was() {
    let (address, books) = bank(Arc::new(MemoryStore::new())).await;
    let mut client = client::connect(address).unwrap();
    let refused = client.transfer(to_anna(0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "nothing to transfer");
    assert_eq!(books.transfers(), 0);
}

// P23
#[tokio::test]
async fn a_transfer_whose_answer_is_lost_is_made_once_and_answered() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open_async(folder.path().join("calls"), SledOptions::new()).await;
    let (address, books) = bank(Arc::new(store.unwrap())).await;
    let losing = Arc::new(AtomicBool::new(false));
    let network = network(address, Arc::clone(&losing)).await;
    let mut client = client::connect(network).unwrap();
    for number in 1..=5 {
        if number > 1 {
            losing.store(true, Ordering::SeqCst);
        }
        let answer = client.transfer(to_anna(10)).await.unwrap();
        assert_eq!(answer.get_ref().number, number);
        assert_eq!(answer.get_ref().balance, 10 * number);
        assert!(!losing.load(Ordering::SeqCst), "nothing was lost");
        assert_eq!(books.transfers(), number);
    }
}

/// A network before `server`, which ends a connection instead of passing on what the server says,
/// once after each time that it is told so.
async fn network(server: SocketAddr, losing: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(server).await.unwrap();
            let losing = Arc::clone(&losing);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let up = tokio::io::copy(&mut from_client, &mut to_server);
                let down = async {
                    let mut piece = vec![0; 4096];
                    loop {
                        let read = from_server.read(&mut piece).await.unwrap_or(0);
                        if read == 0 || losing.swap(false, Ordering::SeqCst) {
                            return;
                        }
                        if to_client.write_all(&piece[..read]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    _ = up => {}
                    () = down => {}
                }
            });
        }
    });
    address
}
