//! Puts [`Dedupe`] in front of a gRPC service.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, request, response};
use onlyonce_storage::{ScopeError, Store};
use tower_layer::Layer;

use super::Dedupe;
use super::adapter::GrpcAdapter;
use super::declaration::Declaring;
use super::rules::Rules;
use crate::grpc::Code;
use crate::grpc::message::PREFIX_BYTES;
use crate::grpc::methods::Protection;
use crate::http::ScopeOf;
use crate::http::server::handler::Handler;
use crate::observe::ServeSpanLayer;
use crate::server::{self, DedupeOptions, Executions, InDoubtPolicy, Keys};

/// Lets the effect of a call happen at most once per key, for the gRPC methods that are named. See the
/// [module](super).
///
/// Each method makes a layer that differs in one thing, over the same table of executions. Where the
/// methods of a server differ, clone one layer, say of each clone what is true of its methods, and put
/// one around the other: each leaves the other's methods alone. Make one by [`new`](Self::new) per
/// store and process.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct DedupeLayer {
    core: server::DedupeLayer<GrpcAdapter>,
    adapter: GrpcAdapter,
}

// === impl DedupeLayer ===

impl DedupeLayer {
    /// Dedupes against `store`, with the default [`DedupeOptions`]. `scope` says who calls: see
    /// [`ScopeOf`]; a closure finds the metadata among the headers of its request.
    ///
    /// It protects nothing until methods are named.
    pub fn new(store: Arc<dyn Store>, scope: impl ScopeOf) -> Self {
        Self::with_options(store, scope, DedupeOptions::default())
    }

    /// Dedupes against `store`. `scope` says who calls: see [`ScopeOf`].
    pub fn with_options(
        store: Arc<dyn Store>,
        scope: impl ScopeOf,
        options: DedupeOptions,
    ) -> Self {
        let adapter = GrpcAdapter {
            store: Arc::clone(&store),
            rules: Arc::new(Rules::new(scope)),
        };
        Self {
            core: server::DedupeLayer::with_options(store, adapter.clone(), options),
            adapter,
        }
    }

    /// Protects the unary method at `path`, for example `/bank.Bank/Transfer`: its calls must carry a
    /// key.
    ///
    /// Which methods have effects, and which are unary, is not on the wire, so they are named. A
    /// streaming method cannot be protected; its calls would be refused, or their answers waited for.
    ///
    /// # Panics
    ///
    /// When `path` is not of the form `/package.Service/Method`: it would name nothing, and what it was
    /// meant to name would go unprotected.
    pub fn protect(self, path: &str) -> Self {
        self.change(|rules| rules.methods.name_method(path, Protection::Protected))
    }

    /// Protects the unary method at `path`, whose handler says when it begins: the first thing that it
    /// does is to [`enter`](super::Declaration::enter).
    ///
    /// What stands between this layer and the handler refuses calls that the layer has claimed: an
    /// interceptor, the decoder of the message, a limit. Of a method that is protected so, every such
    /// refusal frees the key and is told as `not-executed`; of any other it is an answer like the
    /// handler's, recorded or in doubt by its code, and whoever may call at all can make as many
    /// doubts as their scope may have.
    ///
    /// Say it only of handlers that have no effect before they enter, on any path: what such a handler
    /// has done counts as not executed. An `OK` frees no key, whoever gives it; of a handler that has not
    /// entered it is logged as an error, and from then on, until the server is started anew, this
    /// layer and its clones believe no handler that it did not begin.
    ///
    /// ```
    /// use onlyonce_middleware::grpc::Declaration;
    /// # use tonic::{Request, Response, Status};
    ///
    /// async fn transfer(request: Request<()>) -> Result<Response<()>, Status> {
    ///     let run = request.extensions().get::<Declaration>().cloned().unwrap_or_default();
    ///     run.enter().map_err(|error| Status::aborted(error.to_string()))?;
    ///     // Whatever has an effect.
    ///     Ok(Response::new(()))
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// When `path` is not of the form `/package.Service/Method`.
    pub fn protect_entered(self, path: &str) -> Self {
        self.change(|rules| {
            rules
                .methods
                .name_method(path, Protection::ProtectedEntered);
        })
    }

    /// Protects all methods of a service, for example `bank.Bank` (tonic's `BankServer::NAME`, as far
    /// as they are not [left out](Self::leave_out). All of them must be unary.
    ///
    /// # Panics
    ///
    /// When `service` is not of the form `package.Service`.
    pub fn protect_service(self, service: &str) -> Self {
        self.change(|rules| rules.methods.name_service(service))
    }

    /// Leaves a method of a protected service out: it reads, or it streams.
    ///
    /// # Panics
    ///
    /// When `path` is not of the form `/package.Service/Method`.
    pub fn leave_out(self, path: &str) -> Self {
        self.change(|rules| rules.methods.name_method(path, Protection::Unprotected))
    }

    /// Treats calls in doubt as `policy` says. The default is [`InDoubtPolicy::Refuse`].
    /// [`answer`](super::answer) makes the answer of a call that was found applied.
    pub fn in_doubt(mut self, policy: InDoubtPolicy) -> Self {
        self.core = self.core.in_doubt(policy);
        self
    }

    /// The handlers' effects lie in the store's own tables: each finds a
    /// [`Transaction`](onlyonce_storage::transaction::Transaction) among the extensions of its request,
    /// and what it writes there is committed with its answer.
    ///
    /// A success is recorded with its effect; a definitive refusal without any. Every other code rolls
    /// back and frees the key, and its caller still gets it. The handler must have no effect elsewhere:
    /// it may run several times, and a run may come to nothing.
    pub fn transactional(self) -> Self {
        self.change(|rules| rules.guarantee = server::Guarantee::Transactional)
    }

    /// The handlers' effects are named steps, each with any effect: each finds
    /// [`Steps`](server::Steps) among the extensions of its request. What a step came to is kept beside
    /// the call's claim, and the request with it. So a run after a crash, or after a peer that did not
    /// answer, goes on behind the last step that is finished: when its client asks again, and by the
    /// server itself, where
    /// [`keep_finishing_abandoned`](super::Dedupe::keep_finishing_abandoned) is spawned beside it.
    ///
    /// `service` is kept with the requests. Servers that share a store have one each, and it stays the
    /// same: it says which of the calls that stand still are this one's.
    ///
    /// A caller whose call stands still is told `ABORTED`, `in-progress`, with a pushback, whatever the
    /// handler answered; one whose call was cut off in a step that must not be repeated is told
    /// `UNKNOWN`, `in-doubt`. A handler all of whose steps have a result is answered for as any other.
    ///
    /// The handler has no effect outside of its steps, and comes to the same steps each time that it
    /// runs with the same message and results. What it reads of the metadata is named in
    /// [`journaled_metadata`](Self::journaled_metadata).
    ///
    /// The store has to keep journals (`SledStore`, `PostgresStore` and `MemoryStore` do); over another
    /// one its calls are refused as not executed.
    ///
    /// # Errors
    ///
    /// When `service` is empty or longer than 255 bytes.
    pub fn journaled(self, service: &str) -> Result<Self, ScopeError> {
        let mut journal = self.adapter.rules.journal.clone();
        journal.name(service)?;
        Ok(self.change(|rules| {
            rules.guarantee = server::Guarantee::Journaled;
            rules.journal = journal;
        }))
    }

    /// Keeps this metadata of the requests of [journaled](Self::journaled) calls too, until the call is
    /// settled. Kept are path, message, and what compresses it. No other metadata is, and no credential
    /// unless it is named here: it would lie in the store.
    pub fn journaled_metadata(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.change(|rules| rules.journal.keep_headers(names))
    }

    /// These codes say that nothing was executed, and free the key; without it no code does.
    ///
    /// Say it only of methods of which that is always true, also of a status that they got from a
    /// server that they call, and hand on. A handler that knows it of one run says it of that run: see
    /// [`Declaration`](super::Declaration).
    pub fn release(self, codes: impl IntoIterator<Item = Code>) -> Self {
        self.change(|rules| rules.releases.extend(codes))
    }

    /// Takes messages of at most `bytes` bytes, as they come: compressed or not. Default 1 MiB with what
    /// stands before it. A larger
    /// one is refused before anything is executed.
    pub fn message_bytes_max(self, bytes: usize) -> Self {
        self.change(|rules| rules.intake.bytes_max = bytes.saturating_add(PREFIX_BYTES))
    }

    /// Waits this long for a request's message. Default 30 s. A slower one is refused before anything
    /// is executed.
    pub fn message_timeout(self, timeout: Duration) -> Self {
        self.change(|rules| rules.intake.timeout = timeout)
    }

    /// Keeps answers of at most `bytes` bytes, metadata counted. Default 1 MiB: what stores keep by
    /// default; theirs must be raised with it. A larger one is delivered once, marked
    /// `executed; unrecorded`, and its call is in doubt.
    pub fn answer_bytes_max(self, bytes: usize) -> Self {
        self.change(|rules| rules.answer_bytes_max = bytes)
    }

    /// Bounds the deadline of every call, whether or not its client says one. Default: the client's.
    pub fn deadline_max(self, deadline: Duration) -> Self {
        self.change(|rules| rules.deadline_max = Some(deadline))
    }

    /// Withholds this metadata from duplicates, instead of what HTTP has for credentials. Name all that
    /// are credentials: what is kept lies in the store and goes to whoever repeats the request.
    pub fn withhold_metadata(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        let names = names.into_iter().collect();
        self.change(|rules| rules.withheld = names)
    }

    /// Asks `hook`, before an answer that is kept goes out, whether its caller may still see it: the
    /// request, and the answer's head. Where it says no the caller is told `PERMISSION_DENIED`, and the
    /// record stays as it is.
    ///
    /// The scope has been checked by then: it is the same principal. What may have changed since is
    /// what that principal is allowed. The hook is asked for each such answer, and not in the first
    /// call's response; its future is dropped if the caller goes away.
    pub fn on_replay<F, Fut>(self, hook: F) -> Self
    where
        F: Fn(request::Parts, response::Parts) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        let hook = move |request, response| Box::pin(hook(request, response)) as _;
        self.change(|rules| rules.on_replay = Some(Arc::new(hook)))
    }

    /// The keys of this server: to peek at them, seal them, and wait for them.
    #[must_use]
    pub fn keys(&self) -> Keys {
        self.core.keys()
    }

    /// The executions of this server: to count them, and to wait for their end when it shuts down.
    #[must_use]
    pub fn executions(&self) -> Executions {
        self.core.executions()
    }

    fn change(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        let mut rules = Rules::clone(&self.adapter.rules);
        change(&mut rules);
        self.adapter.rules = Arc::new(rules);
        self.core = self.core.with_adapter(self.adapter.clone());
        self
    }
}

impl fmt::Debug for DedupeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedupeLayer")
            .field("rules", &self.adapter.rules)
            .field("core", &self.core)
            .finish()
    }
}

impl<S> Layer<S> for DedupeLayer {
    type Service = Dedupe<S>;

    fn layer(&self, inner: S) -> Dedupe<S> {
        let core = self.core.layer(Handler::new(Declaring::new(inner)));
        Dedupe::new(ServeSpanLayer.layer(core), self.adapter.clone())
    }
}
