//! When the next attempt is made. The transport is scripted and the clock paused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::{Request, Response};
use onlyonce_middleware::client::{Outcome, RetryBudget, Stopped};
use onlyonce_middleware::http::Body;
use onlyonce_middleware::http::client::{Stack, TransportError, stack};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::service_fn;

type Times = Arc<Mutex<Vec<(u32, Duration)>>>;

/// A peer that refuses first attempts with these headers; and when attempts came.
fn refusing(headers: &'static [(&'static str, &'static str)]) -> (Stack, Times) {
    let times = Times::default();
    let (noted, began) = (Arc::clone(&times), Instant::now());
    let transport = service_fn(move |request: Request<Body>| {
        let attempt = request.headers()["idempotency-attempt"].to_str().unwrap();
        let attempt: u32 = attempt.parse().unwrap();
        noted.lock().push((attempt, began.elapsed()));
        let mut response = Response::builder();
        if attempt == 1 {
            response = response
                .status(429)
                .header("idempotency-status", "not-executed");
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
        }
        std::future::ready(Ok::<_, TransportError>(response.body("".into()).unwrap()))
    });
    let client = stack(transport)
        .without_asking_peers()
        .with_budget(RetryBudget::unlimited);
    (client, times)
}

fn post() -> Request<Body> {
    Request::post("http://peer/").body("a".into()).unwrap()
}

fn second_attempts(times: &Times) -> Vec<Duration> {
    let times = times.lock();
    let second = times.iter().filter(|(attempt, _)| *attempt == 2);
    second.map(|(_, at)| *at).collect()
}

// P7
#[tokio::test(start_paused = true)]
async fn clients_that_are_told_to_come_back_in_a_second_do_not_all_come_at_once() {
    let (client, times) = refusing(&[("retry-after", "1")]);
    let client = client.build();
    for result in join_all((0..1_000).map(|_| client.send(post()))).await {
        result.unwrap();
    }
    let times = second_attempts(&times);
    assert_eq!(times.len(), 1_000);
    let millis: BTreeSet<_> = times.iter().map(Duration::as_millis).collect();
    assert!(*millis.first().unwrap() >= 1_000, "{millis:?}");
    // The window of the first retry is 50 ms.
    assert!(millis.len() > 40, "{millis:?}");
}

// P7
#[tokio::test(start_paused = true)]
async fn a_hint_past_the_deadline_ends_the_call_at_once() {
    let began = Instant::now();
    let (client, times) = refusing(&[("retry-after", "31536000")]);
    let error = client.build().send(post()).await.unwrap_err();
    assert_eq!(error.stopped, Stopped::Deadline);
    assert_eq!(error.outcome, Outcome::NotExecuted);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(second_attempts(&times).is_empty());
}

// P7
#[tokio::test(start_paused = true)]
async fn a_date_is_read_by_the_answers_own_clock_and_one_that_is_past_is_no_hint() {
    let now = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    let in_ten = ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT");
    let past = ("retry-after", "Sun, 06 Nov 1994 08:49:30 GMT");
    for (hint, from, to) in [(in_ten, 10_000, 10_051), (past, 0, 51)] {
        // A slice that lives as long as the transport.
        let headers: &'static [_] = Box::leak(Box::new([now, hint]));
        let (client, times) = refusing(headers);
        // 10 s is more than a peer can ask for: the rest is cut to 5 s.
        client.build().send(post()).await.unwrap();
        let at = second_attempts(&times)[0].as_millis();
        let (from, to) = if from > 5_000 {
            (5_000, 5_051)
        } else {
            (from, to)
        };
        assert!((from..to).contains(&at), "{hint:?}: {at}");
    }
}

// P7
#[tokio::test(start_paused = true)]
async fn milliseconds_are_read_before_seconds() {
    let (client, times) = refusing(&[("retry-after", "3"), ("retry-after-ms", "40")]);
    client.build().send(post()).await.unwrap();
    let at = second_attempts(&times)[0].as_millis();
    assert!((40..=91).contains(&at), "{at}");
}
