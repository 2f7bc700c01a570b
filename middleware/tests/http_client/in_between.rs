//! Answers of somebody in between, which say nothing of a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use onlyonce_middleware::client::Outcome;
use onlyonce_middleware::http::client::{Outbox, TransportError, stack};
use onlyonce_middleware::http::{Body, ServingStore};
use onlyonce_storage::{OutboxOptions, Scope, SledOutbox, StoreId, Timestamp};
use tower::service_fn;

#[derive(Clone, Default)]
struct World {
    effects: Arc<AtomicUsize>,
    questions: Arc<AtomicUsize>,
    layerless: Arc<AtomicBool>,
    loses: Arc<AtomicBool>,
}

// H4
#[tokio::test(start_paused = true)]
async fn a_question_that_somebody_in_between_answered_is_asked_again_before_a_call_is_sent_again() {
    // Also where the server was only starting when it was asked for the first time.
    for first_question in [
        StatusCode::OK,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::BAD_GATEWAY,
    ] {
        let (outcome, effects) = redeployed(first_question).await;
        assert_eq!(
            (outcome, effects),
            (Outcome::Unknown, 1),
            "{first_question}"
        );
    }
}

#[tokio::test]
async fn what_says_nothing_of_the_call_is_no_answer_to_one_that_may_have_been_executed() {
    for code in [200, 204, 302, 401, 403, 404, 405, 410, 500, 503] {
        let (plain, kept) = after_a_lost_answer(code).await;
        assert_eq!((plain, kept), (Err(Outcome::Unknown), false), "{code}");
    }
}

/// Calls a server that is deployed anew without the layer, and then loses an answer. Its first answer to
/// a question is `first_question`.
async fn redeployed(first_question: StatusCode) -> (Outcome, usize) {
    let world = World::default();
    let it = world.clone();
    let transport = service_fn(move |request: Request<Body>| {
        let it = it.clone();
        async move {
            let mut response = Response::new(Body::default());
            if request.method() == Method::OPTIONS {
                if it.questions.fetch_add(1, Ordering::SeqCst) == 0
                    && first_question != StatusCode::OK
                {
                    *response.status_mut() = first_question;
                } else if !it.layerless.load(Ordering::SeqCst) {
                    response
                        .headers_mut()
                        .insert("idempotency-store", store_line());
                }
                return Ok(response);
            }
            // A server without the layer executes whatever comes; all keys here are new for one with it.
            it.effects.fetch_add(1, Ordering::SeqCst);
            if it.loses.swap(false, Ordering::SeqCst) {
                return Err(TransportError::unknown("the answer was lost"));
            }
            if !it.layerless.load(Ordering::SeqCst) {
                let headers = response.headers_mut();
                headers.insert("idempotency-store", store_line());
                headers.insert("idempotency-status", HeaderValue::from_static("executed"));
            }
            Ok(response)
        }
    });
    let client = stack(transport).build();
    // Two calls, so that the route is long known by its answers.
    client.send(post("a")).await.unwrap();
    tokio::time::advance(Duration::from_secs(90)).await;
    client.send(post("b")).await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    // Deployed anew without the layer; and the answer of the next call is lost.
    world.layerless.store(true, Ordering::SeqCst);
    world.loses.store(true, Ordering::SeqCst);
    let before = world.effects.load(Ordering::SeqCst);
    let outcome = client.send(post("c")).await.unwrap_err().outcome;
    let effects = world.effects.load(Ordering::SeqCst) - before;
    (outcome, effects)
}

/// The answer of the first attempt is lost; the next ones meet somebody who answers with `code`, and
/// nothing else. What the client ends with, and whether an outbox keeps it.
async fn after_a_lost_answer(code: u16) -> (Result<u16, Outcome>, bool) {
    let make = |posts: Arc<AtomicUsize>| {
        service_fn(move |request: Request<Body>| {
            let posts = Arc::clone(&posts);
            async move {
                let mut response = Response::new(Body::default());
                if request.method() == Method::OPTIONS {
                    response
                        .headers_mut()
                        .insert("idempotency-store", store_line());
                    return Ok(response);
                }
                match posts.fetch_add(1, Ordering::SeqCst) {
                    0 => Err(TransportError::unknown("executed, and the answer was lost")),
                    _ => {
                        *response.status_mut() = StatusCode::from_u16(code).unwrap();
                        Ok(response)
                    }
                }
            }
        })
    };
    let posts = Arc::new(AtomicUsize::new(0));
    let client = stack(make(posts)).build();
    let plain = client
        .send(post("a"))
        .await
        .map(|r| r.status().as_u16())
        .map_err(|e| e.outcome);
    let posts = Arc::new(AtomicUsize::new(0));
    let client = stack(make(Arc::clone(&posts))).build();
    let folder = tempfile::tempdir().unwrap();
    let opened = SledOutbox::open_async(
        folder.path().join("o"),
        Scope::global(),
        OutboxOptions::new(),
    )
    .await
    .unwrap();
    let outbox = Outbox::new(client, Arc::new(opened));
    let kept = outbox.call(post("b")).await.is_ok();
    (plain, kept)
}

fn store_line() -> HeaderValue {
    ServingStore {
        id: StoreId::from_bytes([1; 16]),
        now: Some(Timestamp::from_millis(1_763_740_800_000)),
    }
    .header_value()
}

fn post(body: &'static str) -> Request<Body> {
    Request::post("http://shop.example/pay")
        .body(Body::from(body))
        .unwrap()
}
