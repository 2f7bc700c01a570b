//! Client, A and B: only the outermost client retries.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response, StatusCode};
use onlyonce_middleware::client::RetryBudget;
use onlyonce_middleware::http::client::{Client, TransportError, stack};
use onlyonce_middleware::http::{Body, ServingStore, names};
use onlyonce_middleware::server::{
    Adapter, Admission, Intent, Outcome, Recording, Refusal, Served,
};
use onlyonce_storage::MemoryStore;
use onlyonce_storage::{
    Answer, Fingerprint, FingerprintAlgorithm, Fingerprints, IdempotencyKey, KeyState, Scope,
    ScopedKey, StoreId,
};
use tower::{Layer, ServiceExt, service_fn};

const STORE: StoreId = StoreId::from_bytes([7; 16]);

/// As little of a server's adapter as A needs: nothing that it answers is recorded.
#[derive(Clone)]
struct ToA;

impl Adapter for ToA {
    type Request = Request<Body>;
    type Response = Response<Body>;
    type Error = Infallible;

    async fn admit(&self, request: Request<Body>) -> Admission<Request<Body>> {
        let key = request.headers()[names::KEY].to_str().unwrap();
        let key = IdempotencyKey::parse(key.trim_matches('"')).unwrap();
        let digest = Fingerprint::builder(FingerprintAlgorithm::new(2)).finish();
        let key = ScopedKey::new(Scope::global(), key);
        let mut intent = Intent::new(key, Fingerprints::new(digest));
        // The attempt's number is there, so whoever calls can retry.
        intent.caller_retries = request.headers().contains_key(names::ATTEMPT);
        Admission::Protected(intent, request)
    }

    async fn record(
        &self,
        result: Result<Response<Body>, Infallible>,
    ) -> Recording<Response<Body>> {
        Recording {
            outcome: Outcome::NotExecuted,
            response: result.ok(),
        }
    }

    fn replay(&self, _: &Answer, _: Served) -> Result<Response<Body>, Refusal> {
        unreachable!("nothing is recorded")
    }

    fn mark(&self, mut response: Response<Body>, _: Served) -> Response<Body> {
        let store = ServingStore {
            id: STORE,
            now: None,
        };
        let headers = response.headers_mut();
        headers.insert(names::STORE, store.header_value());
        headers.insert(names::STATUS, "not-executed".parse().unwrap());
        response
    }

    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        panic!("nothing is refused: {refusal}")
    }

    fn tell(&self, _: &KeyState) -> Response<Body> {
        unreachable!("nobody asks")
    }
}

/// A client of B, which is overloaded, and how many attempts B has seen.
fn client_of_b(within_calls: bool) -> (Client, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let b = service_fn(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        let response = Response::builder()
            .status(503)
            .header("idempotency-status", "not-executed");
        std::future::ready(Ok::<_, TransportError>(
            response.body(Body::default()).unwrap(),
        ))
    });
    let client = stack(b)
        .without_asking_peers()
        .with_budget(RetryBudget::unlimited)
        .with_retry(move |retry| {
            if within_calls {
                retry.retry_within_calls()
            } else {
                retry
            }
        });
    (client.build(), seen)
}

/// A call through A, whose handler calls B and is not executed if B is not.
async fn call_through_a(to_b: Client) {
    let handler = service_fn(move |_: Request<Body>| {
        let to_b = to_b.clone();
        async move {
            let request = Request::post("http://b/").body("to b").unwrap();
            let mut response = Response::new(Body::default());
            if to_b.send(request).await.is_err() {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let store = Arc::new(MemoryStore::new());
    let a = onlyonce_middleware::stack::server(store, ToA).layer(handler);
    let transport = service_fn(move |request: Request<Body>| {
        let a = a.clone();
        async move { a.oneshot(request).await.map_err(TransportError::unknown) }
    });
    let client = stack(transport)
        .without_asking_peers()
        .with_budget(RetryBudget::unlimited)
        .build();
    let request = Request::post("http://a/").body("to a").unwrap();
    client.send(request).await.unwrap_err();
}

// P13
#[tokio::test(start_paused = true)]
async fn a_dead_service_behind_another_is_tried_as_often_as_the_outermost_client_tries() {
    let (to_b, seen) = client_of_b(false);
    call_through_a(to_b).await;
    assert_eq!(seen.load(Ordering::SeqCst), 3);

    // As it would be if each client retried for itself.
    let (to_b, seen) = client_of_b(true);
    call_through_a(to_b).await;
    assert_eq!(seen.load(Ordering::SeqCst), 9);
}
