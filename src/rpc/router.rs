//! Calls the handler of each method.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use onlyonce_middleware::server::{Doubt, Execution, Guarantee, InDoubtPolicy};
use onlyonce_storage::transaction::Transaction;
use onlyonce_storage::{IdempotencyKey, Scope};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tower::Service;

use super::in_doubt::{Asking, Fenced, WhenInDoubt};
use super::{
    Failure, Incoming, Interrupted, Method, Reconciled, Reply, Status, Steps, Undone, journaled,
    transactional, value,
};

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
    /// The call's key. An outside system that is given it can be asked by it later.
    pub key: Option<IdempotencyKey>,
    /// Which of the call's runs this is: its fencing token, and whether it is a re-run. `None`
    /// where nothing dedupes: for read-only methods, and without the dedupe layer.
    pub execution: Option<Execution>,
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
    in_doubt: WhenInDoubt,
    guarantee: Guarantee,
    handle: Handle,
}

/// Decodes the arguments, runs the handler, encodes what it came to.
type Handle = Box<dyn Fn(Caller, Given, &[u8]) -> Handling + Send + Sync>;

/// What the dedupe layer gives a handler to have its effects with, where its guarantee has such.
#[derive(Default)]
struct Given {
    transaction: Option<Transaction>,
    steps: Option<Steps>,
}

pub(super) type Handling = Pin<Box<dyn Future<Output = Reply> + Send>>;

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
    /// A call in doubt (the server died half-way, the handler panicked or says
    /// [`Failure::InDoubt`]) stays so, and is told to be so, until an operator resolves it. Where
    /// something can be known of it, say so with [`method_reconciled`](Self::method_reconciled) or
    /// [`method_safe_to_rerun`](Self::method_safe_to_rerun).
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
        self.add(method, Safety::Effects, WhenInDoubt::Refuse, handler)
    }

    /// Handles a method that has effects, like [`method`](Self::method), and asks `reconcile` what
    /// became of a call in doubt when a duplicate of it comes.
    ///
    /// `reconcile` is given the doubt, the state and the arguments; it asks the outside world,
    /// mostly by the call's key, and has no effects itself. When it says
    /// [`NotApplied`](Reconciled::NotApplied) the handler runs again, if the task or process that
    /// ran it is known to have ended. Its errors are logged and mean *still unknown*: see
    /// [`Reconciliation`](onlyonce_middleware::server::Reconciliation).
    ///
    /// ```
    /// use onlyonce::rpc::{Caller, Doubt, Failure, Method, Reconciled, Router};
    ///
    /// # #[derive(Clone)] struct Provider;
    /// # impl Provider {
    /// #     async fn pay(&self, _: &str, _: u64) -> Option<String> { None }
    /// #     async fn find(&self, _: &str) -> Result<Option<String>, std::io::Error> { Ok(None) }
    /// # }
    /// const PAY: Method<u64, String> = Method::new("pay");
    ///
    /// let routes = Router::new(Provider).method_reconciled(
    ///     &PAY,
    ///     async |caller: Caller, provider: Provider, cents| {
    ///         // The provider is given the key, so that it can be asked by it.
    ///         let key = caller.key.ok_or(Failure::NotExecuted("no key".to_owned()))?;
    ///         let receipt = provider.pay(key.as_str(), cents).await;
    ///         receipt.ok_or(Failure::InDoubt)
    ///     },
    ///     async |doubt: Doubt, provider: Provider, _| {
    ///         let receipt = provider.find(doubt.key.key().as_str()).await?;
    ///         Ok::<_, std::io::Error>(match receipt {
    ///             Some(receipt) => Reconciled::Applied(Ok(receipt)),
    ///             None => Reconciled::NotApplied,
    ///         })
    ///     },
    /// );
    /// # let _ = routes.into_routes();
    /// ```
    ///
    /// # Panics
    ///
    /// When the method has a handler already.
    #[must_use]
    pub fn method_reconciled<A, R, F, H, Fut, C, Asked, E>(
        self,
        method: &Method<A, R, F>,
        handler: H,
        reconcile: C,
    ) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + Sync + 'static,
        F: Serialize + Send + Sync + 'static,
        H: Fn(Caller, S, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Failure<F>>> + Send + 'static,
        C: Fn(Doubt, S, A) -> Asked + Send + Sync + 'static,
        Asked: Future<Output = Result<Reconciled<R, F>, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let in_doubt = self.reconcile(reconcile, Fenced::No);
        self.add(method, Safety::Effects, in_doubt, handler)
    }

    /// Like [`method_reconciled`](Self::method_reconciled), for a handler that sends its fencing
    /// token ([`Execution::token`], in [`Caller::execution`]) with every effect to an outside
    /// system which refuses whatever comes with a smaller one than it has seen.
    ///
    /// *Not applied* then permits a re-run also while an earlier run may still be at work. Said of
    /// an outside system that does not compare tokens, it lets an effect happen twice.
    ///
    /// # Panics
    ///
    /// When the method has a handler already.
    #[must_use]
    pub fn method_reconciled_and_fenced<A, R, F, H, Fut, C, Asked, E>(
        self,
        method: &Method<A, R, F>,
        handler: H,
        reconcile: C,
    ) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + Sync + 'static,
        F: Serialize + Send + Sync + 'static,
        H: Fn(Caller, S, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Failure<F>>> + Send + 'static,
        C: Fn(Doubt, S, A) -> Asked + Send + Sync + 'static,
        Asked: Future<Output = Result<Reconciled<R, F>, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let in_doubt = self.reconcile(reconcile, Fenced::Yes);
        self.add(method, Safety::Effects, in_doubt, handler)
    }

    /// Handles a method that has effects, like [`method`](Self::method), and runs it again for a
    /// duplicate of a call in doubt.
    ///
    /// Only for a handler whose effect is the same however often, however concurrently and however
    /// late it happens: adding to a value is not, and setting one is only where nobody else sets it.
    /// While nothing is in doubt its calls are executed once and replayed like any other.
    ///
    /// # Panics
    ///
    /// When the method has a handler already.
    #[must_use]
    pub fn method_safe_to_rerun<A, R, F, H, Fut>(self, method: &Method<A, R, F>, handler: H) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + Sync + 'static,
        F: Serialize + Send + Sync + 'static,
        H: Fn(Caller, S, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Failure<F>>> + Send + 'static,
    {
        self.add(
            method,
            Safety::Effects,
            WhenInDoubt::RerunDeclaredSafe,
            handler,
        )
    }

    /// Handles a method whose effects lie in the server's own store: what the handler writes to its
    /// [`Transaction`] and its answer become durable together, with one durable write. A crash at any
    /// point leaves both or neither, and its calls are never in doubt.
    ///
    /// The handler is given nothing else to write to, and must have no effect elsewhere: it runs
    /// again when somebody has changed what it had read, and a run may come to nothing. An error, a
    /// panic and a lost lease roll back and leave the key free. [`Undone::Fault`] is an answer with
    /// no effect.
    ///
    /// The server must stand behind a dedupe layer over a store that keeps tables (`SledStore` and
    /// `MemoryStore` do); elsewhere its calls are refused as not executed.
    ///
    /// ```
    /// use onlyonce::rpc::{Caller, Method, Router, Table, Transaction, Undone};
    ///
    /// const SEATS: Table = Table::new("seats");
    /// const BOOK: Method<String, String, String> = Method::new("book");
    ///
    /// let routes = Router::new(()).method_transactional(
    ///     &BOOK,
    ///     async |_: Caller, seats: Transaction, seat: String| {
    ///         if seats.get(&SEATS, seat.as_bytes()).await?.is_some() {
    ///             return Err(Undone::Fault("taken".to_owned()));
    ///         }
    ///         seats.put(&SEATS, seat.as_bytes(), b"taken")?;
    ///         Ok(seat)
    ///     },
    /// );
    /// # let _ = routes.into_routes();
    /// ```
    ///
    /// # Panics
    ///
    /// When the method has a handler already.
    #[must_use]
    pub fn method_transactional<A, R, F, H, Fut>(self, method: &Method<A, R, F>, handler: H) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + Sync + 'static,
        F: Serialize + Send + Sync + 'static,
        H: Fn(Caller, Transaction, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Undone<F>>> + Send + 'static,
    {
        let handle = move |caller: Caller, given: Given, arguments: &[u8]| {
            transactional::handle(&handler, caller, given.transaction, arguments)
        };
        let route = Route {
            safety: Safety::Effects,
            in_doubt: WhenInDoubt::Refuse,
            guarantee: Guarantee::Transactional,
            handle: Box::new(handle),
        };
        self.add_route(method.name(), route)
    }

    /// Handles a method whose effects are named steps, each with any effect. The result of each step
    /// is kept beside the call's claim, and the request with it: a run after a crash, or after a peer
    /// that did not answer, is given the results that are there and goes on behind them. Whoever asks
    /// again goes on with the call, and so does the server itself.
    ///
    /// The handler has no effect outside of its steps, and comes to the same steps each time that it
    /// runs with the same arguments and results: see [the manual's page](crate::rpc::Steps). Only a step
    /// that must not be repeated ([`Steps::run_once`]) and was cut off leaves its call in doubt, until
    /// an operator says what became of it.
    ///
    /// The server must stand behind a dedupe layer over a store that keeps journals (`SledStore`,
    /// `PostgresStore` and `MemoryStore` do); elsewhere its calls are refused as not executed.
    ///
    /// ```
    /// use onlyonce::rpc::{Caller, Client, Interrupted, Method, Router, Steps, answered};
    ///
    /// const CHARGE: Method<u64, String, String> = Method::new("bank.charge");
    /// const ORDER: Method<u64, String, String> = Method::new("shop.order");
    ///
    /// let bank = Client::new("127.0.0.1:7411");
    /// let routes = Router::new(bank).method_journaled(
    ///     &ORDER,
    ///     async |_: Caller, steps: Steps, bank: Client, cents: u64| {
    ///         let charge = async |run: onlyonce::rpc::StepRun| {
    ///             answered(bank.call_as(run.key, &CHARGE, &cents).await)
    ///         };
    ///         let charged = steps.run_keyed("charge", charge).await?;
    ///         let receipt = charged.map_err(Interrupted::Fault)?;
    ///         Ok(receipt)
    ///     },
    /// );
    /// # let _ = routes.into_routes();
    /// ```
    ///
    /// # Panics
    ///
    /// When the method has a handler already.
    #[must_use]
    pub fn method_journaled<A, R, F, H, Fut>(self, method: &Method<A, R, F>, handler: H) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + Sync + 'static,
        F: Serialize + Send + Sync + 'static,
        H: Fn(Caller, Steps, S, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Interrupted<F>>> + Send + 'static,
    {
        let state = self.state.clone();
        let handle = move |caller: Caller, given: Given, arguments: &[u8]| {
            journaled::handle(&handler, state.clone(), caller, given.steps, arguments)
        };
        let route = Route {
            safety: Safety::Effects,
            in_doubt: WhenInDoubt::Refuse,
            guarantee: Guarantee::Journaled,
            handle: Box::new(handle),
        };
        self.add_route(method.name(), route)
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
        self.add(method, Safety::ReadOnly, WhenInDoubt::Refuse, handler)
    }

    /// The routes as a service.
    #[must_use]
    pub fn into_routes(self) -> Routes {
        Routes {
            by_method: Arc::new(self.routes),
        }
    }

    fn reconcile<A, R, F, C, Asked, E>(&self, reconcile: C, fenced: Fenced) -> WhenInDoubt
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Serialize + Send + 'static,
        C: Fn(Doubt, S, A) -> Asked + Send + Sync + 'static,
        Asked: Future<Output = Result<Reconciled<R, F>, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let state = self.state.clone();
        let ask = move |doubt: Doubt, arguments: &[u8]| -> Asking {
            let asked = value::decode::<A>(arguments)
                .map(|arguments| reconcile(doubt, state.clone(), arguments));
            Box::pin(async move { asked?.await.map_err(Into::into)?.encode() })
        };
        WhenInDoubt::Reconcile {
            ask: Arc::new(ask),
            fenced,
        }
    }

    fn add<A, R, F, H, Fut>(
        self,
        method: &Method<A, R, F>,
        safety: Safety,
        in_doubt: WhenInDoubt,
        handler: H,
    ) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + Sync + 'static,
        F: Serialize + Send + Sync + 'static,
        H: Fn(Caller, S, A) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Failure<F>>> + Send + 'static,
    {
        let state = self.state.clone();
        let handle = move |caller: Caller, _: Given, arguments: &[u8]| -> Handling {
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
            in_doubt,
            guarantee: Guarantee::Claimed,
            handle: Box::new(handle),
        };
        self.add_route(method.name(), route)
    }

    fn add_route(mut self, name: &'static str, route: Route) -> Self {
        let earlier = self.routes.insert(name, route);
        assert!(earlier.is_none(), "method {name} has a handler already");
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

    /// What its author chose for calls of this method.
    pub(super) fn guarantee(&self, method: &str) -> Guarantee {
        let route = self.by_method.get(method);
        route.map_or(Guarantee::Claimed, |route| route.guarantee)
    }

    /// What is done if a call of this method with these arguments is in doubt.
    pub(super) fn in_doubt(&self, method: &str, arguments: &Bytes) -> Option<InDoubtPolicy> {
        let route = self.by_method.get(method)?;
        Some(route.in_doubt.policy(arguments))
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
            key: incoming.key.and_then(Result::ok),
            execution: incoming.execution,
        };
        let given = Given {
            transaction: incoming.transaction,
            steps: incoming.steps.map(Steps::new),
        };
        let first = onlyonce_storage::planted!(BodyReplayedTwice) && given.transaction.is_none();
        let first =
            first.then(|| (route.handle)(caller.clone(), Given::default(), &incoming.arguments));
        let handling = (route.handle)(caller, given, &incoming.arguments);
        Box::pin(async move {
            if let Some(first) = first {
                first.await;
            }
            Ok(handling.await)
        })
    }
}

pub(super) fn answer<R: Serialize, F: Serialize>(result: &Result<R, Failure<F>>) -> Reply {
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
