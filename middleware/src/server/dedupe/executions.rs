//! The executions behind a dedupe layer, for whoever starts and stops its server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use onlyonce_storage::{
    Scope, SessionRequest, SessionState, Store, StoreError, StoreId, Timestamp,
};

use super::finishing::Finisher;
use super::flight::Flights;

/// The executions of one [`DedupeLayer`](super::DedupeLayer): against which store they are made,
/// how many there are, and when they are over.
///
/// A handler outlives its caller, so a server whose connections are all closed may still be
/// executing. Wait for [`idle`](Self::idle) before the store is closed or the runtime ends: what
/// is cut off there is in doubt.
#[derive(Clone)]
pub struct Executions {
    store: Arc<dyn Store>,
    flights: Arc<Flights>,
    go_on_within: Duration,
}

impl Executions {
    pub(super) const fn new(
        store: Arc<dyn Store>,
        flights: Arc<Flights>,
        go_on_within: Duration,
    ) -> Self {
        Self {
            store,
            flights,
            go_on_within,
        }
    }

    /// The identity of the store that the layer dedupes against.
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.store.id()
    }

    /// That store's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.store.now()
    }

    /// Opens, resumes or acknowledges in a session of that store: see
    /// [`Store::session`](onlyonce_storage::Store::session). For transports; bounded by whoever
    /// waits for it.
    ///
    /// # Errors
    ///
    /// When the store cannot tell.
    pub async fn session(
        &self,
        scope: Scope,
        request: SessionRequest,
    ) -> Result<SessionState, StoreError> {
        self.store.session(scope, request).await
    }

    /// What finds the journaled calls of that store that stand still, for whoever goes on with them.
    /// `None` where the store keeps no journals.
    #[must_use]
    pub fn finisher(&self) -> Option<Finisher> {
        self.store.journal()?;
        Some(Finisher::new(Arc::clone(&self.store), self.go_on_within))
    }

    /// How many calls are being executed, whether or not anybody waits for them.
    #[must_use]
    pub fn count(&self) -> usize {
        self.flights.in_flight()
    }

    /// Ends when no call is being executed. Calls that come in meanwhile are waited for as well.
    pub async fn idle(&self) {
        self.flights.idle().await;
    }
}

impl fmt::Debug for Executions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executions")
            .field("store", &self.store_id())
            .field("count", &self.count())
            .finish()
    }
}
