//! Both ends by hand: a service whose replies the test gives, and peers that speak in raw bytes,
//! written out here and not by the code under test.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use onlyonce::rpc::{
    Channel, ChannelOptions, Incoming, Reply, Request, ResponseFuture, Server, ServerBuilder,
    Serving, Stamp, Status,
};
use onlyonce_middleware::client::{Call, Ticket};
use onlyonce_storage::IdempotencyKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tower::{Service, ServiceExt, service_fn};

pub const MAGIC: &[u8; 8] = b"\x89ONCE\r\n\x1a";

/// A call that waits for the test to answer it.
pub struct Held {
    pub incoming: Incoming,
    pub reply: oneshot::Sender<Reply>,
}

/// What arrived at a server, in order.
pub struct Calls(mpsc::UnboundedReceiver<Held>);

impl Calls {
    pub async fn next(&mut self) -> Held {
        soon(self.0.recv()).await.expect("the server runs")
    }
}

impl Held {
    pub fn answer(self, body: &'static str) {
        // OK because the caller may be gone.
        let _ = self.reply.send(Reply::new(Status::Executed, body));
    }
}

pub async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A server with one scope for all, whose calls the test answers.
pub async fn server() -> (Serving, Calls) {
    serve(Server::builder().global_scope(), listener().await)
}

pub fn serve(builder: ServerBuilder, listener: TcpListener) -> (Serving, Calls) {
    let (arrived, calls) = mpsc::unbounded_channel();
    let service = service_fn(move |incoming| {
        let (reply, answer) = oneshot::channel();
        // OK because a test that does not look has dropped its end.
        let _ = arrived.send(Held { incoming, reply });
        async move {
            let nobody = || Reply::refusal(Status::NotExecuted, "the test does not answer");
            Ok::<_, Infallible>(answer.await.unwrap_or_else(|_| nobody()))
        }
    });
    let serving = builder.build().unwrap().serve(listener, service).unwrap();
    (serving, Calls(calls))
}

pub fn channel_to(address: impl std::fmt::Display) -> Channel {
    channel_with(address, |_| {})
}

pub fn channel_with(
    address: impl std::fmt::Display,
    set: impl FnOnce(&mut ChannelOptions),
) -> Channel {
    let mut options = ChannelOptions::default();
    set(&mut options);
    Channel::new(address.to_string(), options)
}

pub fn new_call() -> Arc<Call> {
    Arc::new(Call::new(Ticket::never_sent(IdempotencyKey::unique())))
}

/// The first attempt of a new call.
pub fn request(method: &str) -> Request {
    attempt(method, &new_call(), 1)
}

pub fn attempt(method: &str, call: &Arc<Call>, number: u32) -> Request {
    let number = NonZeroU32::new(number).unwrap();
    Request::new(method, "args").stamp(Stamp::new(Arc::clone(call), number))
}

/// Hands `request` over as soon as the channel is ready; the response is not waited for.
pub async fn send(channel: &Channel, request: Request) -> ResponseFuture {
    let mut channel = channel.clone();
    soon(channel.ready()).await.unwrap().call(request)
}

/// What a broken transport would keep a test waiting for in vain.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it happens within 20 s")
}

/// A peer that speaks in raw bytes.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn connect(address: impl ToString) -> Self {
        Self(TcpStream::connect(address.to_string()).await.unwrap())
    }

    /// A client that has shaken hands.
    pub async fn client(address: impl ToString) -> Self {
        let mut raw = Self::connect(address).await;
        raw.write(&opening(1, &[1, 0, 0, 252, 0, 0, 0x20, 0])).await;
        let (version, hello) = raw.read_opening().await;
        assert_eq!((version, hello[0]), (1, 2), "not welcome: {hello:?}");
        raw
    }

    /// Accepts a client, reads its hello, and welcomes it.
    pub async fn accept(listener: &TcpListener) -> Self {
        let mut raw = Self(soon(listener.accept()).await.unwrap().0);
        let (version, hello) = raw.read_opening().await;
        assert_eq!((version, hello[0]), (1, 1), "no hello: {hello:?}");
        raw.welcome().await;
        raw
    }

    /// Time 1,000 ms, no store, no session, frames of 2 MiB, 256 calls.
    pub async fn welcome(&mut self) {
        let hello = [
            2, 251, 0xe8, 0x03, 0, 0, 252, 0, 0, 0x20, 0, 251, 0x00, 0x01,
        ];
        self.write(&opening(1, &hello)).await;
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        soon(self.0.write_all(bytes)).await.unwrap();
    }

    pub async fn read_opening(&mut self) -> (u16, Vec<u8>) {
        let mut magic = [0; 8];
        soon(self.0.read_exact(&mut magic)).await.unwrap();
        assert_eq!(&magic, MAGIC);
        let version = self.0.read_u16_le().await.unwrap();
        let mut hello = vec![0; self.0.read_u32_le().await.unwrap() as usize];
        self.0.read_exact(&mut hello).await.unwrap();
        (version, hello)
    }

    pub async fn read_frame(&mut self) -> Vec<u8> {
        let mut payload = vec![0; soon(self.0.read_u32_le()).await.unwrap() as usize];
        self.0.read_exact(&mut payload).await.unwrap();
        payload
    }

    /// Reads a call without looking at more than its number, which must be below 251.
    pub async fn read_call(&mut self) -> u8 {
        let payload = self.read_frame().await;
        assert_eq!(payload[0], 1, "no call: {payload:?}");
        payload[1]
    }

    pub async fn write_frame(&mut self, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        self.write(&[&length[..], payload].concat()).await;
    }

    /// A call without a key and arguments.
    pub async fn write_call(&mut self, id: u8) {
        self.write_frame(&[1, id, 1, 1, b'm', 0, 0, 1, 0, 0, 0, 0])
            .await;
    }

    /// The reply "executed", without a body.
    pub async fn write_reply(&mut self, id: u8) {
        self.write_frame(&[3, id, 1, 0, 0]).await;
    }

    pub async fn write_go_away(&mut self, last_id: u8) {
        self.write_frame(&[4, last_id, 3, b'b', b'y', b'e']).await;
    }

    /// Everything until the peer closes. A reset counts as closed.
    pub async fn read_rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = soon(self.0.read_to_end(&mut rest)).await;
        rest
    }
}

pub fn opening(version: u16, hello: &[u8]) -> Vec<u8> {
    let length = u32::try_from(hello.len()).unwrap();
    [
        &MAGIC[..],
        &version.to_le_bytes(),
        &length.to_le_bytes(),
        hello,
    ]
    .concat()
}
