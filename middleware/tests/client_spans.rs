//! The client's spans.
//!
//! Alone in its process: whether a span is wanted is noted for the process where it is made, and
//! another test's thread, to which nobody listens, may note it first.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the protocol of the client's other tests, of which this one needs a part"
)]

#[path = "client/protocol.rs"]
mod protocol;

use std::fmt;
use std::sync::Arc;

use onlyonce_middleware::client::{
    AttachKeyLayer, AttemptTimeoutLayer, EnforceDeadlineLayer, StampLayer,
};
use onlyonce_middleware::observe::ObserveLayer;
use onlyonce_storage::IdempotencyKey;
use parking_lot::Mutex;
use tower::{ServiceBuilder, ServiceExt as _};
use tracing::field::{Field, Visit};
use tracing::span;

use self::protocol::*;

/// Writes down all spans and what is recorded in them.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

struct Line<'a>(&'a mut Vec<String>);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push(format!("{}={value:?}", field.name()));
    }
}

#[derive(Clone)]
struct Notebook(Arc<Notes>);

impl tracing::Subscriber for Notebook {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "onlyonce"
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut notes = self.0.0.lock();
        notes.push(span.metadata().name().to_owned());
        span.record(&mut Line(&mut notes));
        span::Id::from_u64(notes.len() as u64)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut Line(&mut self.0.0.lock()));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Line(&mut self.0.0.lock()));
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

// P30
#[test]
fn spans_number_attempts_from_one_and_never_show_a_key() {
    let notes = Arc::new(Notes::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let key = IdempotencyKey::unique();
    tracing::subscriber::with_default(Notebook(Arc::clone(&notes)), || {
        let request = Request::new("a secret").with_ticket(key.clone().into());
        let peer = Peer::new([refused(), refused(), lost()]);
        let call = ServiceBuilder::new()
            .layer(ObserveLayer::new())
            .layer(AttachKeyLayer::new(MockAdapter))
            .layer(EnforceDeadlineLayer::new())
            .layer(retry())
            .layer(AttemptTimeoutLayer::new())
            .layer(StampLayer::new(MockAdapter))
            .service(peer)
            .oneshot(request);
        runtime.block_on(call).unwrap_err();
    });
    let notes = notes.0.lock();
    assert_eq!(
        *notes,
        [
            "call",
            "attempt",
            "number=1",
            "attempt",
            "number=2",
            "attempt",
            "number=3",
            "attempts=3",
            "outcome=\"unknown\"",
        ]
    );
}
