//! From the call's attempt to the request on the wire.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use super::outbox::{Peer, TellPeer};
use super::{Adapter, Keyed};

/// Writes the key, the attempt's number, the time left and the store onto the request, as the
/// adapter's protocol has it.
///
/// Stands innermost, right around the transport. Further out, the time left would be that of
/// before a wait, and every attempt would say that it is the first.
///
/// It is ready when what it wraps is, and adds no future of its own.
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct StampLayer<A> {
    adapter: A,
}

/// Writes the call onto the request. See [`StampLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Stamp<S, A> {
    inner: S,
    adapter: A,
}

// === impl StampLayer ===

impl<A> StampLayer<A> {
    /// Stamps as `adapter` has it.
    pub const fn new(adapter: A) -> Self {
        Self { adapter }
    }
}

impl<A: Clone, S> Layer<S> for StampLayer<A> {
    type Service = Stamp<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Stamp {
            inner,
            adapter: self.adapter.clone(),
        }
    }
}

// === impl Stamp ===

impl<S, A, Req> Service<Keyed<Req>> for Stamp<S, A>
where
    S: Service<Req>,
    A: Adapter<Req>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, keyed: Keyed<Req>) -> Self::Future {
        self.inner.call(self.adapter.stamp(keyed))
    }
}

impl<S: TellPeer, A> TellPeer for Stamp<S, A> {
    fn peer(&self) -> Option<Peer> {
        self.inner.peer()
    }
}
