//! A key for every call.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::{Adapter, ChooseKey, Keyed, UniqueKey};

/// Gives each call its key, once, before anything can make a second attempt of it.
///
/// A key (or the whole ticket of a call that is resumed) that the caller has put on the request is
/// kept; else the chooser names one: a UUIDv7 by default, or what a closure derives from the
/// request's own business identifier.
///
/// Stands outside of everything that retries or hedges. Inside of it, each attempt would have a
/// key of its own; that does not compile, because they take only [`Keyed`] requests.
///
/// It is ready when what it wraps is, and adds no future of its own.
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct AttachKeyLayer<A, K = UniqueKey> {
    adapter: A,
    chooser: K,
}

/// Gives each call its key. See [`AttachKeyLayer`].
#[derive(Clone, Copy, Debug)]
pub struct AttachKey<S, A, K = UniqueKey> {
    inner: S,
    adapter: A,
    chooser: K,
}

// === impl AttachKeyLayer ===

impl<A> AttachKeyLayer<A> {
    /// Names calls by UUIDv7.
    pub const fn new(adapter: A) -> Self {
        Self {
            adapter,
            chooser: UniqueKey,
        }
    }
}

impl<A, K> AttachKeyLayer<A, K> {
    /// Names calls as `chooser` says. A closure has to spell out the type of its argument:
    /// `|request: &Transfer| IdempotencyKey::derived("transfer", &request.id)`.
    pub fn with_key<C>(self, chooser: C) -> AttachKeyLayer<A, C> {
        AttachKeyLayer {
            adapter: self.adapter,
            chooser,
        }
    }
}

impl<A: Clone, K: Clone, S> Layer<S> for AttachKeyLayer<A, K> {
    type Service = AttachKey<S, A, K>;

    fn layer(&self, inner: S) -> Self::Service {
        AttachKey {
            inner,
            adapter: self.adapter.clone(),
            chooser: self.chooser.clone(),
        }
    }
}

// === impl AttachKey ===

impl<S, A, K, Req> Service<Req> for AttachKey<S, A, K>
where
    S: Service<Keyed<Req>>,
    A: Adapter<Req>,
    K: ChooseKey<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let ticket = self
            .adapter
            .ticket(&request)
            .unwrap_or_else(|| self.chooser.choose_ticket(&request));
        let deadline = self.adapter.deadline(&request);
        let keyed = Keyed::new(request, ticket);
        self.inner.call(match deadline {
            Some(deadline) => keyed.with_deadline(deadline),
            None => keyed,
        })
    }
}
