//! A client whose transfers are safe to retry.

use std::net::SocketAddr;

use http::{Request, Response};
use onlyonce::grpc::client::{Client, stack, tower};
use onlyonce::http::Body;
use onlyonce::http::client::TransportError;
use tonic::transport::Endpoint;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use crate::bank::{BankClient, TRANSFER};

/// A channel of tonic's, as one type that can be named.
pub type Transport = BoxCloneSyncService<Request<Body>, Response<Body>, TransportError>;

/// Calls the bank at `server`. Nothing is sent until it is used.
///
/// # Errors
///
/// When there can be no such address.
pub fn connect(
    server: SocketAddr,
) -> Result<BankClient<Client<Transport>>, Box<dyn std::error::Error>> {
    let origin = format!("http://{server}");
    let channel = Endpoint::from_shared(origin.clone())?.connect_lazy();
    // tonic's channels take tonic's bodies.
    let channel = ServiceBuilder::new()
        .map_request(|request: Request<Body>| request.map(tonic::body::Body::new))
        .service(channel);
    let transport = tower(channel).connect_error::<tonic::ConnectError>();
    let client = stack(BoxCloneSyncService::new(transport))
        .protect(TRANSFER)
        .asking_peers()
        .build();
    Ok(BankClient::with_origin(client, origin.parse()?))
}
