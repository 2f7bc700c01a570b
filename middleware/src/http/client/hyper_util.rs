//! hyper-util's client as a transport.

use std::fmt;
use std::task::{Context, Poll};

use ::hyper_util::client::legacy::Client;
use ::hyper_util::client::legacy::connect::Connect;
use ::hyper_util::rt::TokioExecutor;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use tower_service::Service;

use super::framed::framed;
use super::{TransportError, evidence};
use crate::http::Body;

/// Sends through a client of hyper-util's. See [`hyper()`].
pub struct Hyper<C> {
    client: Client<C, Body>,
}

/// Sends through `client`.
///
/// It has to be built with `retry_canceled_requests(false)`, as [`Hyper::over`] does it: on by
/// default, it would send requests again below the attempts that are counted, budgeted and stamped
/// here. (It does so only with requests that it had not begun to write, so that it does no harm to
/// the promise.) It follows no redirect.
pub const fn hyper<C>(client: Client<C, Body>) -> Hyper<C> {
    Hyper { client }
}

// === impl Hyper ===

impl<C> Hyper<C>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    /// Sends over the connections that `connector` makes, which is where TLS comes in. All else is as
    /// hyper-util has it, but for its own retries, which are off.
    #[must_use]
    pub fn over(connector: C) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        hyper(builder.retry_canceled_requests(false).build(connector))
    }
}

impl<C> Service<Request<Body>> for Hyper<C>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    type Response = Response<Body>;
    type Error = TransportError;
    type Future = BoxFuture<'static, Result<Response<Body>, TransportError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let response = self.client.request(request.map(framed));
        Box::pin(async move {
            match response.await {
                Ok(response) => Ok(response.map(Body::stream)),
                Err(error) if evidence::not_processed(&error) => {
                    Err(TransportError::not_sent(error))
                }
                Err(error) => Err(TransportError::unknown(error)),
            }
        })
    }
}

impl<C: Clone> Clone for Hyper<C> {
    fn clone(&self) -> Self {
        hyper(self.client.clone())
    }
}

impl<C> fmt::Debug for Hyper<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hyper").finish_non_exhaustive()
    }
}
