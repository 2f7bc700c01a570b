//! What the HTTP layer logs.
//!
//! Alone in its process: whether a span is wanted is noted for the process where it is made, and
//! another test's thread, to which nobody listens, may note it first.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use http::{Request, Response};
use onlyonce_middleware::http::{Body, DedupeLayer};
use onlyonce_storage::{MemoryStore, Scope};
use parking_lot::Mutex;
use tower::{Layer, ServiceExt};
use tracing::field::{Field, Visit};
use tracing::span;

/// Writes down everything.
#[derive(Clone, Default)]
struct Notebook(Arc<Mutex<String>>);

impl Visit for Notebook {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .lock()
            .push_str(&format!("{}={value:?}\n", field.name()));
    }
}

impl tracing::Subscriber for Notebook {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        self.0.lock().push_str(span.metadata().name());
        span.record(&mut self.clone());
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

// I3
#[test]
fn neither_key_nor_credential_nor_content_is_logged_whatever_happens() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let notes = Notebook::default();
    tracing::subscriber::with_default(notes.clone(), || runtime.block_on(calls()));
    let notes = notes.0.lock();
    // It has listened.
    for said in [
        "serve",
        "half-way",
        "reply=422",
        "reply=409",
        "service=Dedupe",
    ] {
        assert!(notes.contains(said), "{said}: {notes}");
    }
    assert!(!notes.contains("secret"), "{notes}");
}

async fn calls() {
    let layer = DedupeLayer::new(
        Arc::new(MemoryStore::new()),
        Scope::principal("secret").unwrap(),
    );
    let service = layer.clone().layer(tower::service_fn(
        async |request: Request<Body>| match request.uri().path() {
            "/panics" => panic!("the handler's own words are not this crate's"),
            "/breaks" => {
                let frames = [Ok(http_body::Frame::data("half".into())), Err("secret")];
                let frames = futures_util::stream::iter(frames);
                Ok(Response::new(Body::stream(
                    http_body_util::StreamBody::new(frames),
                )))
            }
            _ => Ok::<_, Infallible>(Response::new(Body::from("secret"))),
        },
    ));
    for (path, key, body) in [
        ("/pays", "secret-1", "secret"),
        ("/pays", "secret-1", "secret"),
        ("/pays", "secret-1", "secret-other"),
        ("/pays", "secret key", "secret"),
        ("/panics", "secret-2", "secret"),
        ("/breaks", "secret-3", "secret"),
        ("/breaks", "secret-3", "secret"),
    ] {
        let request = Request::post(path).header("idempotency-key", key);
        let request = request
            .header("authorization", "secret")
            .body(Body::from(body))
            .unwrap();
        let reply = service.clone().oneshot(request).await.unwrap();
        tracing::info!(reply = ?reply.status());
    }
    tracing::info!(layer = ?layer, service = ?service);
}
