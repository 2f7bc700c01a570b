//! Puts [`Dedupe`] in front of a handler.

use std::fmt;
use std::sync::Arc;

use onlyonce_storage::Store;
use tower_layer::Layer;

use super::flight::Flights;
use super::options::LEASE_MAX;
use super::service::{Dedupe, Shared};
use super::{DedupeOptions, Executions};
use crate::server::Keys;

/// Lets the effect of a call happen at most once per key. See the [module](super).
///
/// All services made by one layer share its table of executions; make one layer per store and
/// process.
pub struct DedupeLayer<A> {
    shared: Arc<Shared<A>>,
}

impl<A> DedupeLayer<A> {
    /// Dedupes against `store` what `adapter` admits, with the default [`DedupeOptions`].
    #[must_use]
    pub fn new(store: Arc<dyn Store>, adapter: A) -> Self {
        Self::with_options(store, adapter, DedupeOptions::default())
    }

    /// Dedupes against `store` what `adapter` admits.
    #[must_use]
    pub fn with_options(store: Arc<dyn Store>, adapter: A, mut options: DedupeOptions) -> Self {
        options.lease = options.lease.min(LEASE_MAX);
        let flights = Flights::new(&options);
        Self {
            shared: Arc::new(Shared {
                adapter,
                store,
                options,
                flights,
            }),
        }
    }

    /// The keys of this server: to peek at them, seal them, and wait for them.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys::new(Arc::clone(&self.shared.store))
    }

    /// The executions of this server: to count them, and to wait for their end.
    #[must_use]
    pub fn executions(&self) -> Executions {
        self.shared.executions()
    }
}

impl<A> Clone for DedupeLayer<A> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<A> fmt::Debug for DedupeLayer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedupeLayer")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl<S, A> Layer<S> for DedupeLayer<A> {
    type Service = Dedupe<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Dedupe::new(inner, Arc::clone(&self.shared))
    }
}
