//! Which answers a client was given that say of themselves that they were not recorded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tower::Service;

use crate::rpc::{Channel, Reply, Request, Status, TransportError};

/// The keys of the last such answers. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Unrecorded(Arc<Mutex<BTreeSet<String>>>);

/// A channel whose replies are listened to.
#[derive(Clone)]
pub(super) struct Heard {
    channel: Channel,
    unrecorded: Unrecorded,
}

// === impl Unrecorded ===

impl Unrecorded {
    /// The channel; what comes over it is noted here.
    pub(super) fn listen_to(&self, channel: Channel) -> Heard {
        Heard {
            channel,
            unrecorded: self.clone(),
        }
    }

    /// Whether the last answer of this key was one. It is asked once of each answer.
    pub(super) fn take(&self, key: &str) -> bool {
        self.0.lock().remove(key)
    }

    fn note(&self, key: &str, status: Status) {
        let mut keys = self.0.lock();
        match status {
            Status::ExecutedUnrecorded => keys.insert(key.to_owned()),
            _ => keys.remove(key),
        };
    }
}

// === impl Heard ===

impl Service<Request> for Heard {
    type Response = Reply;
    type Error = TransportError;
    type Future = BoxFuture<'static, Result<Reply, TransportError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let key = request.stamp.as_ref().map(|stamp| stamp.call.key().clone());
        let (replied, unrecorded) = (self.channel.call(request), self.unrecorded.clone());
        Box::pin(async move {
            let reply = replied.await?;
            if let Some(key) = key {
                unrecorded.note(key.as_str(), reply.status);
            }
            Ok(reply)
        })
    }
}
