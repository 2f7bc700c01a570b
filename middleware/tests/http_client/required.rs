//! Calls that go only to peers that say that they dedupe.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderValue, Method, Request, Response, StatusCode};
use onlyonce_middleware::client::{Outcome, Stopped};
use onlyonce_middleware::http::client::{TransportError, stack};
use onlyonce_middleware::http::{Body, ServingStore};
use onlyonce_storage::{StoreId, Timestamp};
use tower::service_fn;

/// What a peer does with its questions, in order; the last one for ever.
#[derive(Clone, Copy, Debug)]
enum Said {
    /// The answer is lost.
    Lost,
    /// Somebody in between answers.
    Between,
    /// It does not dedupe.
    Nothing,
    /// It dedupes.
    Store,
}

/// How a call ends, and how often it was executed.
async fn call(said: &'static [Said]) -> (Result<u16, (Outcome, Stopped)>, usize) {
    let (questions, effects) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let counting = Arc::clone(&effects);
    let transport = service_fn(move |request: Request<Body>| {
        let (questions, effects) = (Arc::clone(&questions), Arc::clone(&counting));
        async move {
            let mut response = Response::new(Body::default());
            if request.method() == Method::OPTIONS {
                let question = questions.fetch_add(1, Ordering::SeqCst);
                match said[question.min(said.len() - 1)] {
                    Said::Lost => return Err(TransportError::unknown("lost")),
                    Said::Between => *response.status_mut() = StatusCode::BAD_GATEWAY,
                    Said::Nothing => {}
                    Said::Store => name_store(&mut response),
                }
                return Ok(response);
            }
            effects.fetch_add(1, Ordering::SeqCst);
            name_store(&mut response);
            let executed = HeaderValue::from_static("executed");
            response
                .headers_mut()
                .insert("idempotency-status", executed);
            Ok(response)
        }
    });
    let client = stack(transport).require_dedupe().build();
    let request = Request::post("http://peer/pay").body(Body::from("10"));
    let ended = client.send(request.unwrap()).await;
    let ended = ended
        .map(|response| response.status().as_u16())
        .map_err(|error| (error.outcome, error.stopped));
    (ended, effects.load(Ordering::SeqCst))
}

fn name_store(response: &mut Response<Body>) {
    let store = ServingStore {
        id: StoreId::from_bytes([1; 16]),
        now: Some(Timestamp::from_millis(1_000)),
    };
    let headers = response.headers_mut();
    headers.insert("idempotency-store", store.header_value());
}

// H4
#[tokio::test(start_paused = true)]
async fn a_call_that_needs_a_deduping_peer_is_sent_to_no_other() {
    let refused = Err((Outcome::NotExecuted, Stopped::Final));
    assert_eq!(call(&[Said::Nothing]).await, (refused, 0));
    for unanswered in [&[Said::Lost][..], &[Said::Between]] {
        let stopped = Err((Outcome::NotExecuted, Stopped::Attempts));
        assert_eq!(call(unanswered).await, (stopped, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_that_was_lost_is_asked_again_where_the_peer_has_to_dedupe() {
    assert_eq!(call(&[Said::Store]).await, (Ok(200), 1));
    for first in [
        &[Said::Lost, Said::Store][..],
        &[Said::Between, Said::Store],
    ] {
        assert_eq!(call(first).await, (Ok(200), 1), "{first:?}");
    }
}
