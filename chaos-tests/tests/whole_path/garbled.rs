//! A conversation that is garbled on the way, in every place: it ends, and nobody else notices.

use std::sync::Arc;
use std::time::Duration;

use onlyonce::fuzzing::neighbours;
use onlyonce_storage::MemoryStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::repeated_below::overheard;
use super::shop::{PAY, Shop, Wish, client, payment};

#[tokio::test]
async fn every_conversation_that_is_garbled_somewhere_ends_and_the_server_serves_on() {
    let shop = Shop::new();
    let serving = shop.serve(Arc::new(MemoryStore::new())).await;
    let (_, conversation) = overheard(&serving, Wish::Pay).await;
    let mut garbled = Vec::new();
    neighbours(&conversation, |bytes| garbled.push(bytes.to_vec()));
    let runs_before = shop.runs();
    for bytes in &garbled {
        let mut stream = TcpStream::connect(serving.local_addr()).await.unwrap();
        // OK because a server that has heard enough may be gone before all is said.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let ended = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "it hangs: {}", bytes.escape_ascii());
    }
    // Some of them are calls, with other keys and arguments; all of them have ended.
    assert!(shop.runs() > runs_before);
    let calls = payment(9, Wish::Pay);
    let receipt = client(serving.local_addr()).call(&PAY, &calls).await;
    assert!(receipt.is_ok(), "{receipt:?}");
    assert_eq!(shop.paid(9), 1);
    println!("{} garbled conversations", garbled.len());
}
