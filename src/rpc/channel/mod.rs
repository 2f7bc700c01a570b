//! The client's end: one connection, shared by every clone.

mod options;

pub use self::options::ChannelOptions;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{NotSent, Reply, Request, TransportError};

/// A multiplexed connection to one server.
#[derive(Clone, Debug)]
pub struct Channel {
    #[expect(dead_code, reason = "skeleton")]
    address: Arc<str>,
}

/// The reply to one request, later.
#[derive(Debug)]
#[must_use = "a request whose future is dropped may still be executed"]
pub struct ResponseFuture(());

impl Channel {
    /// A channel to `address` (`host:port`). It connects when it is first needed.
    pub fn new(address: impl Into<Arc<str>>, _options: ChannelOptions) -> Self {
        Self {
            address: address.into(),
        }
    }
}

impl tower_service::Service<Request> for Channel {
    type Response = Reply;
    type Error = TransportError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> ResponseFuture {
        ResponseFuture(())
    }
}

impl Future for ResponseFuture {
    type Output = Result<Reply, TransportError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Err(NotSent::NotReady.into()))
    }
}
