//! The handler, with its whole answer read.
//!
//! The body of an answer is read here, within the handler's run: it is under the lease, a panic in
//! it is caught as one of the handler, and what fails half-way leaves the call in doubt.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::response::Parts;
use http::{Request, Response, StatusCode, header};
use onlyonce_storage::transaction::Transaction;
use tower_service::Service;

use super::said::{ByServer, NotExecuted};
use crate::http::{Body, BoxError, Contents, Read};
use crate::server::Steps;

/// A handler of any body and any error, as the layers below see it.
#[derive(Clone, Debug)]
pub(crate) struct Handler<S> {
    inner: S,
}

/// How the answer of a run is kept; among the extensions of its request. The response to a request
/// without it passes as it comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping {
    pub(crate) keep: Keep,
    pub(crate) answer_bytes_max: usize,
    /// Whether a transaction that ends with this answer applies nothing.
    pub(crate) applies_nothing: fn(&Parts, Option<&Contents>) -> bool,
}

/// What is kept of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Status and headers; the body streams to the first caller.
    Head,
    Whole,
}

/// What there is of an answer; among the extensions of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Its body failed half-way.
    Cut,
    /// Its head is what is to be kept.
    Head,
    /// It is too large to keep, or has no end.
    NotWhole,
    /// All of it is in memory.
    Whole,
}

/// Marks a response that a layer made from a record of its own; among its extensions, and only on the
/// way out of that layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FromRecord;

/// What a handler failed with, whatever type it has. Whoever wrapped it knows.
pub(crate) type Failure = Box<dyn Any + Send>;

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Failure>> + Send>>;

// === impl Handler ===

impl<S> Handler<S> {
    pub(crate) const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<Body>> for Handler<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Failure;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| Box::new(error) as Failure)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answering {
        // Taken out: the handler of another layer further inside, which lets the request pass, must not
        // read the answer in this one's place.
        let keeping = request.extensions_mut().remove::<Keeping>();
        let transaction = request.extensions().get::<Transaction>().cloned();
        let unasked = steps_of_unasked(&request);
        let answering = self.inner.call(request);
        Box::pin(async move {
            let response = answering
                .await
                .map_err(|error| Box::new(error) as Failure)?;
            let (mut parts, body) = response.into_parts();
            // A handler may pass on what another service in this process has on record.
            parts.extensions.remove::<FromRecord>();
            let Some(keeping) = keeping else {
                return Ok(Response::from_parts(parts, Body::stream(body)));
            };
            let (mut parts, body, kept) = keeping.read(parts, body).await;
            let whole = body.contents().filter(|_| kept == Kept::Whole);
            if (keeping.applies_nothing)(&parts, whole)
                && let Some(transaction) = transaction
            {
                transaction.refuse_writes();
            }
            // What refuses before the first step may miss what only the client's request has: a
            // credential, a header that is not kept. The call waits for its client then.
            if unasked.is_some_and(|steps| !steps.has_come_to_one()) {
                parts.extensions.insert(NotExecuted);
            }
            parts.extensions.insert(kept);
            Ok(Response::from_parts(parts, body))
        })
    }
}

// === impl Keeping ===

impl Keeping {
    async fn read<B>(self, parts: Parts, body: B) -> (Parts, Body, Kept)
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let body = if body.is_end_stream() {
            Body::default()
        } else {
            Body::stream(body)
        };
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return (parts, body, Kept::NotWhole);
        }
        if self.keep == Keep::Head {
            return (parts, body, Kept::Head);
        }
        if has_no_end(&parts) {
            return (parts, body, Kept::NotWhole);
        }
        match body.read(self.answer_bytes_max).await {
            Ok(Read::Whole(contents)) => (parts, Body::from(contents), Kept::Whole),
            Ok(Read::TooLarge(body)) => (parts, body, Kept::NotWhole),
            Err(_) => {
                // Without the error, which may repeat what was in the body.
                tracing::warn!(target: "onlyonce", "the body of an answer failed half-way");
                (parts, Body::default(), Kept::Cut)
            }
        }
    }
}

/// The steps of a run that nobody asked for.
fn steps_of_unasked(request: &Request<Body>) -> Option<Steps> {
    let extensions = request.extensions();
    extensions.get::<ByServer>()?;
    extensions.get::<Steps>().cloned()
}

/// Whether events come for as long as somebody listens.
fn has_no_end(parts: &Parts) -> bool {
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&[][..], |value| value.as_bytes());
    let essence = content_type.split(|byte| *byte == b';').next();
    essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(EVENT_STREAM))
}

pub(super) const EVENT_STREAM: &[u8] = b"text/event-stream";
