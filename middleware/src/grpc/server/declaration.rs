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
pub struct Declaration(Arc<Run>);

/// What is said of a run.
#[derive(Debug, Default)]
struct Run {
    said: AtomicU8,
    /// The run of another layer around this one: of another method, or over another store. What
    /// begins here has begun there as well.
    around: Option<Declaration>,
}

/// Why a handler must not begin. See [`Declaration::enter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnterError {
    /// Something has answered in its place, or the run has failed.
    #[error("the run was over before its handler began")]
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

/// A run, for as long as the layer looks at it.
struct Looked {
    declaration: Declaration,
    enters: bool,
}

// === impl Declaration ===

impl Declaration {
    /// Nothing was executed: the key is free again, and the answer is not recorded.
    ///
    /// Say it only where the handler has had no effect and nothing that it set going still can. The
    /// next attempt with the key runs the handler again.
    pub fn not_executed(&self) {
        self.0.said.fetch_or(NOT_EXECUTED, Ordering::AcqRel);
    }

    /// This is the call's answer for good, whatever its status: it is recorded, and an error with it
    /// leaves no doubt. Said beside [`not_executed`](Self::not_executed), this one counts: it frees no
    /// key.
    pub fn definitive(&self) {
        self.0.said.fetch_or(DEFINITIVE, Ordering::AcqRel);
    }

    /// The handler begins: what stands before it (an interceptor, the decoder of the message) has let
    /// the call through. The first thing that the handler of a method does which is protected by
    /// [`protect_entered`](super::DedupeLayer::protect_entered); elsewhere it says nothing.
    ///
    /// # Errors
    ///
    /// When the run is over already: something that did not wait for its handler has answered or
    /// failed, or its lease was lost. The key may be free again and the next attempt under way. Or when
    /// the declaration is none of a layer, which would take the handler for one that never began. Either
    /// way it must return without any effect.
    pub fn enter(&self) -> Result<(), EnterError> {
        if !self.is_of_layer() {
            return Err(EnterError::NoLayer);
        }
        let said = &self.0.said;
        if !self.begin_around() || said.fetch_or(ENTERED, Ordering::AcqRel) & ANSWERED != 0 {
            return Err(EnterError::Answered);
        }
        Ok(())
    }

    /// The declaration of a run that a layer looks at, within the run of another, if so.
    fn of_run(around: Option<Self>) -> Self {
        Self(Arc::new(Run {
            said: AtomicU8::new(LAYERED),
            around: around.filter(Self::is_of_layer),
        }))
    }

    fn is_of_layer(&self) -> bool {
        self.0.said.load(Ordering::Acquire) & LAYERED != 0
    }

    /// Enters the runs around this one. Whether all of them may go on: one that was answered before
    /// anything of it began may not, nor may what begins within it.
    fn begin_around(&self) -> bool {
        self.0.around.as_ref().is_none_or(|around| {
            let enter = |said: u8| {
                let kept_out = said & (ENTERED | ANSWERED) == ANSWERED;
                (!kept_out).then_some(said | ENTERED)
            };
            let said = &around.0.said;
            let entered = said.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter);
            around.begin_around() && entered.is_ok()
        })
    }

    /// Ends the run for a handler that has not entered; whether there is none that has.
    fn keep_out(&self) -> bool {
        self.0.said.fetch_or(ANSWERED, Ordering::AcqRel) & ENTERED == 0
    }

    fn put_on<B>(&self, response: &mut Response<B>) {
        let said = self.0.said.load(Ordering::Acquire);
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
        let extensions = request.extensions_mut();
        let declaration = Declaration::of_run(extensions.remove());
        extensions.insert(declaration.clone());
        // Taken out, as it speaks of this layer's method.
        let enters = request.extensions_mut().remove::<Entering>().is_some();
        let run = Looked {
            declaration,
            enters,
        };
        let answering = self.inner.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            // What is said there of another run is not so of this one.
            response.extensions_mut().remove::<NeverEntered>();
            if run.end() {
                response.extensions_mut().insert(NeverEntered);
            }
            run.declaration.put_on(&mut response);
            Ok(response)
        })
    }
}

// === impl Looked ===

impl Looked {
    /// Ends the run; whether its handler should have entered, and has not.
    fn end(&self) -> bool {
        self.enters && self.declaration.keep_out()
    }
}

impl Drop for Looked {
    /// Also a run that failed, or whose lease was lost: somebody may end its doubt, and must not be
    /// overtaken by a handler that begins only then.
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // D1
    #[test]
    fn what_begins_within_a_run_that_was_answered_before_it_began_is_kept_out_for_good() {
        let around = Declaration::of_run(None);
        let late = Declaration::of_run(Some(around.clone()));
        assert!(around.keep_out());
        for _ in 0..2 {
            assert_eq!(late.enter(), Err(EnterError::Answered));
        }
        assert!(late.keep_out());
    }

    // D1
    #[test]
    fn what_begins_within_a_run_has_begun_in_all_around_it() {
        let outermost = Declaration::of_run(None);
        let middle = Declaration::of_run(Some(outermost.clone()));
        let innermost = Declaration::of_run(Some(middle.clone()));
        assert_eq!(innermost.enter(), Ok(()));
        for run in [&innermost, &middle, &outermost] {
            assert!(!run.keep_out());
        }
        // What is answered and was entered may still make calls of its own.
        assert_eq!(Declaration::of_run(Some(middle)).enter(), Ok(()));
    }

    #[test]
    fn a_declaration_that_no_layer_has_made_is_no_run_around() {
        let run = Declaration::of_run(Some(Declaration::default()));
        assert_eq!(run.enter(), Ok(()));
        assert_eq!(Declaration::default().enter(), Err(EnterError::NoLayer));
    }
}
