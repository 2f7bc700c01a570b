//! Clients of tonic's that are safe to retry.

use std::net::SocketAddr;

use http::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use onlyonce_middleware::client::CallError;
use onlyonce_middleware::grpc::client::{self, Error, Stack, stack, tower};
use onlyonce_middleware::http::Body;
use onlyonce_middleware::http::client::{TransportError, hyper};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use crate::bank::{BankClient, TRANSFER};

pub type Transport = BoxCloneSyncService<Request<Body>, Response<Body>, TransportError>;
pub type Bank = BankClient<client::Client<Transport>>;

/// Over a channel of tonic's, as the page of [`tower`] has it.
pub fn over_channel(channel: Channel) -> Stack<Transport> {
    let channel = ServiceBuilder::new()
        .map_request(|request: Request<Body>| request.map(tonic::body::Body::new))
        .service(channel);
    let transport = tower(channel).connect_error::<tonic::ConnectError>();
    stack(BoxCloneSyncService::new(transport)).protect(TRANSFER)
}

/// Over a client of hyper-util's.
pub fn over_hyper() -> Stack<Transport> {
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .retry_canceled_requests(false)
        .build_http();
    stack(BoxCloneSyncService::new(hyper(client))).protect(TRANSFER)
}

pub fn endpoint(server: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{server}")).unwrap()
}

/// Both kinds of stacks, with the name of their transport.
pub fn both(server: SocketAddr) -> [(&'static str, Stack<Transport>); 2] {
    let channel = endpoint(server).connect_lazy();
    [("tonic", over_channel(channel)), ("hyper", over_hyper())]
}

pub fn bank(stack: Stack<Transport>, server: SocketAddr) -> Bank {
    let origin = format!("http://{server}").parse().unwrap();
    BankClient::with_origin(stack.build(), origin)
}

/// What is known of a call without an answer.
pub fn call_error(status: &Status) -> &CallError<Response<Body>, TransportError> {
    let source = std::error::Error::source(status).expect("a source");
    match source.downcast_ref() {
        Some(Error::Call(error)) => error,
        other => panic!("{other:?}"),
    }
}
