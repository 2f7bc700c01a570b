//! Servers over real sockets, a ledger of effects that is independent of them, and clients.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request as HttpRequest};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use onlyonce_middleware::grpc::DedupeLayer;
use onlyonce_storage::{MemoryStore, Scope, Store};
use tokio::net::TcpListener;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::bank::{BankClient, BankServer, Receipt, TRANSFER, Transfer};

/// Counts effects.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<AtomicU32>);

impl Ledger {
    /// An effect; says how many there are now.
    pub fn apply(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn effects(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

pub fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

/// A layer over a new store in memory, with one scope for all, that protects transfers.
pub fn layer() -> DedupeLayer {
    DedupeLayer::new(memory(), Scope::global()).protect(TRANSFER)
}

/// A bank behind `layer`, until the test ends.
pub async fn serve<L, F, Fut>(layer: L, handler: F) -> SocketAddr
where
    L: tower::Layer<tonic::service::Routes> + Clone + Send + 'static,
    L::Service: tower::Service<
            HttpRequest<tonic::body::Body>,
            Response = http::Response<onlyonce_middleware::http::Body>,
            Error = std::convert::Infallible,
        > + Clone
        + Send
        + 'static,
    <L::Service as tower::Service<HttpRequest<tonic::body::Body>>>::Future: Send,
    F: Fn(Request<Transfer>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Receipt>, Status>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .layer(layer)
        .add_service(BankServer::new(handler));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

/// A bank without any layer.
pub async fn serve_plain<F, Fut>(handler: F) -> SocketAddr
where
    F: Fn(Request<Transfer>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Receipt>, Status>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(BankServer::new(handler));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

/// A handler that has an effect and answers with its number.
pub fn counting(
    ledger: &Ledger,
) -> impl Fn(Request<Transfer>) -> std::future::Ready<Result<Response<Receipt>, Status>>
+ Clone
+ Send
+ Sync
+ 'static {
    let ledger = ledger.clone();
    move |request| {
        let number = ledger.apply();
        let text = format!("{} to {}", request.get_ref().cents, request.get_ref().to);
        std::future::ready(Ok(Response::new(Receipt { number, text })))
    }
}

/// A bank behind `layer` that counts its effects and answers with their number.
pub async fn paying(layer: DedupeLayer) -> (SocketAddr, Ledger) {
    let ledger = Ledger::default();
    (serve(layer, counting(&ledger)).await, ledger)
}

/// A bank behind `layer` that has an effect and answers like this.
pub async fn answering<F>(layer: DedupeLayer, answer: F) -> (SocketAddr, Ledger)
where
    F: Fn() -> Result<Response<Receipt>, Status> + Clone + Send + Sync + 'static,
{
    let ledger = Ledger::default();
    let counted = ledger.clone();
    let handler = move |_| {
        counted.apply();
        std::future::ready(answer())
    };
    (serve(layer, handler).await, ledger)
}

/// A client of tonic's over a channel of its own.
pub async fn client(server: SocketAddr) -> BankClient<Channel> {
    BankClient::new(channel(server).await)
}

pub async fn channel(server: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{server}")).unwrap();
    endpoint.connect().await.unwrap()
}

pub fn transfer(cents: u64) -> Transfer {
    Transfer {
        to: "anna".to_owned(),
        cents,
    }
}

/// A transfer with this key in its metadata.
pub fn keyed(key: &'static str, cents: u64) -> Request<Transfer> {
    let mut request = Request::new(transfer(cents));
    let metadata = request.metadata_mut();
    metadata.insert("idempotency-key", key.parse().unwrap());
    request
}

/// What `idempotency-status` says.
pub fn said(metadata: &MetadataMap) -> &str {
    let said = metadata.get("idempotency-status");
    said.map_or("nothing", |said| said.to_str().unwrap())
}

/// A whole answer, as bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// A message in its frame.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// A request for a transfer, with this key, that can be changed.
pub fn raw(server: SocketAddr, key: &str) -> HttpRequest<Bytes> {
    let message = prost::Message::encode_to_vec(&transfer(10));
    HttpRequest::post(format!("http://{server}{TRANSFER}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("idempotency-key", key)
        .body(framed(&message).into())
        .unwrap()
}

/// Sends a request as it is.
pub async fn send(request: HttpRequest<Bytes>) -> Raw {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let response = client.request(request.map(Full::new)).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    Raw {
        code: head.status.as_u16(),
        headers: head.headers,
        trailers: body.trailers().cloned(),
        body: body.to_bytes(),
    }
}

impl Raw {
    /// One line of the metadata, at the beginning or at the end.
    pub fn line(&self, name: &str) -> Option<&str> {
        let trailer = self.trailers.as_ref().and_then(|lines| lines.get(name));
        let value = trailer.or_else(|| self.headers.get(name))?;
        Some(value.to_str().unwrap())
    }

    pub fn said(&self) -> &str {
        self.line("idempotency-status").unwrap_or("nothing")
    }

    pub fn grpc_status(&self) -> u8 {
        self.line("grpc-status").unwrap().parse().unwrap()
    }

    /// The same without what a replay says otherwise.
    pub fn without_ours(mut self) -> Self {
        for name in [
            "date",
            "idempotency-status",
            "idempotency-store",
            "idempotent-replayed",
        ] {
            self.headers.remove(name);
        }
        self
    }
}
