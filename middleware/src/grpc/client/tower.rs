//! A tower service, such as a channel of tonic's, as a transport.

use std::error::Error;
use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use tower_service::Service;

use crate::http::client::{TransportError, evidence};
use crate::http::{Body, BoxError};

/// Sends through a tower service. See [`tower()`].
#[derive(Clone)]
pub struct Tower<T> {
    service: T,
    judge: Judge,
}

/// Says what an error proves.
#[derive(Clone)]
struct Judge {
    connect_errors: Vec<fn(&(dyn Error + 'static)) -> bool>,
}

/// Sends through `service`.
///
/// It must not retry by itself. Of its errors those prove that nothing was processed in which hyper,
/// hyper-util or h2 says so; where it has a type of its own for a connection that could not be made, say
/// so by [`connect_error`](Tower::connect_error). Every other error leaves the outcome open: also a
/// timeout of its own, which tonic gives out as `CANCELLED`.
///
/// ```
/// use http::Request;
/// use onlyonce_middleware::grpc::client::{stack, tower};
/// use onlyonce_middleware::http::Body;
/// use tonic::transport::Channel;
/// use tower::ServiceBuilder;
///
/// fn safe_to_retry(channel: Channel) -> impl Clone {
///     // tonic's channels take tonic's bodies.
///     let channel = ServiceBuilder::new()
///         .map_request(|request: Request<Body>| request.map(tonic::body::Body::new))
///         .service(channel);
///     stack(tower(channel).connect_error::<tonic::ConnectError>())
///         .protect("/bank.Bank/Transfer")
///         .build()
/// }
/// ```
pub const fn tower<T>(service: T) -> Tower<T> {
    Tower {
        service,
        judge: Judge {
            connect_errors: Vec::new(),
        },
    }
}

// === impl Tower ===

impl<T> Tower<T> {
    /// An error of type `E`, by itself or among the sources of another, proves that no connection was
    /// made.
    #[must_use]
    pub fn connect_error<E: Error + 'static>(mut self) -> Self {
        self.judge.connect_errors.push(<dyn Error>::is::<E>);
        self
    }
}

impl<T, R> Service<Request<Body>> for Tower<T>
where
    T: Service<Request<Body>, Response = Response<R>>,
    T::Error: Into<BoxError>,
    T::Future: Send + 'static,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = TransportError;
    type Future = BoxFuture<'static, Result<Response<Body>, TransportError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let ready = self.service.poll_ready(cx);
        ready.map_err(|error| self.judge.judge(error.into()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let response = self.service.call(request);
        let judge = self.judge.clone();
        Box::pin(async move {
            match response.await {
                Ok(response) => Ok(response.map(Body::stream)),
                Err(error) => Err(judge.judge(error.into())),
            }
        })
    }
}

impl<T> fmt::Debug for Tower<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tower").finish_non_exhaustive()
    }
}

// === impl Judge ===

impl Judge {
    fn judge(&self, error: BoxError) -> TransportError {
        let mut next: Option<&(dyn Error + 'static)> = Some(&*error);
        while let Some(error) = next {
            if self.connect_errors.iter().any(|is_it| is_it(error)) {
                break;
            }
            next = error.source();
        }
        if next.is_some() || evidence::not_processed(&*error) {
            TransportError::not_sent(error)
        } else {
            TransportError::unknown(error)
        }
    }
}
