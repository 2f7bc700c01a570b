//! Several layers on one way, and answers that say nothing of a call.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use onlyonce_middleware::client::Outcome;
use onlyonce_middleware::grpc;
use onlyonce_middleware::grpc::client::{Error, stack};
use onlyonce_middleware::http::client::TransportError;
use onlyonce_middleware::http::{self as ohttp, Body, Contents};
use onlyonce_middleware::server::{DedupeOptions, Wait};
use onlyonce_storage::{MemoryStore, Scope, Store};
use tower::{Layer, ServiceExt, service_fn};

const PATH: &str = "/bank.Bank/Transfer";
const OTHER: &str = "/bank.Bank/Refund";

fn request(key: &str) -> Request<Body> {
    Request::post(PATH)
        .header("content-type", "application/grpc")
        .header("idempotency-key", key)
        .body(Body::from("\0\0\0\0\x0210"))
        .unwrap()
}

fn cut_body() -> Body {
    let frames = vec![Ok(Frame::data(Bytes::from_static(b"half of "))), Err("cut")];
    Body::stream(StreamBody::new(stream::iter(frames)))
}

// F6
#[tokio::test]
async fn an_answer_that_is_cut_is_in_doubt_also_within_a_layer_that_lets_the_method_pass() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let base = grpc::DedupeLayer::new(store, Scope::global());
    let handler =
        service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(cut_body())));
    let single = base.clone().protect(PATH).layer(handler);
    let one = shown(single.clone().oneshot(request("a")).await.unwrap()).await;
    let inner = base.clone().protect(OTHER).layer(handler);
    let nested = base.protect(PATH).layer(inner);
    let two = shown(nested.clone().oneshot(request("b")).await.unwrap()).await;
    let three = shown(nested.oneshot(request("b")).await.unwrap()).await;
    assert!(one.contains("grpc=Some(\"2\")"));
    assert!(two.contains("grpc=Some(\"2\")"), "{two}");
    assert!(three.contains("grpc=Some(\"2\")"), "{three}");
}

#[tokio::test]
async fn an_answer_that_is_cut_is_in_doubt_also_where_another_layer_reads_it() {
    let effects = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&effects);
    let handler = service_fn(move |_: Request<Body>| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(Response::new(cut_body())) }
    });
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let pay = || {
        Request::post("/pay")
            .header("idempotency-key", "k")
            .body(Body::from("x"))
            .unwrap()
    };
    let alone = ohttp::DedupeLayer::new(Arc::new(MemoryStore::new()), Scope::global());
    let alone = alone.layer(handler.clone());
    shown(alone.oneshot(pay()).await.unwrap()).await;
    let inner = grpc::DedupeLayer::new(Arc::clone(&store), Scope::global()).protect(PATH);
    let outer = ohttp::DedupeLayer::new(store, Scope::global());
    let both = outer.layer(inner.layer(handler));
    let first = shown(both.clone().oneshot(pay()).await.unwrap()).await;
    let again = shown(both.oneshot(pay()).await.unwrap()).await;
    assert!(first.contains("in-doubt"), "{first}");
    assert!(again.contains("in-doubt"), "{again}");
}

#[tokio::test]
async fn a_transaction_whose_answer_is_cut_commits_nothing_within_another_layer() {
    use onlyonce_storage::transaction::{RowRange, Table, Transaction, TransactionalStore as _};
    const SEATS: Table = Table::new("seats");
    let handler = service_fn(move |request: Request<Body>| {
        let seats = request.extensions().get::<Transaction>().cloned().unwrap();
        seats.put(&SEATS, b"12a", b"taken").unwrap();
        async { Ok::<_, Infallible>(Response::new(cut_body())) }
    });
    let pay = || {
        Request::post("/pay")
            .header("idempotency-key", "k")
            .body(Body::from("x"))
            .unwrap()
    };
    let mut rows = Vec::new();
    for nested in [false, true] {
        let memory = Arc::new(MemoryStore::new());
        let store: Arc<dyn Store> = memory.clone();
        let outer = ohttp::DedupeLayer::new(Arc::clone(&store), Scope::global()).transactional();
        let response = if nested {
            let inner = grpc::DedupeLayer::new(store, Scope::global()).protect(PATH);
            outer
                .layer(inner.layer(handler))
                .oneshot(pay())
                .await
                .unwrap()
        } else {
            outer.layer(handler).oneshot(pay()).await.unwrap()
        };
        shown(response).await;
        rows.push(
            memory
                .read(RowRange::of_key(&SEATS, b"12a"))
                .await
                .unwrap()
                .len(),
        );
    }
    assert_eq!(rows, [0, 0], "rows that were committed");
}

// J7
#[tokio::test]
async fn a_second_layer_of_one_store_on_a_method_says_so_at_once_and_leaves_no_doubt() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut options = DedupeOptions::default();
    options.wait = Wait::UpTo(Duration::from_millis(300));
    let base = grpc::DedupeLayer::with_options(store, Scope::global(), options).protect(PATH);
    let effects = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&effects);
    let handler = service_fn(move |_: Request<Body>| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let contents = Contents {
                bytes: b"\0\0\0\0\0"[..].into(),
                trailers: Some(trailers),
            };
            Ok::<_, Infallible>(Response::new(Body::from(contents)))
        }
    });
    let twice = base.clone().layer(base.layer(handler));
    let first = shown(twice.clone().oneshot(request("k")).await.unwrap()).await;
    assert_eq!(effects.load(Ordering::SeqCst), 0);
    shown(twice.oneshot(request("k")).await.unwrap()).await;
    assert!(first.contains("not-executed"), "{first}");
}

#[tokio::test]
async fn a_code_beside_a_status_that_is_not_known_proves_nothing() {
    let mut wrong = Vec::new();
    for lines in [&["something-new"][..], &["in-doubt", "in-doubt"]] {
        for code in ["3", "6", "7", "9", "12", "16"] {
            let transport = service_fn(move |_: Request<Body>| async move {
                let mut response = Response::builder()
                    .header("content-type", "application/grpc")
                    .header("grpc-status", code);
                for line in lines {
                    response = response.header("idempotency-status", *line);
                }
                Ok::<_, TransportError>(response.body(Body::default()).unwrap())
            });
            let client = stack(transport).protect(PATH).build();
            let mut request = request("k");
            *request.uri_mut() = format!("http://bank.example{PATH}").parse().unwrap();
            request.headers_mut().remove("idempotency-key");
            let result = client.oneshot(request).await;
            let unknown =
                matches!(&result, Err(Error::Call(error)) if error.outcome == Outcome::Unknown);
            if !unknown {
                wrong.push(format!("{lines:?} {code}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "told as refusals that are provably not executed: {wrong:?}"
    );
}

// P24
#[tokio::test]
async fn a_code_without_a_status_is_no_answer_to_a_call_that_may_have_been_executed() {
    let mut wrong = Vec::new();
    for code in 0..17_u16 {
        let posts = Arc::new(AtomicUsize::new(0));
        let transport = service_fn(move |_: Request<Body>| {
            let posts = Arc::clone(&posts);
            async move {
                let mut response = Response::new(Body::default());
                let headers = response.headers_mut();
                match posts.fetch_add(1, Ordering::SeqCst) {
                    0 => {
                        headers.insert("grpc-status", HeaderValue::from_static("0"));
                        headers.insert("idempotency-status", HeaderValue::from_static("executed"));
                        headers.insert("idempotency-store", store_line());
                        Ok(response)
                    }
                    1 => Err(TransportError::unknown("executed, and the answer was lost")),
                    _ => {
                        headers.insert("grpc-status", HeaderValue::from(code));
                        Ok(response)
                    }
                }
            }
        });
        let mut client = stack(transport).protect(PATH).build();
        use tower::Service;
        client.call(call()).await.unwrap();
        if client.call(call()).await.is_ok() {
            wrong.push(code);
        }
    }
    assert!(
        wrong.is_empty(),
        "taken for the answer of an executed call: {wrong:?}"
    );
}

#[tokio::test]
async fn a_request_that_was_cut_off_may_come_again() {
    let handler =
        service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::default())));
    let bank = grpc::DedupeLayer::new(Arc::new(MemoryStore::new()), Scope::global())
        .protect(PATH)
        .layer(handler);
    let (head, _) = request("k").into_parts();
    let refused = bank
        .oneshot(Request::from_parts(head, cut_body()))
        .await
        .unwrap();
    let pushback = refused.headers().get("grpc-retry-pushback-ms").cloned();
    shown(refused).await;
    assert_ne!(pushback, Some(HeaderValue::from_static("-1")));
}

// I3
#[tokio::test]
async fn an_answer_that_a_handler_passes_on_from_another_services_record_is_shown_unasked() {
    let layer = || grpc::DedupeLayer::new(Arc::new(MemoryStore::new()), Scope::global());
    let behind = layer()
        .protect(PATH)
        .layer(service_fn(async |_: Request<Body>| {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let contents = Contents {
                bytes: b"\0\0\0\0\0"[..].into(),
                trailers: Some(trailers),
            };
            Ok::<_, Infallible>(Response::new(Body::from(contents)))
        }));
    behind.clone().oneshot(request("there")).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let in_front = layer()
        .protect(PATH)
        .on_replay(move |_, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { false }
        })
        .layer(service_fn(move |_: Request<Body>| {
            behind.clone().oneshot(request("there"))
        }));
    let first = shown(in_front.clone().oneshot(request("here")).await.unwrap()).await;
    assert_eq!(asked.load(Ordering::SeqCst), 0, "{first}");
    assert!(first.contains("executed"), "{first}");
    let again = shown(in_front.oneshot(request("here")).await.unwrap()).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1, "{again}");
    assert!(again.contains("grpc=Some(\"7\")"), "{again}");
}

async fn shown(response: Response<Body>) -> String {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let line = |name: &str| {
        head.headers
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
    };
    format!(
        "http={} status={:?} grpc={:?} body={:?} trailers={:?}",
        head.status.as_u16(),
        line("idempotency-status"),
        line("grpc-status"),
        body.trailers().cloned(),
        body.to_bytes(),
    )
}

fn call() -> Request<Body> {
    let mut request = request("k");
    *request.uri_mut() = format!("http://bank.example{PATH}").parse().unwrap();
    request.headers_mut().remove("idempotency-key");
    request
}

fn store_line() -> HeaderValue {
    ohttp::ServingStore {
        id: onlyonce_storage::StoreId::from_bytes([1; 16]),
        now: Some(onlyonce_storage::Timestamp::from_millis(1_763_740_800_000)),
    }
    .header_value()
}
