//! A small service as tonic's code generator would make it, but for the generator. It knows nothing of
//! this crate.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream;
use tonic::client::GrpcService;
use tonic::codec::CompressionEncoding;
use tonic::codegen::StdError;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{self, Uri};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Transfer {
    #[prost(string, tag = "1")]
    pub to: String,
    #[prost(uint64, tag = "2")]
    pub cents: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Receipt {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(string, tag = "2")]
    pub text: String,
}

pub const TRANSFER: &str = "/bank.Bank/Transfer";
pub const REFUND: &str = "/bank.Bank/Refund";
pub const WATCH: &str = "/bank.Bank/Watch";

/// Two unary methods, and one that streams three receipts.
#[derive(Clone)]
pub struct BankServer<F> {
    handler: F,
}

impl<F> BankServer<F> {
    pub const fn new(handler: F) -> Self {
        Self { handler }
    }
}

impl<F> NamedService for BankServer<F> {
    const NAME: &'static str = "bank.Bank";
}

impl<F, Fut, B> Service<http::Request<B>> for BankServer<F>
where
    F: Fn(Request<Transfer>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Receipt>, Status>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let handler = self.handler.clone();
        let codec = ProstCodec::<Receipt, Transfer>::default();
        let mut grpc = tonic::server::Grpc::new(codec)
            .accept_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Gzip);
        match request.uri().path() {
            TRANSFER | REFUND => Box::pin(async move {
                let method = tower::service_fn(handler);
                Ok(grpc.unary(method, request).await)
            }),
            WATCH => Box::pin(async move {
                let method = tower::service_fn(|_: Request<Transfer>| async {
                    let receipts = (1..=3).map(|number| {
                        Ok(Receipt {
                            number,
                            text: String::new(),
                        })
                    });
                    Ok::<_, Status>(Response::new(stream::iter(receipts)))
                });
                Ok(grpc.server_streaming(method, request).await)
            }),
            _ => Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) }),
        }
    }
}

pub struct BankClient<T> {
    grpc: tonic::client::Grpc<T>,
}

impl<T> BankClient<T>
where
    T: GrpcService<tonic::body::Body>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    pub fn new(inner: T) -> Self {
        Self {
            grpc: tonic::client::Grpc::new(inner),
        }
    }

    pub fn with_origin(inner: T, origin: Uri) -> Self {
        Self {
            grpc: tonic::client::Grpc::with_origin(inner, origin),
        }
    }

    pub fn compressing(mut self) -> Self {
        self.grpc = self
            .grpc
            .send_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Gzip);
        self
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.grpc.ready().await;
        ready.map_err(|error| Status::unknown(error.into().to_string()))
    }

    pub async fn transfer(
        &mut self,
        request: Request<Transfer>,
    ) -> Result<Response<Receipt>, Status> {
        self.unary(request, TRANSFER).await
    }

    pub async fn unary(
        &mut self,
        request: Request<Transfer>,
        path: &'static str,
    ) -> Result<Response<Receipt>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(path);
        self.grpc.unary(request, path, ProstCodec::default()).await
    }

    pub async fn watch(
        &mut self,
        request: Request<Transfer>,
    ) -> Result<Response<tonic::Streaming<Receipt>>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(WATCH);
        let codec = ProstCodec::default();
        self.grpc.server_streaming(request, path, codec).await
    }
}
