//! A handler that calls on: who retries.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the protocol of the client's tests, of which this one needs a part"
)]

#[path = "client/protocol.rs"]
mod protocol;

use std::convert::Infallible;
use std::sync::Arc;

use http::{Response, StatusCode};
use onlyonce_middleware::client::RetryLayer;
use onlyonce_middleware::http::{Body, DedupeLayer, NotExecuted};
use onlyonce_storage::{MemoryStore, Scope};
use tower::{Layer, ServiceExt};

use self::protocol::{MockAdapter, Peer, Request, refused, retry};

/// How often a dead peer is called by a handler whose own caller says this of its attempts.
async fn attempts(said: Option<&str>, retry: RetryLayer<MockAdapter>) -> usize {
    let peer = Peer::new([refused()]);
    let behind = peer.clone();
    let handler = tower::service_fn(move |_: http::Request<Body>| {
        let (behind, retry) = (behind.clone(), retry.clone());
        async move {
            let dead = behind.call(&retry, Request::new("on")).await;
            assert!(dead.is_err());
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response.extensions_mut().insert(NotExecuted);
            Ok::<_, Infallible>(response)
        }
    });
    let layer = DedupeLayer::new(Arc::new(MemoryStore::new()), Scope::global());
    let mut request = http::Request::post("/").header("idempotency-key", "k");
    if let Some(said) = said {
        request = request.header("idempotency-attempt", said);
    }
    let request = request.body(Body::default()).unwrap();
    let reply = layer.layer(handler).oneshot(request).await.unwrap();
    assert_eq!(reply.headers()["idempotency-status"], "not-executed");
    peer.attempts()
}

// P13
#[tokio::test(start_paused = true)]
async fn a_handler_whose_caller_retries_makes_one_attempt_itself() {
    assert_eq!(attempts(Some("1"), retry()).await, 1);
    assert_eq!(attempts(Some("2"), retry()).await, 1);
    assert_eq!(attempts(None, retry()).await, 3);
    assert_eq!(attempts(Some("1"), retry().retry_within_calls()).await, 3);
}
