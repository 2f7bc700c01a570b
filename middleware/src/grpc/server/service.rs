//! Takes gRPC requests in, and gives each caller its response.

use std::fmt;
use std::future::ready;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::Either;
use http::{Request, Response};
use onlyonce_storage::StoreError;
use tower_service::Service;

use super::adapter::GrpcAdapter;
use super::declaration::Declaring;
use crate::http::server::handler::Handler;
use crate::http::server::service::{ResponseFuture, answer_allowed};
use crate::http::{Body, BoxError};
use crate::observe::ServeSpan;
use crate::server::{self, Passed};

/// See [`DedupeLayer`](super::DedupeLayer).
///
/// It takes requests with any body, and hands them on with a [`Body`], which the routes and the
/// generated services of tonic take. What the inner service fails with where nothing was protected, or
/// while it gets ready, is handed out; a protected call that fails without a response is in doubt.
#[derive(Clone)]
pub struct Dedupe<S> {
    core: ServeSpan<server::Dedupe<Handler<Declaring<S>>, GrpcAdapter>>,
    adapter: GrpcAdapter,
}

// === impl Dedupe ===

impl<S> Dedupe<S> {
    pub(super) const fn new(
        core: ServeSpan<server::Dedupe<Handler<Declaring<S>>, GrpcAdapter>>,
        adapter: GrpcAdapter,
    ) -> Self {
        Self { core, adapter }
    }
}

impl<S, R> Dedupe<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    /// Goes on with the [journaled](super::DedupeLayer::journaled) calls of this service that stand
    /// still, now and every ten seconds or so; a call that stands still again waits twice as long each
    /// time, up to ten minutes. It never ends: spawn it beside the server, and abort it when that shuts
    /// down. What it has begun goes on then, as with a caller who goes away, and
    /// [`idle`](server::Executions::idle) waits for it.
    ///
    /// The requests go to the service that this layer wraps, as it is here. What layers further outside
    /// put into requests is missing in these, except for the [`Scope`](onlyonce_storage::Scope): see
    /// [`ByServer`](crate::http::ByServer). A server of tonic's takes the layer and not the layered
    /// service; so wrap a clone of the service for this, by the same layer.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the executions running to their ends.
    pub async fn keep_finishing_abandoned(self) {
        self.core.into_inner().keep_finishing_abandoned().await;
    }

    /// Goes on with the journaled calls of this service that stand still, in one pass over at most 1,024
    /// of them. It ends when they have, or after 30 s for each; they go on all the same. See
    /// [`keep_finishing_abandoned`](Self::keep_finishing_abandoned).
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the executions running to their ends.
    pub async fn finish_abandoned(&self) -> Result<Passed, StoreError> {
        let core = self.core.clone().into_inner();
        core.finish_abandoned().await
    }
}

impl<S> fmt::Debug for Dedupe<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dedupe")
            .field("adapter", &self.adapter)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Dedupe<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // Room in the handler is awaited where it is needed.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if let Some(told) = self.adapter.answer_question(&request) {
            return Either::Right(Box::pin(ready(Ok(told))));
        }
        let request = request.map(Body::stream);
        let adapter = self.adapter.clone();
        let hook = adapter.rules.on_replay.clone();
        answer_allowed(&mut self.core, request, hook, move |kept| {
            adapter.withhold(kept)
        })
    }
}
