//! A proxy of hyper's server and its pooled client, which does nothing but pass on: what any proxy
//! of hyper costs.

use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

type Body = http_body_util::combinators::BoxBody<bytes::Bytes, hyper::Error>;

/// Listens on a port of its own.
pub(super) async fn start(upstream: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a socket option");
            let client = client.clone();
            let service = service_fn(move |request| pass(client.clone(), upstream, request));
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // OK because a client that goes away ends its connection with an error.
            tokio::spawn(async move { drop(served.await) });
        }
    });
    address
}

async fn pass(
    client: Client<HttpConnector, Incoming>,
    upstream: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path_and_query();
    let path = path.map_or("/", |path| path.as_str());
    let uri: Uri = format!("http://{upstream}{path}")
        .parse()
        .expect("an address");
    *request.uri_mut() = uri;
    Ok(match client.request(request).await {
        Ok(answer) => answer.map(BodyExt::boxed),
        Err(_) => {
            let nothing = Full::default().map_err(|never| match never {}).boxed();
            let mut answer = Response::new(nothing);
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
        }
    })
}
