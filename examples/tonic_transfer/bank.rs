//! The service as tonic's code generator makes it of a `.proto`, written by hand so that this example
//! needs no `protoc`. It knows nothing of onlyonce.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::client::GrpcService;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{Body, Bytes, Service, StdError, http};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Money for somebody.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Transfer {
    /// For whom.
    #[prost(string, tag = "1")]
    pub to: String,
    /// How much.
    #[prost(uint64, tag = "2")]
    pub cents: u64,
}

/// What a transfer is answered with.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Receipt {
    /// Of the transfers of this bank, which one it was.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// What its receiver has now.
    #[prost(uint64, tag = "2")]
    pub balance: u64,
}

/// The one method.
pub const TRANSFER: &str = "/bank.Bank/Transfer";

/// What a bank does.
pub trait Bank: Clone + Send + Sync + 'static {
    /// Moves money.
    fn transfer(
        &self,
        request: Request<Transfer>,
    ) -> impl Future<Output = Result<Response<Receipt>, Status>> + Send;
}

/// A [`Bank`] as a service of tonic's.
#[derive(Clone, Debug)]
pub struct BankServer<T>(pub T);

/// Calls a [`Bank`].
#[derive(Clone, Debug)]
pub struct BankClient<T>(tonic::client::Grpc<T>);

// === impl BankServer ===

impl<T> NamedService for BankServer<T> {
    const NAME: &'static str = "bank.Bank";
}

impl<T, B> Service<http::Request<B>> for BankServer<T>
where
    T: Bank,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != TRANSFER {
            return Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) });
        }
        let bank = self.0.clone();
        let method = tower::service_fn(move |request| {
            let bank = bank.clone();
            async move { bank.transfer(request).await }
        });
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<Receipt, Transfer>::default());
        Box::pin(async move { Ok(grpc.unary(method, request).await) })
    }
}

// === impl BankClient ===

impl<T> BankClient<T>
where
    T: GrpcService<tonic::body::Body>,
    T::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    /// Calls the bank at `origin` through `inner`.
    pub fn with_origin(inner: T, origin: http::Uri) -> Self {
        Self(tonic::client::Grpc::with_origin(inner, origin))
    }

    /// Moves money.
    ///
    /// # Errors
    ///
    /// The status that the call ends with.
    pub async fn transfer(
        &mut self,
        request: Request<Transfer>,
    ) -> Result<Response<Receipt>, Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unknown(error.into().to_string()))?;
        let path = PathAndQuery::from_static(TRANSFER);
        self.0.unary(request, path, ProstCodec::default()).await
    }
}
