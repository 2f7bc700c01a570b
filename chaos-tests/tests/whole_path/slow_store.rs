//! G2: a store that takes its time costs each call its deadline and no more, nothing piles up
//! without a bound, and a claim that comes too late executes nothing.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onlyonce::middleware::client::{Call, Ticket};
use onlyonce::middleware::server::DedupeOptions;
use onlyonce::rpc::{Reply, Request, Server, ServerOptions, Stamp, Status, Verb};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::ServiceExt;

use super::shop::{PAY, Shop, Wish, channel, client, key, payment};
use super::stores::Stalled;

#[tokio::test]
async fn a_claim_that_comes_after_the_deadline_executes_nothing_and_frees_the_key() {
    let (shop, store) = (Shop::new(), Stalled::new());
    let serving = shop.serve(store.clone()).await;
    let arguments = arguments().await;
    let channel = channel(serving.local_addr());
    let call = call("order-1");
    let soon = attempt(&call, &arguments, Some(Duration::from_millis(300)));
    let late = channel.clone().oneshot(soon).await.unwrap();
    assert_eq!(late.status, Status::DeadlineNotExecuted);

    store.go_on();
    store.until_idle().await;
    assert_eq!((shop.runs(), shop.paid(1)), (0, 0));
    let again = channel.oneshot(attempt(&call, &arguments, None)).await;
    assert_eq!(again.unwrap().status, Status::Executed);
    assert_eq!((shop.runs(), shop.paid(1)), (1, 1));
}

#[tokio::test]
async fn a_question_is_answered_by_its_deadline_also_where_the_store_is_not() {
    let (shop, store) = (Shop::new(), Stalled::new());
    let serving = shop.serve(store.clone()).await;
    let channel = channel(serving.local_addr());
    for verb in [Verb::Peek, Verb::Seal] {
        let question = attempt(&call("k"), &Bytes::new(), Some(Duration::from_millis(300)));
        let reply = channel.clone().oneshot(question.verb(verb)).await.unwrap();
        assert_eq!(reply.status, Status::Unavailable, "{verb:?}: {reply:?}");
        assert!(reply.retry_after.is_some());
    }
    assert_eq!(serving.in_flight(), 0);
}

#[tokio::test]
async fn calls_that_wait_for_the_store_fill_their_connection_and_the_next_is_unavailable() {
    let (shop, store) = (Shop::new(), Stalled::new());
    let mut options = ServerOptions::default();
    options.in_flight_max = 4;
    let builder = Server::builder().global_scope().options(options);
    let serving = shop
        .serve_with(builder, store.clone(), DedupeOptions::default())
        .await;
    let arguments = arguments().await;
    let channel = channel(serving.local_addr());
    let waiting: Vec<_> = (0..4)
        .map(|number| {
            let request = attempt(&call(&format!("order-{number}")), &arguments, None);
            tokio::spawn(channel.clone().oneshot(request))
        })
        .collect();
    store.until_asked(4).await;
    // Our client waits for a permit; a client that does not is refused.
    let mut other = RawClient::new(serving.local_addr()).await;
    for id in 1..=4 {
        other
            .write_call(id, &format!("other-{id}"), &arguments)
            .await;
    }
    store.until_asked(8).await;
    other.write_call(5, "other-5", &arguments).await;
    let refused = other.read_frame().await;
    assert_eq!(refused[..3], [3, 5, Status::Unavailable.number()]);
    assert_eq!((store.asked(), serving.in_flight()), (8, 8));

    store.go_on();
    for reply in waiting {
        assert_eq!(reply.await.unwrap().unwrap().status, Status::Executed);
    }
    for _ in 1..=4 {
        assert_eq!(other.read_frame().await[2], Status::Executed.number());
    }
    assert_eq!(shop.runs(), 8);
}

#[tokio::test]
async fn a_server_that_has_as_many_calls_as_it_may_refuses_the_next_as_not_executed() {
    let (shop, store) = (Shop::new(), Stalled::new());
    let mut options = DedupeOptions::default();
    options.flights_max = 2;
    let builder = Server::builder().global_scope();
    let serving = shop.serve_with(builder, store.clone(), options).await;
    let arguments = arguments().await;
    let channel = channel(serving.local_addr());
    let send = |name: &str| -> tokio::task::JoinHandle<Result<Reply, _>> {
        tokio::spawn(
            channel
                .clone()
                .oneshot(attempt(&call(name), &arguments, None)),
        )
    };
    let waiting = [send("order-1"), send("order-2")];
    store.until_asked(2).await;
    let refused = send("order-3").await.unwrap().unwrap();
    assert_eq!(refused.status, Status::Unavailable, "{refused:?}");
    assert!(refused.retry_after.is_some());
    assert_eq!(store.asked(), 2);

    store.go_on();
    for reply in waiting {
        assert_eq!(reply.await.unwrap().unwrap().status, Status::Executed);
    }
    assert_eq!(
        send("order-3").await.unwrap().unwrap().status,
        Status::Executed
    );
    assert_eq!(shop.runs(), 3);
}

#[tokio::test]
async fn a_store_that_stalls_after_the_effect_leaves_the_call_in_progress_and_tells_nobody() {
    let (shop, store) = (Shop::new(), Stalled::new());
    let serving = shop.serve(store.clone()).await;
    let arguments = arguments().await;
    let channel = channel(serving.local_addr());
    let call = call("order-1");
    store.go_on();
    store.stall_completions();
    let soon = || attempt(&call, &arguments, Some(Duration::from_millis(300)));
    // The effect happened, and its record is not durable: nobody is told the answer.
    for _ in 0..3 {
        let reply = channel.clone().oneshot(soon()).await.unwrap();
        let waiting = [Status::DeadlineInProgress, Status::InProgress];
        assert!(waiting.contains(&reply.status), "{reply:?}");
    }
    assert_eq!((shop.runs(), shop.paid(1)), (1, 1));
    store.go_on();
    let reply = channel
        .oneshot(attempt(&call, &arguments, None))
        .await
        .unwrap();
    assert!(
        matches!(reply.status, Status::Attached | Status::Replayed),
        "{reply:?}"
    );
    assert_eq!((shop.runs(), shop.paid(1)), (1, 1));
}

/// A client that sends as many calls as it likes.
struct RawClient(TcpStream);

impl RawClient {
    async fn new(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let hello = b"\x89ONCE\r\n\x1a\x01\x00\x08\x00\x00\x00\x01\x00\x00\xfc\x00\x00\x20\x00";
        stream.write_all(hello).await.unwrap();
        let mut head = [0; 14];
        stream.read_exact(&mut head).await.unwrap();
        let mut welcome = vec![0; usize::from(head[10])];
        stream.read_exact(&mut welcome).await.unwrap();
        Self(stream)
    }

    async fn write_call(&mut self, id: u8, key: &str, arguments: &[u8]) {
        let method = PAY.name();
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let length = u8::try_from(arguments.len()).unwrap();
        let payload = [
            &[1, id, 1][..],
            &text(method),
            &[1],
            &text(key),
            &[0, 1, 0, 0, 0, length],
            arguments,
        ]
        .concat();
        let frame = u32::try_from(payload.len()).unwrap().to_le_bytes();
        let frame = [&frame[..], &payload].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    async fn read_frame(&mut self) -> Vec<u8> {
        let mut payload = vec![0; self.0.read_u32_le().await.unwrap() as usize];
        self.0.read_exact(&mut payload).await.unwrap();
        payload
    }
}

fn call(name: &str) -> Arc<Call> {
    Arc::new(Call::new(Ticket::new(key(name))))
}

fn attempt(call: &Arc<Call>, arguments: &Bytes, within: Option<Duration>) -> Request {
    let stamp = Stamp::new(Arc::clone(call), NonZeroU32::MIN);
    let deadline = within.map(|within| Instant::now() + within);
    Request::new(PAY.name(), arguments.clone()).stamp(stamp.deadline(deadline))
}

/// What our client sends for a payment.
async fn arguments() -> Bytes {
    let shop = Shop::new();
    let serving = shop.serve_unprotected().await;
    let pay = payment(1, Wish::Pay);
    client(serving.local_addr()).call(&PAY, &pay).await.unwrap();
    shop.seen()[0].arguments.clone()
}
