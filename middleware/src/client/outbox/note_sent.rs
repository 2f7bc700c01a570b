//! Nothing is sent of which the outbox does not know.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use onlyonce_storage::outbox::{FirstSent, OutboxChange, OutboxError, OutboxStore};
use onlyonce_storage::{RetentionOptions, StoreId, Timestamp, kill_point};
use tower_layer::Layer;
use tower_service::Service;

use super::policy;
use crate::client::{Call, Keyed};

/// Notes durably that a call is being sent, when for the first time, and to which store, before the
/// transport gets it.
///
/// Without that note a process that starts again could only say "perhaps": the server's record of the
/// call may be gone, or the server be another one with a store of its own, and each would take the
/// call for a new one.
///
/// Stands inside of [`AttemptTimeoutLayer`](crate::client::AttemptTimeoutLayer) and around
/// [`StampLayer`](crate::client::StampLayer). Further out it would not know which peer the attempt
/// goes to. Every call that passes must be in the outbox; others are refused.
///
/// The first attempt of a call waits for the disk once; later ones only ask.
#[derive(Clone)]
#[must_use = "a layer does nothing until it wraps a service"]
pub struct NoteSentLayer {
    outbox: Arc<dyn OutboxStore>,
    horizon: Duration,
}

/// Notes what is being sent. See [`NoteSentLayer`].
///
/// It is ready when what it wraps is, and takes that readiness with it into its future.
///
/// # Errors
///
/// A [`NoteSentError`], turned into the transport's own; then nothing was sent. Otherwise what the
/// transport fails with.
///
/// # Cancellation
///
/// Dropping the future may leave a call noted as sent that never was. It is then taken for one that
/// may have been executed.
#[derive(Clone)]
pub struct NoteSent<S> {
    inner: S,
    layer: NoteSentLayer,
}

/// A transport that knows whom it is ready to send to.
pub trait TellPeer {
    /// The peer that the next call of this instance goes to.
    ///
    /// `None` where there is nobody: then the next call fails, and sends nothing.
    fn peer(&self) -> Option<Peer>;
}

/// Whom a transport is ready to send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What its clock shows.
    pub now: Timestamp,
    /// Its store, if it names one.
    pub store: Option<StoreId>,
}

/// Why an attempt was not handed to the transport. Nothing of it was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteSentError {
    /// The call is older than what servers remember: its outcome cannot be learned any more.
    #[error(
        "call was first sent {} s ago, and servers remember {} s; its outcome is unknown",
        age.as_secs(),
        horizon.as_secs()
    )]
    Aged {
        /// How long ago it was first sent, on the server's clock.
        age: Duration,
        /// For how long calls are remembered.
        horizon: Duration,
    },
    /// The outbox could not note it.
    #[error("outbox could not note that the call is sent: {0}")]
    Outbox(#[from] OutboxError),
}

// === impl NoteSentLayer ===

impl NoteSentLayer {
    /// Notes in `outbox`. Calls that were first sent more than 7 days ago, which is what stores
    /// remember by default, are not sent.
    pub fn new(outbox: Arc<dyn OutboxStore>) -> Self {
        Self {
            outbox,
            horizon: RetentionOptions::default().horizon,
        }
    }

    /// Sends calls until they are as old as this: no older than what the server's store remembers.
    pub const fn with_horizon(mut self, horizon: Duration) -> Self {
        self.horizon = horizon;
        self
    }

    /// Notes that `call` is being sent to `peer`, and binds it to that peer's time and store. For
    /// transports that know their peer of each request only.
    pub(crate) async fn note(&self, call: &Call, peer: Peer) -> Result<(), NoteSentError> {
        let at = call.first_sent_or(peer.now);
        if let Some(store) = peer.store {
            call.bind(store);
        }
        let store = call.store();
        // The clock of another store says nothing of the age; that server refuses the call.
        if store == peer.store && policy::is_aged(at, peer.now, self.horizon) {
            return Err(NoteSentError::Aged {
                age: peer.now.since(at),
                horizon: self.horizon,
            });
        }
        self.mark(call, FirstSent { at, store }).await
    }

    /// Notes that `call` is being sent to a peer of which neither time nor store are known, for the
    /// first time at `at` by this machine's clock, which shows `now`. It is not bound to that time: no
    /// server is told a time that is not of its own clock.
    #[cfg(feature = "http")]
    pub(crate) async fn note_undated(
        &self,
        call: &Call,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<(), NoteSentError> {
        if policy::is_aged(at, now, self.horizon) {
            return Err(NoteSentError::Aged {
                age: now.since(at),
                horizon: self.horizon,
            });
        }
        self.mark(call, FirstSent { at, store: None }).await
    }

    /// Notes that `call`, which was never sent, is being sent to `peer`. It is bound to neither time nor
    /// store: whoever asks for this does that, or [takes the note back](Self::take_back).
    #[cfg(feature = "http")]
    pub(crate) async fn note_first(&self, call: &Call, peer: Peer) -> Result<(), NoteSentError> {
        let (at, store) = (peer.now, peer.store);
        self.mark(call, FirstSent { at, store }).await
    }

    /// Notes that `call` was not executed, so that it may go to another store than the one that is noted.
    /// For a call of which one attempt was noted, and that one was provably not executed.
    #[cfg(feature = "http")]
    pub(crate) async fn take_back(&self, call: &Call) -> Result<(), NoteSentError> {
        let change = OutboxChange::NotExecuted;
        Ok(self.outbox.change(call.key(), change).await?)
    }

    async fn mark(&self, call: &Call, sent: FirstSent) -> Result<(), NoteSentError> {
        kill_point!("outbox: ready to send, not noted");
        let noted = OutboxChange::MarkSent(sent);
        self.outbox.change(call.key(), noted).await?;
        kill_point!("outbox: noted as sent, not sent");
        Ok(())
    }
}

impl<S> Layer<S> for NoteSentLayer {
    type Service = NoteSent<S>;

    fn layer(&self, inner: S) -> Self::Service {
        NoteSent {
            inner,
            layer: self.clone(),
        }
    }
}

impl fmt::Debug for NoteSentLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSentLayer")
            .field("horizon", &self.horizon)
            .finish_non_exhaustive()
    }
}

// === impl NoteSent ===

impl<S, Req> Service<Keyed<Req>> for NoteSent<S>
where
    S: Service<Keyed<Req>> + TellPeer + Clone + Send + 'static,
    S::Future: Send,
    S::Error: From<NoteSentError>,
    Req: Send + Sync + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, keyed: Keyed<Req>) -> Self::Future {
        // The instance that is ready, with the place that it holds at its peer.
        let fresh = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, fresh);
        let layer = self.layer.clone();
        Box::pin(async move {
            if let Some(peer) = ready.peer() {
                layer.note(keyed.call(), peer).await?;
            }
            let response = ready.call(keyed);
            kill_point!("outbox: handed to the transport, not answered");
            response.await
        })
    }
}

impl<S: fmt::Debug> fmt::Debug for NoteSent<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSent")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}
