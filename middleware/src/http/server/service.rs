//! Takes HTTP requests in, and gives each caller its response.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::TryFutureExt;
use futures_util::future::{Either, MapErr};
use http::{HeaderMap, Request, Response};
use onlyonce_storage::StoreError;
use tower_service::Service;
use tracing::instrument::Instrumented;

use super::adapter::HttpAdapter;
use super::handler::{Failure, FromRecord, Handler};
use super::rules::OnReplay;
use crate::http::{Body, BoxError};
use crate::observe::ServeSpan;
use crate::server::{self, Passed};

/// See [`DedupeLayer`](super::DedupeLayer).
///
/// It takes requests with any body, and hands them on with a [`Body`]: axum's routers and hyper's
/// services of any body fit in it. What the inner service fails with where nothing was protected, or
/// while it gets ready, is handed out; a protected call that fails without a response is in doubt.
#[derive(Clone)]
pub struct Dedupe<S> {
    core: ServeSpan<server::Dedupe<Handler<S>, HttpAdapter>>,
    adapter: HttpAdapter,
}

/// What [`Dedupe`] answers with, later.
///
/// Dropping it leaves an execution that has begun running to its end.
pub type ResponseFuture<E> = Either<Answering<E>, Shown<E>>;

/// An answer that is handed out as it is.
type Answering<E> = MapErr<Instrumented<Answer>, fn(Failure) -> E>;

type Answer = server::dedupe::ResponseFuture<Response<Body>, Failure>;

/// An answer that is handed out if its caller may see it.
type Shown<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

// === impl Dedupe ===

impl<S> Dedupe<S> {
    pub(super) const fn new(
        core: ServeSpan<server::Dedupe<Handler<S>, HttpAdapter>>,
        adapter: HttpAdapter,
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
    /// The requests go to the service that this layer wraps, as it is here. So wrap a whole router, which
    /// finds the handlers by their addresses, and not one route of it; and say `journaled` of the layer
    /// that wraps it. What layers further outside put into requests is missing in these, except for the
    /// [`Scope`](onlyonce_storage::Scope): see [`ByServer`](super::ByServer).
    ///
    /// ```
    /// # #[cfg(feature = "axum")]
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// use std::sync::Arc;
    /// use axum::{Router, routing::post};
    /// use onlyonce_middleware::http::DedupeLayer;
    /// use onlyonce_middleware::http::axum::{Interrupted, Steps};
    /// use onlyonce_storage::{MemoryStore, Scope};
    /// use tower::Layer;
    ///
    /// async fn place(Steps(steps): Steps, order: String) -> Result<String, Interrupted> {
    ///     let receipt = steps.run_keyed("charge", async |run| {
    ///         // Ask the bank, with `run.key`.
    ///         Ok(format!("receipt of {order}").into())
    ///     });
    ///     Ok(String::from_utf8_lossy(&receipt.await?).into_owned())
    /// }
    ///
    /// let dedupe = DedupeLayer::new(Arc::new(MemoryStore::new()), Scope::global());
    /// let orders = Router::new().route("/orders/{id}", post(place));
    /// let orders = dedupe.clone().journaled("orders")?.layer(orders);
    /// let finishing = tokio::spawn(orders.clone().keep_finishing_abandoned());
    ///
    /// let app: Router = Router::new().route_service("/orders/{id}", orders);
    /// // Serve `app`, until it is to shut down; then:
    /// # drop(app);
    /// finishing.abort();
    /// dedupe.executions().idle().await;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
        let request = request.map(Body::stream);
        let adapter = self.adapter.clone();
        let hook = adapter.rules.on_replay.clone();
        answer_allowed(&mut self.core, request, hook, move |kept| {
            adapter.withhold(kept)
        })
    }
}

/// The answer of `core` to `request`. Where it is made from a record, `hook` is asked for it first, and
/// `withhold` makes what its caller is told instead.
pub(crate) fn answer_allowed<C, E>(
    core: &mut C,
    request: Request<Body>,
    hook: Option<OnReplay>,
    withhold: impl FnOnce(&HeaderMap) -> Response<Body> + Send + 'static,
) -> ResponseFuture<E>
where
    C: Service<Request<Body>, Error = Failure, Future = Instrumented<Answer>>,
    E: 'static,
{
    let own_error = own_error as fn(Failure) -> E;
    let Some(hook) = hook else {
        return Either::Left(core.call(request).map_err(own_error));
    };
    let (parts, body) = request.into_parts();
    let asked = parts.clone();
    let answering = core.call(Request::from_parts(parts, body));
    Either::Right(Box::pin(async move {
        let response = answering.await.map_err(own_error)?;
        if response.extensions().get::<FromRecord>().is_none() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        if hook(asked, parts.clone()).await {
            Ok(Response::from_parts(parts, body))
        } else {
            Ok(withhold(&parts.headers))
        }
    }))
}

/// The error as the inner service gave it.
fn own_error<E: 'static>(error: Failure) -> E {
    let own = error.downcast::<E>();
    // OK because every error in there was put there by `Handler<S>`, whose errors are these.
    *own.unwrap_or_else(|_| unreachable!("a failure is what the handler failed with"))
}
