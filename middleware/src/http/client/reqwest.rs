//! reqwest's client as a transport.

use std::task::{Context, Poll};

use ::reqwest::redirect::Policy;
use ::reqwest::{Client, ClientBuilder, retry};
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use tower_service::Service;

use super::framed::framed;
use super::{TransportError, evidence};
use crate::http::Body;

/// As many as reqwest follows by itself.
const REDIRECTS_MAX: usize = 10;

/// Sends through a client of reqwest's. See [`reqwest()`].
#[derive(Clone, Debug)]
pub struct Reqwest {
    client: Client,
    /// Whether the client was built here, so that a failure to connect is one of the request.
    built_here: bool,
}

/// Sends through the client that `builder` builds, with two settings changed:
///
/// * Its own retries are off. (They are of requests that were provably not processed, so they do no
///   harm to the promise; but nothing here would count them.)
/// * It follows 307 and 308 only, at most 10, which send the same request to another place: with its
///   key, and with its body where that is in memory. After 301, 302 and 303 reqwest would go on with a
///   `GET`: by then the call was executed, and its answer is that redirect.
///
/// # Errors
///
/// Those of [`ClientBuilder::build`].
pub fn reqwest(builder: ClientBuilder) -> Result<Reqwest, ::reqwest::Error> {
    let redirects = Policy::custom(|redirect| match redirect.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
            if redirect.previous().len() > REDIRECTS_MAX {
                redirect.error("too many redirects")
            } else {
                redirect.follow()
            }
        }
        _ => redirect.stop(),
    });
    let builder = builder.retry(retry::never()).redirect(redirects);
    Ok(Reqwest {
        client: builder.build()?,
        built_here: true,
    })
}

// === impl Reqwest ===

impl From<Client> for Reqwest {
    /// Sends through a client that was built elsewhere. Its requests carry their key through every
    /// redirect that it follows; but where it fails to connect nobody can tell whether that was before
    /// or after a redirect that ended the execution of the request. So **no failure of such a client
    /// proves that nothing was sent**, and towards a peer that does not dedupe none is retried.
    /// Prefer [`reqwest()`].
    fn from(client: Client) -> Self {
        Self {
            client,
            built_here: false,
        }
    }
}

impl Service<Request<Body>> for Reqwest {
    type Response = Response<Body>;
    type Error = TransportError;
    type Future = BoxFuture<'static, Result<Response<Body>, TransportError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        let request = ::reqwest::Request::try_from(request.map(body));
        Box::pin(async move {
            let request = request.map_err(TransportError::never_sent)?;
            let response = this.client.execute(request).await;
            let response = response.map_err(|error| {
                let error = error.without_url();
                if this.built_here && evidence::not_processed(&error) {
                    TransportError::not_sent(error)
                } else {
                    TransportError::unknown(error)
                }
            })?;
            Ok(Response::from(response).map(Body::stream))
        })
    }
}

/// What is in memory stays there, so that a redirect can send it again.
fn body(body: Body) -> ::reqwest::Body {
    match body.contents() {
        Some(contents) if contents.trailers.is_none() => contents.bytes.clone().into(),
        _ => ::reqwest::Body::wrap(framed(body)),
    }
}
