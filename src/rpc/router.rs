//! Calls the handler of each method.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use onlyonce_storage::Scope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tower::Service;

use super::{Failure, Incoming, Method, Reply, Status, value};

/// Who calls, and what of the call a handler may want to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Caller {
    /// The caller's scope, as the server mapped it from the credential.
    pub scope: Scope,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// Which attempt of the call this is, from 1.
    pub attempt: NonZeroU32,
}

/// Handlers by method, with the state `S` that they share.
///
/// It is a [`tower::Service`] and does not dedupe by itself: put it behind
/// [`stack::server`](onlyonce_middleware::stack::server) for that.
pub struct Router<S> {
    state: S,
    routes: BTreeMap<&'static str, Route>,
}

/// A [`Router`] that is complete.
#[derive(Clone)]
pub struct Routes {
    by_method: Arc<BTreeMap<&'static str, Route>>,
}

/// What [`Routes`] answers with, later.
pub type RouteFuture = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

struct Route {
    safety: Safety,
    handle: Handle,
}

/// Decodes the arguments, runs the handler, encodes what it came to.
type Handle = Box<dyn Fn(Caller, &[u8]) -> Handling + Send + Sync>;

type Handling = Pin<Box<dyn Future<Output = Reply> + Send>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Safety {
    Effects,
    ReadOnly,
}

// === impl Router ===

impl<S: Clone + Send + Sync + 'static> Router<S> {
    /// A router without methods. `state` is cloned for every call.
    #[must_use]
    pub const fn new(state: S) -> Self {
        Self {
            state,
            routes: BTreeMap::new(),
        }
    }

    /// Handles a method that has effects: a key is required, and the effect happens at most once.
    ///
    /// # Panics
    ///
    /// When the method has a handler already.
    #[must_use]
    pub fn method<A, R, F, H, Fut>(self, method: &Method<A, R, F>, handler: H) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + Sync + 'static,
        F: Serialize + Send + Sync + 'static,
        H: Fn(Caller, S, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Failure<F>>> + Send + 'static,
    {
        self.add(method, Safety::Effects, handler)
    }

    /// Handles a method without effects: it is executed for every attempt, and nothing is recorded.
    ///
    /// # Panics
    ///
    /// When the method has a handler already.
    #[must_use]
    pub fn read_only<A, R, F, H, Fut>(self, method: &Method<A, R, F>, handler: H) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + Sync + 'static,
        F: Serialize + Send + Sync + 'static,
        H: Fn(Caller, S, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Failure<F>>> + Send + 'static,
    {
        self.add(method, Safety::ReadOnly, handler)
    }

    /// The routes as a service.
    #[must_use]
    pub fn into_routes(self) -> Routes {
        Routes {
            by_method: Arc::new(self.routes),
        }
    }

    fn add<A, R, F, H, Fut>(mut self, method: &Method<A, R, F>, safety: Safety, handler: H) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + Sync + 'static,
        F: Serialize + Send + Sync + 'static,
        H: Fn(Caller, S, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Failure<F>>> + Send + 'static,
    {
        let state = self.state.clone();
        let handle = move |caller: Caller, arguments: &[u8]| -> Handling {
            let arguments = match value::decode::<A>(arguments) {
                Ok(arguments) => arguments,
                Err(error) => {
                    let reply = Reply::refusal(Status::ArgumentsMalformed, error.to_string());
                    return Box::pin(std::future::ready(reply));
                }
            };
            let running = handler(caller, state.clone(), arguments);
            Box::pin(async move { answer(&running.await) })
        };
        let route = Route {
            safety,
            handle: Box::new(handle),
        };
        let earlier = self.routes.insert(method.name(), route);
        assert!(
            earlier.is_none(),
            "method {} has a handler already",
            method.name()
        );
        self
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("methods", &self.routes.keys())
            .finish_non_exhaustive()
    }
}

// === impl Routes ===

impl Routes {
    /// Whether calls of this method have effects and therefore need a key. False for a method
    /// that nobody handles: it is refused before anything happens.
    #[must_use]
    pub fn has_effects(&self, method: &str) -> bool {
        self.by_method
            .get(method)
            .is_some_and(|route| route.safety == Safety::Effects)
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes")
            .field("methods", &self.by_method.keys())
            .finish()
    }
}

impl Service<Incoming> for Routes {
    type Response = Reply;
    type Error = Infallible;
    type Future = RouteFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, incoming: Incoming) -> Self::Future {
        let Some(route) = self.by_method.get(&*incoming.method) else {
            let reply = Reply::refusal(Status::UnknownMethod, "nobody handles this method");
            return Box::pin(std::future::ready(Ok(reply)));
        };
        let caller = Caller {
            scope: incoming.scope,
            deadline: incoming.deadline,
            attempt: incoming.attempt,
        };
        let handling = (route.handle)(caller, &incoming.arguments);
        Box::pin(async move { Ok(handling.await) })
    }
}

fn answer<R: Serialize, F: Serialize>(result: &Result<R, Failure<F>>) -> Reply {
    let encoded = match result {
        Ok(reply) => value::encode_result::<R, F>(Ok(reply)),
        Err(Failure::Fault(fault)) => value::encode_result::<R, F>(Err(fault)),
        Err(Failure::InDoubt) => return Reply::refusal(Status::InDoubt, "the handler cannot know"),
        Err(Failure::NotExecuted(why)) => return Reply::refusal(Status::NotExecuted, why.as_str()),
    };
    match encoded {
        Ok(body) => Reply::new(Status::Executed, body),
        // The effect may have happened; what came of it cannot be said.
        Err(error) => Reply::refusal(Status::InDoubt, format!("answer has no bytes: {error}")),
    }
}
