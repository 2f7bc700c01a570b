//! What a server must be told before it serves.

use std::fmt;
use std::sync::Arc;

use onlyonce_middleware::server::Executions;
use onlyonce_storage::{Clock, Scope, StoreId, SystemClock, Timestamp};

use super::ServerOptions;

/// A server that is configured and can [`serve`](Self::serve).
pub struct Server {
    pub(super) authenticate: Authenticate,
    pub(super) store: Option<StoreId>,
    pub(super) now: Now,
    pub(super) executions: Option<Executions>,
    pub(super) options: ServerOptions,
}

/// Collects what a [`Server`] needs; [`build`](Self::build) says what is missing.
#[must_use = "a builder does nothing until it is built"]
#[derive(Default)]
pub struct ServerBuilder {
    authenticate: Option<Authenticate>,
    store: Option<(StoreId, Now)>,
    executions: Option<Executions>,
    options: ServerOptions,
}

/// Why a server cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Nobody said who callers are. There is no default: a scope that tenants share by accident
    /// lets one read another's answers.
    #[error("nobody said who callers are: use `authenticate`, or `global_scope` if all are one")]
    CallersUnnamed,
}

pub(super) type Authenticate = Arc<dyn Fn(&[u8]) -> Option<Scope> + Send + Sync>;
pub(super) type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

// === impl Server ===

impl Server {
    /// Begins to say what a server needs.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("store", &self.store)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

// === impl ServerBuilder ===

impl ServerBuilder {
    /// Maps a client's credential (at most 4 KiB) to the scope of its principal. `None` refuses
    /// the connection. It is asked once a connection and must not block.
    ///
    /// The scope names the principal, never a credential that is refreshed: a client that comes
    /// back with a new credential is the same principal.
    pub fn authenticate(
        mut self,
        authenticate: impl Fn(&[u8]) -> Option<Scope> + Send + Sync + 'static,
    ) -> Self {
        self.authenticate = Some(Arc::new(authenticate));
        self
    }

    /// One scope for every caller, whatever its credential. Only where callers trust each other
    /// with their keys.
    pub fn global_scope(self) -> Self {
        self.authenticate(|_| Some(Scope::global()))
    }

    /// This server dedupes: its service stands behind the dedupe layer (or `stack::server`) whose
    /// `executions()` these are. Clients learn the identity and the clock of its store in the
    /// handshake, and [`Serving::shutdown`](super::Serving::shutdown) waits for handlers whose
    /// callers went away: for all of the layer's, also those that another server gave it.
    ///
    /// It also goes on with journaled calls that stand still in that store, unless
    /// [`ServerOptions::finish_abandoned`] says otherwise.
    ///
    /// Without it clients are told that this server does not dedupe, and the time of this machine.
    ///
    /// Say it only of a server whose service really stands behind that layer: clients retry what
    /// they believe to be deduped.
    pub fn dedupe(mut self, executions: Executions) -> Self {
        let told = executions.clone();
        self.store = Some((executions.store_id(), Arc::new(move || told.now())));
        self.executions = Some(executions);
        self
    }

    /// This server dedupes, by other means than a dedupe layer of its own process: with the store
    /// `id`, whose clock is `now` (as [`Store::id`] and [`Store::now`] say). Otherwise use
    /// [`dedupe`](Self::dedupe), which takes both from the layer itself. `now` must not block.
    ///
    /// Nothing here makes the service dedupe, or checks that it does. A service that does not,
    /// served with this, executes the retries of clients who were told that it would not.
    ///
    /// [`Store::id`]: onlyonce_storage::Store::id
    /// [`Store::now`]: onlyonce_storage::Store::now
    pub fn store(
        mut self,
        id: StoreId,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        self.store = Some((id, Arc::new(now)));
        self
    }

    /// Other numbers than the defaults.
    pub fn options(mut self, options: ServerOptions) -> Self {
        self.options = options;
        self
    }

    /// The server.
    ///
    /// # Errors
    ///
    /// When neither [`authenticate`](Self::authenticate) nor
    /// [`global_scope`](Self::global_scope) was said.
    pub fn build(self) -> Result<Server, BuildError> {
        let authenticate = self.authenticate.ok_or(BuildError::CallersUnnamed)?;
        let (store, now) = match self.store {
            Some((id, now)) => (Some(id), now),
            None => (None, Arc::new(|| SystemClock.now()) as Now),
        };
        Ok(Server {
            authenticate,
            store,
            now,
            executions: self.executions,
            options: self.options,
        })
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("store", &self.store.as_ref().map(|(id, _)| id))
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
