//! The method by tonic, as its code generator makes it of a `.proto`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use tokio::net::TcpListener;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Body, Bytes, Service, StdError, http};
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::Boxed;

/// A text.
#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, Debug)]
struct EchoServer;

#[derive(Clone, Debug)]
pub(super) struct EchoClient(tonic::client::Grpc<Channel>);

/// Serves `listener`, and connects to it.
pub(super) async fn start(listener: TcpListener, address: SocketAddr) -> EchoClient {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().add_service(EchoServer);
    tokio::spawn(server.serve_with_incoming(incoming));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = endpoint.connect().await.expect("a connection");
    EchoClient(tonic::client::Grpc::new(channel))
}

// === impl EchoClient ===

impl EchoClient {
    pub(super) async fn echo(&self, text: String) -> String {
        let mut grpc = self.0.clone();
        grpc.ready().await.expect("a connection");
        let path = PathAndQuery::from_static(ECHO);
        let codec: ProstCodec<Text, Text> = ProstCodec::default();
        let request = Request::new(Text { text });
        let answer: Response<Text> = grpc.unary(request, path, codec).await.expect("an answer");
        answer.into_inner().text
    }
}

// === impl EchoServer ===

impl NamedService for EchoServer {
    const NAME: &'static str = "bench.Echo";
}

impl<B> Service<http::Request<B>> for EchoServer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != ECHO {
            return Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) });
        }
        let method = tower::service_fn(async |request: Request<Text>| {
            Ok::<_, Status>(Response::new(request.into_inner()))
        });
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<Text, Text>::default());
        Box::pin(async move { Ok(grpc.unary(method, request).await) })
    }
}

const ECHO: &str = "/bench.Echo/Echo";
