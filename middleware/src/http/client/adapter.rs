//! How the client's layers speak HTTP.

use http::{Request, Response};
use onlyonce_storage::IdempotencyKey;
use tokio::time::Instant;

use super::stamp::Stamp;
use super::{Classification, Deadline, TransportError};
use crate::client::{self, Call, Keyed, Ticket, Verdict};
use crate::http::{Body, key, try_clone_request};

/// Adapts the client's layers to HTTP.
///
/// The call's ticket is the [`Ticket`] or [`IdempotencyKey`] among the request's extensions, or its
/// header `Idempotency-Key`; a header that is no key counts as none (a [`Client`](super::Client)
/// refuses it). The headers that speak of the call are written anew for each attempt.
///
/// [`stack()`](super::stack()) uses it; by itself it is for stacks of your own, which then have to read
/// bodies, and to learn of peers, themselves.
#[derive(Clone, Debug, Default)]
pub struct Adapter {
    classification: Classification,
    /// The requests have no effect, and need no key.
    safe: bool,
}

// === impl Adapter ===

impl Adapter {
    /// An adapter that takes answers as `classification` says.
    #[must_use]
    pub const fn new(classification: Classification) -> Self {
        Self {
            classification,
            safe: false,
        }
    }

    /// An adapter for requests without effects.
    pub(super) const fn safe(classification: Classification) -> Self {
        Self {
            classification,
            safe: true,
        }
    }
}

impl client::Adapter<Request<Body>> for Adapter {
    type Response = Response<Body>;
    type Error = TransportError;

    fn ticket(&self, request: &Request<Body>) -> Option<Ticket> {
        let extensions = request.extensions();
        let key = || extensions.get::<IdempotencyKey>().cloned();
        let header = || key::read(request.headers()).ok().flatten();
        let ticket = extensions.get::<Ticket>().cloned();
        ticket.or_else(|| key().or_else(header).map(Ticket::new))
    }

    fn deadline(&self, request: &Request<Body>) -> Option<Instant> {
        request.extensions().get().map(|Deadline(at)| *at)
    }

    fn stamp(&self, keyed: Keyed<Request<Body>>) -> Request<Body> {
        let (attempt, deadline) = (keyed.attempt(), keyed.deadline());
        let (mut request, call) = keyed.into_parts();
        if !self.safe {
            let stamp = Stamp {
                call,
                attempt,
                deadline,
            };
            stamp.write(request.headers_mut());
            request.extensions_mut().insert(stamp);
        }
        request
    }

    fn try_clone(&self, request: &Request<Body>) -> Option<Request<Body>> {
        try_clone_request(request)
    }

    fn classify(&self, call: &Call, result: Result<&Response<Body>, &TransportError>) -> Verdict {
        self.classification.classify(call, result)
    }
}
