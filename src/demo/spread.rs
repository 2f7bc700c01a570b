//! A client's way to several servers: each attempt goes to the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tower::{Service, ServiceExt};

use crate::rpc::{Channel, ChannelOptions, Reply, Request, TransportError};

/// A channel to each server, taken in turn, so that a retry meets another server than the attempt
/// before it.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    channels: Arc<[Channel]>,
    next: Arc<AtomicUsize>,
}

// === impl Spread ===

impl Spread {
    pub(super) fn new<'a>(
        addresses: impl IntoIterator<Item = &'a String>,
        options: &ChannelOptions,
    ) -> Self {
        let addresses = addresses.into_iter();
        let channel = |address: &'a String| Channel::new(address.as_str(), options.clone());
        Self {
            channels: addresses.map(channel).collect(),
            next: Arc::default(),
        }
    }
}

impl Service<Request> for Spread {
    type Response = Reply;
    type Error = TransportError;
    type Future = BoxFuture<'static, Result<Reply, TransportError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        // Which channel is asked is decided when there is something to ask.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        Box::pin(self.channels[place].clone().oneshot(request))
    }
}
