//! What goes with the attempts of a call that is in an outbox.

use std::sync::{Arc, OnceLock};

use onlyonce_storage::outbox::OutboxEntry;
use onlyonce_storage::{Clock as _, StoreId, SystemClock, Timestamp};

use crate::client::Call;
use crate::client::outbox::{NoteSentLayer, Peer};
use crate::http::client::TransportError;

/// Notes the attempts of one run of a call before they are sent. Goes with its request, as an
/// extension: of HTTP requests the peer is known only where the attempt is made.
///
/// A call that went to a peer of which nothing was known has no date: its time in the outbox is this
/// machine's, its store is none. No later run may send it, since nobody can tell whether that peer
/// knows it again.
#[derive(Clone)]
pub(in crate::http::client) struct Noting {
    layer: NoteSentLayer,
    /// When the call went out without a date, on this machine's clock.
    undated_at: Arc<OnceLock<Timestamp>>,
    undated_before: bool,
    /// No run before this one may have sent it, nor anybody else.
    never_sent: bool,
    call: Arc<OnceLock<Arc<Call>>>,
}

/// The call may have been executed by a peer that keeps no record of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the call was sent in an earlier run, to a peer that did not say that it dedupes: another \
     attempt might be executed again"
)]
struct SentToStranger;

// === impl Noting ===

impl Noting {
    /// For a run of the call that is kept as `entry`.
    pub(super) fn new(layer: NoteSentLayer, entry: &OutboxEntry) -> Self {
        let undated = entry.state.sent().filter(|sent| sent.store.is_none());
        Self {
            layer,
            undated_at: Arc::new(
                undated
                    .map(|sent| OnceLock::from(sent.at))
                    .unwrap_or_default(),
            ),
            undated_before: undated.is_some(),
            never_sent: entry.state.sent().is_none() && !entry.maybe_sent_elsewhere,
            call: Arc::default(),
        }
    }

    /// The call, once an attempt of it was made.
    pub(super) fn call(&self) -> Option<&Arc<Call>> {
        self.call.get()
    }

    /// Whether an earlier run sent the call without a date.
    pub(in crate::http::client) const fn undated_before(&self) -> bool {
        self.undated_before
    }

    /// Lets an attempt of `call` out, or says why not. `peer` is the one that it is for, as far as it
    /// is known; `dates` says whether the attempt says when the call was first sent.
    ///
    /// Says whether the note may be [taken back](Self::take_back): then the call is not bound yet.
    pub(in crate::http::client) async fn note(
        &self,
        call: &Arc<Call>,
        peer: (Option<Timestamp>, Option<StoreId>),
        dates: bool,
        assume_dedupe: bool,
    ) -> Result<bool, TransportError> {
        let first = self.call.set(Arc::clone(call)).is_ok() && self.never_sent;
        if self.undated_before && !assume_dedupe {
            return Err(TransportError::never_sent(SentToStranger));
        }
        let (now, store) = peer;
        let ticket = call.ticket();
        if let (true, true, Some(now), Some(_)) = (first, dates, now, store) {
            let noted = self.layer.note_first(call, Peer { now, store }).await;
            return noted.map(|()| true).map_err(TransportError::never_sent);
        }
        let dated_by = match (now, store) {
            (Some(now), Some(_)) if dates => Some(Peer { now, store }),
            // It has a date, and its peer says none to compare it with.
            _ => ticket.first_sent.map(|now| Peer {
                now,
                store: ticket.store,
            }),
        };
        let noted = match dated_by {
            Some(peer) => self.layer.note(call, peer).await,
            None => {
                let now = SystemClock.now();
                let at = *self.undated_at.get_or_init(|| now);
                self.layer.note_undated(call, at, now).await
            }
        };
        noted.map(|()| false).map_err(TransportError::never_sent)
    }

    /// Takes the note of the call's only attempt back, which was provably not executed; whether that is
    /// durable. The call is then as one that was never sent.
    pub(in crate::http::client) async fn take_back(&self, call: &Call) -> bool {
        self.layer.take_back(call).await.is_ok()
    }
}
