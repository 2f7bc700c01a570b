//! What a request says of its call.

use std::num::NonZeroU32;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use onlyonce_storage::{StoreId, Timestamp};
use tokio::time::Instant;

use crate::client::Call;
use crate::http::{ServingStore, key, names};

/// An attempt of a call. Goes with its request, as an extension.
#[derive(Clone, Debug)]
pub(super) struct Stamp {
    pub(super) call: Arc<Call>,
    pub(super) attempt: NonZeroU32,
    pub(super) deadline: Option<Instant>,
}

/// Every name that a stamp may write. What a caller put there is not the call's.
const NAMES: [http::HeaderName; 6] = [
    names::ATTEMPT,
    names::DEADLINE_MS,
    names::FIRST_SENT,
    names::KEY,
    names::SESSION,
    names::STORE,
];

// === impl Stamp ===

impl Stamp {
    /// Says it in `headers`: when the call was first sent and what it is bound to as far as that is
    /// known.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        for name in NAMES {
            headers.remove(name);
        }
        headers.insert(names::KEY, key::header_value(self.call.key()));
        headers.insert(names::ATTEMPT, HeaderValue::from(self.attempt.get()));
        self.write_left(headers);
        let ticket = self.call.ticket();
        write_peer(headers, ticket.first_sent, ticket.store);
    }

    /// Says how much time is left now.
    pub(super) fn write_left(&self, headers: &mut HeaderMap) {
        let Some(deadline) = self.deadline else {
            return;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        headers.insert(names::DEADLINE_MS, HeaderValue::from(millis));
    }
}

/// Says when the call was first sent, and to which store.
pub(super) fn write_peer(
    headers: &mut HeaderMap,
    first_sent: Option<Timestamp>,
    store: Option<StoreId>,
) {
    if let Some(at) = first_sent {
        headers.insert(names::FIRST_SENT, HeaderValue::from(at.as_millis()));
    }
    if let Some(id) = store {
        let store = ServingStore { id, now: None };
        headers.insert(names::STORE, store.header_value());
    }
}
