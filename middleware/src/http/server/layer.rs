//! Puts [`Dedupe`] in front of an HTTP service.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, request, response};
use onlyonce_storage::{Scope, ScopeError, Store};
use tower_layer::Layer;

use super::adapter::HttpAdapter;
use super::handler::{Handler, Keep};
use super::rules::{KeyRule, Rules};
use super::{Dedupe, ScopeOf};
use crate::observe::ServeSpanLayer;
use crate::server::{self, DedupeOptions, Executions, Guarantee, InDoubtPolicy, Keys};

/// Lets the effect of a call happen at most once per key, for any HTTP service. See the
/// [module](super).
///
/// It has to stand on every method of an address that has an effect. What is answered to `OPTIONS`
/// there counts for all of them: a client that learned so that the address is deduped repeats also a
/// request with a method that is not.
///
/// Each method makes a layer that differs in one thing, over the same table of executions: clone one
/// layer for the routes of a server, and say of each route what is true of it. Make one by
/// [`new`](Self::new) per store and process.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct DedupeLayer {
    core: server::DedupeLayer<HttpAdapter>,
    adapter: HttpAdapter,
}

// === impl DedupeLayer ===

impl DedupeLayer {
    /// Dedupes against `store`, with the default [`DedupeOptions`]. `scope` says who calls: see
    /// [`ScopeOf`].
    pub fn new(store: Arc<dyn Store>, scope: impl ScopeOf) -> Self {
        Self::with_options(store, scope, DedupeOptions::default())
    }

    /// Dedupes against `store`. `scope` says who calls: see [`ScopeOf`].
    pub fn with_options(
        store: Arc<dyn Store>,
        scope: impl ScopeOf,
        options: DedupeOptions,
    ) -> Self {
        let adapter = HttpAdapter {
            store: Arc::clone(&store),
            rules: Arc::new(Rules::new(scope)),
        };
        Self {
            core: server::DedupeLayer::with_options(store, adapter.clone(), options),
            adapter,
        }
    }

    /// Treats calls in doubt as `policy` says. The default is [`InDoubtPolicy::Refuse`].
    /// [`answer`](super::answer) makes the answer of a call that was found applied.
    pub fn in_doubt(mut self, policy: InDoubtPolicy) -> Self {
        self.core = self.core.in_doubt(policy);
        self
    }

    /// The handlers' effects lie in the store's own tables: each finds a
    /// [`Transaction`](onlyonce_storage::transaction::Transaction) among the extensions of its request
    /// (with feature `axum` it is an extractor), and what it writes there is committed with its
    /// answer.
    ///
    /// An answer below 400 is recorded with its effect; a refusal (4xx) without any. A 5xx rolls
    /// back and frees the key, and its caller still gets it. The handler must have no effect
    /// elsewhere: it may run several times, and a run may come to nothing.
    pub fn transactional(self) -> Self {
        self.change(|rules| rules.guarantee = Guarantee::Transactional)
    }

    /// The handlers' effects are named steps, each with any effect: each finds
    /// [`Steps`](server::Steps) among the extensions of its request (with feature `axum` it is an
    /// extractor). What a step came to is kept beside the call's claim, and the request with it. So a
    /// run after a crash, or after a peer that did not answer, goes on behind the last step that is
    /// finished: when its client asks again, and by the server itself, where
    /// [`keep_finishing_abandoned`](super::Dedupe::keep_finishing_abandoned) is spawned beside it.
    ///
    /// `service` is kept with the requests. Services that share a store have one each, and it stays the
    /// same: it says which of the calls that stand still are this one's.
    ///
    /// A caller whose call stands still is told 409, `in-progress`, with `Retry-After`, whatever the
    /// handler answered; one whose call was cut off in a step that must not be repeated is told 409,
    /// `in-doubt`. A handler all of whose steps have a result is answered for as any other.
    ///
    /// The handler has no effect outside of its steps, and comes to the same steps each time that it
    /// runs with the same request and results. What it reads of its request beside address, content
    /// type and encoding, and body is named in [`journaled_headers`](Self::journaled_headers).
    ///
    /// The store has to keep journals (`SledStore`, `PostgresStore` and `MemoryStore` do); over another
    /// one its calls are refused with 503. A request that is larger than a journal may be is refused with 413.
    ///
    /// # Errors
    ///
    /// When `service` is empty or longer than 255 bytes.
    pub fn journaled(self, service: &str) -> Result<Self, ScopeError> {
        let mut journal = self.adapter.rules.journal.clone();
        journal.name(service)?;
        Ok(self.change(|rules| {
            rules.guarantee = Guarantee::Journaled;
            rules.journal = journal;
        }))
    }

    /// Keeps these headers of the requests of [journaled](Self::journaled) calls too, until the call is
    /// settled. Kept are always `Content-Type`, `Content-Encoding`, and those by which requests are told
    /// apart ([`fingerprint_header`](Self::fingerprint_header)). No other is, and no credential unless
    /// it is named here: it would lie in the store.
    pub fn journaled_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.change(|rules| rules.journal.keep_headers(names))
    }

    /// Takes request bodies of at most `bytes` bytes. Default 1 MiB: what other servers take. A
    /// larger one is refused with 413 before anything is executed.
    pub fn body_bytes_max(self, bytes: usize) -> Self {
        self.change(|rules| rules.intake.bytes_max = bytes)
    }

    /// Waits this long for a request's body. Default 30 s. A slower one is refused with 408 before
    /// anything is executed.
    pub fn body_timeout(self, timeout: Duration) -> Self {
        self.change(|rules| rules.intake.timeout = timeout)
    }

    /// Keeps answers of at most `bytes` bytes, headers counted. Default 1 MiB: what stores keep by
    /// default; theirs must be raised with it. A larger one is delivered once, marked
    /// `executed; unrecorded`, and its call is in doubt: say [`head_only`](Self::head_only) of routes
    /// that have such.
    pub fn answer_bytes_max(self, bytes: usize) -> Self {
        self.change(|rules| rules.answer_bytes_max = bytes)
    }

    /// Bounds the deadline of every call, whether or not its client says one. Default: the client's.
    pub fn deadline_max(self, deadline: Duration) -> Self {
        self.change(|rules| rules.deadline_max = Some(deadline))
    }

    /// Narrows the scope to one operation: the same key may then be used once for each. Without it a
    /// key that comes to another address is refused as used with another request.
    ///
    /// # Errors
    ///
    /// When `name` is empty or longer than 255 bytes.
    pub fn operation(self, name: &str) -> Result<Self, ScopeError> {
        Scope::global().operation(name)?;
        Ok(self.change(|rules| rules.operation = Some(name.into())))
    }

    /// Tells requests apart by this header too, beside method, path, query, `Content-Type`,
    /// `Content-Encoding` and body.
    ///
    /// # Panics
    ///
    /// When it is a credential, or one that changes with every attempt: then no attempt would be
    /// recognised.
    pub fn fingerprint_header(self, name: HeaderName) -> Self {
        self.change(|rules| rules.fingerprint.compare_header(name))
    }

    /// Tells requests apart by the name of the host that they are for too, for services that answer as
    /// several. Letters' case and the port do not count. Without it a key that comes to another host
    /// gets the answer of the first.
    ///
    /// Records of before are recognised by what was compared then. Taken back, records that were made
    /// meanwhile cannot be compared, and their calls are refused with 503.
    pub fn fingerprint_host(self) -> Self {
        self.change(|rules| rules.fingerprint.compare_host())
    }

    /// Tells requests with a JSON body apart by what they say and not by their bytes: white space, the
    /// order of members and the spelling of strings do not count. Numbers are compared as they are
    /// written. Without it a request that its client writes in another way is refused as another
    /// one.
    ///
    /// Records of before are recognised by their bytes. Taken back, records that were made meanwhile
    /// cannot be compared, and their calls are refused with 503.
    pub fn canonical_json(self) -> Self {
        self.change(|rules| rules.fingerprint.compare_json_as_canonical())
    }

    /// Passes POST and PATCH without a key through, marked `unprotected`: executed as often as they
    /// come. Without it they are refused with 400.
    pub fn key_optional(self) -> Self {
        self.change(|rules| rules.key = KeyRule::Optional)
    }

    /// The address takes several items in one request, and some may be executed without the others.
    /// One key cannot stand for them: a request with a key is refused with 400, nothing is
    /// executed, and one without passes through, marked `unprotected`.
    pub fn batch(self) -> Self {
        self.change(|rules| rules.key = KeyRule::Refused)
    }

    /// A 503 of the handler says that nothing was executed, and frees the key. Say it only of
    /// handlers of which that is always true; without it a 503 leaves the call in doubt.
    pub fn release_503(self) -> Self {
        self.change(|rules| rules.releases_503 = true)
    }

    /// Keeps only status and headers of the answers, for routes whose answers are streams, large, or
    /// secret. The first caller gets the body as it comes; duplicates get the head, in which a
    /// `Location` says where to find what was made.
    pub fn head_only(self) -> Self {
        self.change(|rules| rules.keep = Keep::Head)
    }

    /// Withholds these headers from duplicates, instead of the default ones: `Set-Cookie`,
    /// `WWW-Authenticate`, `Authentication-Info` and the `Proxy-` ones. Name all that are
    /// credentials: what is kept lies in the store and goes to whoever repeats the request.
    pub fn withhold_headers(self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        let names = names.into_iter().collect();
        self.change(|rules| rules.withheld = names)
    }

    /// Lets scripts in browsers read the headers of this layer (`Access-Control-Expose-Headers`).
    pub fn expose_to_cors(self) -> Self {
        self.change(|rules| rules.exposes_to_cors = true)
    }

    /// Asks `hook`, before an answer that is kept goes out, whether its caller may still see it: the
    /// request, and the answer's head. Where it says no the caller is told 403, and the record stays
    /// as it is.
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
        let core = self.core.layer(Handler::new(inner));
        Dedupe::new(ServeSpanLayer.layer(core), self.adapter.clone())
    }
}
