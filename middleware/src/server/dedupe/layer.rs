//! Puts [`Dedupe`] in front of a handler.

use std::fmt;
use std::sync::Arc;

use onlyonce_storage::Store;
use tower_layer::Layer;

use super::flight::Flights;
use super::in_doubt::InDoubtPolicy;
use super::options::{LEASE_MAX, LEASE_MIN};
use super::reconcile::Reconciler;
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
        options.lease = options.lease.clamp(LEASE_MIN, LEASE_MAX);
        let flights = Flights::new(&options);
        let reconciler = Reconciler::new(&options);
        Self {
            shared: Arc::new(Shared {
                adapter,
                store,
                options,
                in_doubt: InDoubtPolicy::Refuse,
                flights,
                ended: Arc::default(),
                reconciler,
            }),
        }
    }

    /// A layer over the same table of executions that treats calls in doubt as `policy` says,
    /// where the adapter does not say it of the call. The default is [`InDoubtPolicy::Refuse`].
    ///
    /// It is the author of the handler who can say: wrap each handler with the layer that has its
    /// policy.
    #[must_use = "the layer that it is called on stays as it is"]
    pub fn in_doubt(&self, policy: InDoubtPolicy) -> Self
    where
        A: Clone,
    {
        let shared = &self.shared;
        Self {
            shared: Arc::new(Shared {
                adapter: shared.adapter.clone(),
                store: Arc::clone(&shared.store),
                options: shared.options,
                in_doubt: policy,
                flights: Arc::clone(&shared.flights),
                ended: Arc::clone(&shared.ended),
                reconciler: Arc::clone(&shared.reconciler),
            }),
        }
    }

    /// A layer over the same table of executions that speaks its protocol through `adapter`: for
    /// routes of one server that differ.
    #[must_use = "the layer that it is called on stays as it is"]
    pub fn with_adapter<B>(&self, adapter: B) -> DedupeLayer<B> {
        let shared = &self.shared;
        DedupeLayer {
            shared: Arc::new(Shared {
                adapter,
                store: Arc::clone(&shared.store),
                options: shared.options,
                in_doubt: shared.in_doubt.clone(),
                flights: Arc::clone(&shared.flights),
                ended: Arc::clone(&shared.ended),
                reconciler: Arc::clone(&shared.reconciler),
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
            .field("in_doubt", &self.shared.in_doubt)
            .finish_non_exhaustive()
    }
}

impl<S, A> Layer<S> for DedupeLayer<A> {
    type Service = Dedupe<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Dedupe::new(inner, Arc::clone(&self.shared))
    }
}
