//! What a handler can say of its run, whatever it answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use crate::http::{Body, Definitive, NotExecuted};

/// What a handler says of its run, whatever it answers: among the extensions of its request.
///
/// The statuses of tonic have no place for it, and metadata would be the wrong one: handlers hand on
/// the statuses of servers that they call (`?`), and what such a server says of itself is not so of
/// the handler that called it.
///
/// ```
/// use onlyonce_middleware::grpc::Declaration;
/// # use tonic::{Request, Response, Status};
///
/// async fn transfer(request: Request<()>) -> Result<Response<()>, Status> {
///     let run = request.extensions().get::<Declaration>().cloned().unwrap_or_default();
///     // Before any effect:
///     run.not_executed();
///     Err(Status::unavailable("the books are closed; come back"))
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Declaration(Arc<AtomicU8>);

/// Why a handler must not begin. See [`Declaration::enter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnterError {
    /// Something has answered in its place.
    #[error("the run was answered before its handler began")]
    Answered,
    /// The declaration is none that a layer has made: it would not hear of what the handler does.
    #[error(
        "no dedupe layer stands in front of the handler, or something in between has dropped the \
         extensions of its request"
    )]
    NoLayer,
}

const NOT_EXECUTED: u8 = 1;
const DEFINITIVE: u8 = 2;
const ENTERED: u8 = 4;
const ANSWERED: u8 = 8;
/// A layer looks at it.
const LAYERED: u8 = 16;

/// A handler that finds a [`Declaration`] in its requests.
#[derive(Clone, Debug)]
pub(super) struct Declaring<S> {
    inner: S,
}

/// The author of the method has said that its handler enters; among the extensions of its requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entering;

/// Marks a response that was given before the handler entered, which it never will; among its
/// extensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct NeverEntered;

// === impl Declaration ===

impl Declaration {
    /// Nothing was executed: the key is free again, and the answer is not recorded.
    ///
    /// Say it only where the handler has had no effect and nothing that it set going still can. The
    /// next attempt with the key runs the handler again.
    pub fn not_executed(&self) {
        self.0.fetch_or(NOT_EXECUTED, Ordering::AcqRel);
    }

    /// This is the call's answer for good, whatever its status: it is recorded, and an error with it
    /// leaves no doubt. Said beside [`not_executed`](Self::not_executed), this one counts: it frees no
    /// key.
    pub fn definitive(&self) {
        self.0.fetch_or(DEFINITIVE, Ordering::AcqRel);
    }

    /// The handler begins: what stands before it (an interceptor, the decoder of the message) has let
    /// the call through. The first thing that the handler of a method does which is protected by
    /// [`protect_entered`](super::DedupeLayer::protect_entered); elsewhere it says nothing.
    ///
    /// # Errors
    ///
    /// When the run was answered already, by something that did not wait for its handler: the key may
    /// be free again and the next attempt under way. Or when the declaration is none of a layer, which
    /// would take the handler for one that never began. Either way it must return without any effect.
    pub fn enter(&self) -> Result<(), EnterError> {
        let before = self.0.fetch_or(ENTERED, Ordering::AcqRel);
        if before & LAYERED == 0 {
            Err(EnterError::NoLayer)
        } else if before & ANSWERED != 0 {
            Err(EnterError::Answered)
        } else {
            Ok(())
        }
    }

    /// The declaration of a run that a layer looks at.
    fn of_run() -> Self {
        Self(Arc::new(AtomicU8::new(LAYERED)))
    }

    /// Ends the run for a handler that has not entered; whether there is none that has.
    fn keep_out(&self) -> bool {
        self.0.fetch_or(ANSWERED, Ordering::AcqRel) & ENTERED == 0
    }

    fn put_on<B>(&self, response: &mut Response<B>) {
        let said = self.0.load(Ordering::Acquire);
        if said & DEFINITIVE != 0 {
            response.extensions_mut().insert(Definitive);
        } else if said & NOT_EXECUTED != 0 {
            response.extensions_mut().insert(NotExecuted);
        }
    }
}

// === impl Declaring ===

impl<S> Declaring<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<Request<Body>> for Declaring<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let declaration = Declaration::of_run();
        request.extensions_mut().insert(declaration.clone());
        // Taken out, as it speaks of this layer's method.
        let enters = request.extensions_mut().remove::<Entering>().is_some();
        let answering = self.inner.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            // What is said there of another run is not so of this one.
            response.extensions_mut().remove::<NeverEntered>();
            if enters && declaration.keep_out() {
                response.extensions_mut().insert(NeverEntered);
            }
            declaration.put_on(&mut response);
            Ok(response)
        })
    }
}
