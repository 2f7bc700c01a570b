//! Whoever stands between client and server and repeats bytes (a proxy that retries, a network
//! that duplicates) repeats no effect; and an interrupted call is not mistaken for the next one.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use onlyonce::middleware::client::{Call, Ticket};
use onlyonce::rpc::{Request, Serving, Stamp, Status};
use onlyonce::storage::Store;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Service, ServiceExt};

use super::shop::{PAY, Shop, Wish, channel, client, key, payment};
use super::stores::on_every_store;

on_every_store![
    // H11
    a_proxy_that_sends_a_request_again_on_another_connection_pays_once,
    // H11
    a_proxy_that_sends_a_request_twice_at_once_pays_once_and_both_get_the_answer,
    // H12
    a_call_sent_twice_on_its_own_connection_ends_it_and_pays_once,
    // H12
    an_interrupted_call_is_not_mistaken_for_the_next_one_on_its_connection,
];

async fn a_proxy_that_sends_a_request_again_on_another_connection_pays_once(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let (receipt, request) = overheard(&serving, Wish::Pay).await;
    // Byte for byte, the number of the call and of the attempt included.
    for _ in 0..3 {
        let mut again = TcpStream::connect(serving.local_addr()).await.unwrap();
        again.write_all(&request).await.unwrap();
        let reply = reply(&mut again).await;
        assert_eq!(reply[2], Status::Replayed.number(), "{reply:?}");
        assert!(reply.ends_with(&receipt), "{reply:?}");
    }
    assert_eq!((shop.seen().len(), shop.runs(), shop.paid(1)), (4, 1, 1));
}

async fn a_proxy_that_sends_a_request_twice_at_once_pays_once_and_both_get_the_answer(
    store: Arc<dyn Store>,
) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let proxy = Overhearing::of(&serving).await;
    let arguments = arguments_of(1, Wish::Hold).await;
    let first = tokio::spawn(channel(proxy.address).oneshot(attempt("order-1", &arguments)));
    shop.until_runs(1).await;
    let mut second = TcpStream::connect(serving.local_addr()).await.unwrap();
    second.write_all(&proxy.sent()).await.unwrap();
    shop.until_seen(2).await;
    shop.open_gate();
    let first = first.await.unwrap().unwrap();
    let second = reply(&mut second).await;
    assert_eq!(first.status, Status::Executed);
    assert_eq!(second[2], Status::Attached.number(), "{second:?}");
    assert!(second.ends_with(&first.body), "{second:?}");
    assert_eq!((shop.runs(), shop.paid(1)), (1, 1));
}

async fn a_call_sent_twice_on_its_own_connection_ends_it_and_pays_once(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let (_, request) = overheard(&serving, Wish::Pay).await;
    let mut connection = TcpStream::connect(serving.local_addr()).await.unwrap();
    connection.write_all(&request).await.unwrap();
    let first = reply(&mut connection).await;
    assert_eq!(first[2], Status::Replayed.number(), "{first:?}");
    connection
        .write_all(&request[OPENING_BYTES..])
        .await
        .unwrap();
    let farewell = frame(&mut connection).await;
    assert_eq!(farewell[..2], [4, 1], "{farewell:?}");
    let words = String::from_utf8_lossy(&farewell);
    assert!(words.contains("call number 1 came after 1"), "{words}");
    assert_eq!((shop.seen().len(), shop.paid(1)), (2, 1));
}

async fn an_interrupted_call_is_not_mistaken_for_the_next_one_on_its_connection(
    store: Arc<dyn Store>,
) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let hold = arguments_of(1, Wish::Hold).await;
    let pay = arguments_of(2, Wish::Pay).await;
    let mut channel = channel(serving.local_addr());
    // A call whose caller goes away while it is being executed.
    let interrupted = channel.ready().await.unwrap().call(attempt("one", &hold));
    shop.until_runs(1).await;
    drop(interrupted);
    // The next one is another call and gets its own answer.
    let next = channel.clone().oneshot(attempt("two", &pay)).await.unwrap();
    assert_eq!(next.status, Status::Executed);
    // The key of the interrupted one with the arguments of the next one is neither.
    let mixed = channel.clone().oneshot(attempt("one", &pay)).await.unwrap();
    assert_eq!(mixed.status, Status::Mismatch);
    // Its retry joins it.
    let retry = tokio::spawn(channel.clone().oneshot(attempt("one", &hold)));
    shop.until_seen(4).await;
    shop.open_gate();
    let retry = retry.await.unwrap().unwrap();
    assert!(
        matches!(retry.status, Status::Attached | Status::Replayed),
        "{retry:?}"
    );
    assert_ne!(retry.body, next.body);
    assert_eq!((shop.runs(), shop.paid(1), shop.paid(2)), (2, 1, 1));
}

/// What our client sends for an operation.
async fn arguments_of(operation: u64, wish: Wish) -> Bytes {
    let shop = Shop::new();
    shop.open_gate();
    let serving = shop.serve_unprotected().await;
    let call = payment(operation, wish);
    client(serving.local_addr())
        .call(&PAY, &call)
        .await
        .unwrap();
    shop.seen()[0].arguments.clone()
}

/// The first attempt of a call that nobody has sent before.
fn attempt(name: &str, arguments: &Bytes) -> Request {
    let call = Arc::new(Call::new(Ticket::new(key(name))));
    Request::new(PAY.name(), arguments.clone()).stamp(Stamp::new(call, NonZeroU32::MIN))
}

/// Pays once through a proxy that keeps what the client sent: the body of the reply, and the bytes.
pub async fn overheard(serving: &Serving, wish: Wish) -> (Bytes, Vec<u8>) {
    let proxy = Overhearing::of(serving).await;
    let request = attempt("order-1", &arguments_of(1, wish).await);
    let channel = channel(proxy.address);
    let reply = channel.clone().oneshot(request).await.unwrap();
    assert_eq!(reply.status, Status::Executed);
    // Before the client says goodbye.
    (reply.body, proxy.sent())
}

/// A proxy for one connection that keeps what its client sent.
struct Overhearing {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Overhearing {
    async fn of(serving: &Serving) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let overhearing = Self {
            address: listener.local_addr().unwrap(),
            sent: Arc::default(),
        };
        let (upstream, sent) = (serving.local_addr(), Arc::clone(&overhearing.sent));
        tokio::spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let server = TcpStream::connect(upstream).await.unwrap();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let mut buffer = [0; 4096];
            // OK because either end may close first.
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                sent.lock().extend_from_slice(&buffer[..count]);
                if to_server.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        });
        overhearing
    }

    fn sent(&self) -> Vec<u8> {
        self.sent.lock().clone()
    }
}

/// The reply behind the server's opening.
async fn reply(connection: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 14];
    connection.read_exact(&mut head).await.unwrap();
    let mut welcome = vec![0; usize::from(head[10])];
    connection.read_exact(&mut welcome).await.unwrap();
    assert_eq!(welcome[0], 2, "not welcome: {welcome:?}");
    frame(connection).await
}

async fn frame(connection: &mut TcpStream) -> Vec<u8> {
    let mut payload = vec![0; connection.read_u32_le().await.unwrap() as usize];
    connection.read_exact(&mut payload).await.unwrap();
    payload
}

/// Magic bytes, version, length, and the hello of a client without credential and session.
const OPENING_BYTES: usize = 14 + 8;
