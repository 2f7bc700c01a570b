//! Where the layer can stand.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::Extension;
use axum::routing::post as route_post;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use onlyonce_middleware::http::{Body, Dedupe};
use onlyonce_middleware::server::Execution;
use onlyonce_storage::IdempotencyKey;
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceExt};

use crate::client::post;
use crate::kit::{Ledger, counting, layer, serve};

#[tokio::test]
async fn it_stands_on_a_route_on_a_router_and_around_a_router() {
    for build in [
        |ledger: &Ledger| Router::new().route("/pay", counting(ledger).layer(layer())),
        |ledger: &Ledger| Router::new().route("/pay", counting(ledger)).layer(layer()),
        |ledger: &Ledger| {
            Router::new()
                .route("/pay", counting(ledger))
                .route_layer(layer())
        },
        |ledger: &Ledger| {
            let inner = Router::new().route("/pay", counting(ledger));
            Router::new().fallback_service(layer().layer(inner))
        },
    ] {
        let ledger = Ledger::default();
        let server = serve(build(&ledger)).await;
        for said in ["executed", "replayed"] {
            let reply = post("/pay", "x").key("k").send(server).await;
            assert_eq!((reply.said(), reply.text()), (said, "x #1"));
        }
        assert_eq!(ledger.effects(), 1);
    }
}

#[tokio::test]
async fn it_stands_in_front_of_a_service_of_hyper() {
    let ledger = Ledger::default();
    let counted = ledger.clone();
    let handler = tower::service_fn(move |_: Request<Body>| {
        let paid = format!("paid #{}", counted.apply());
        ready(Ok::<_, Infallible>(Response::new(Body::from(paid))))
    });
    let service = TowerToHyperService::new(layer().layer(handler));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let builder = hyper::server::conn::http1::Builder::new();
            let serving = builder.serve_connection(TokioIo::new(socket), service.clone());
            tokio::spawn(serving);
        }
    });
    for said in ["executed", "replayed"] {
        let reply = post("/", "x").key("k").send(server).await;
        assert_eq!((reply.said(), reply.text()), (said, "paid #1"));
        // The body is in memory, and so its length is known.
        assert_eq!(reply.header("content-length"), Some("7"));
    }
    assert_eq!(ledger.effects(), 1);
}

#[tokio::test]
async fn a_handler_is_told_its_key_and_which_run_it_is() {
    let handler = async |Extension(key): Extension<IdempotencyKey>,
                         Extension(execution): Extension<Execution>| {
        format!("{} {}", key.as_str(), execution.is_rerun())
    };
    let server = serve(Router::new().route("/pay", route_post(handler).layer(layer()))).await;
    assert_eq!(
        post("/pay", "").key("k").send(server).await.text(),
        "k false"
    );
}

/// A service that fails with an error of its own.
#[derive(Clone)]
struct Failing {
    ready: Result<(), &'static str>,
}

impl Service<Request<Body>> for Failing {
    type Response = Response<Body>;
    type Error = &'static str;
    type Future = Ready<Result<Response<Body>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(self.ready)
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Err("failed"))
    }
}

#[tokio::test]
async fn an_error_without_an_answer_is_in_doubt_where_it_is_protected_and_handed_out_elsewhere() {
    let failing: Dedupe<Failing> = layer().layer(Failing { ready: Ok(()) });
    let request = |method: &str, key: &str| {
        let request = Request::builder().method(method).uri("/pay");
        request
            .header("idempotency-key", key)
            .body(Body::default())
            .unwrap()
    };
    for _ in 0..2 {
        let reply = failing.clone().oneshot(request("POST", "k")).await.unwrap();
        assert_eq!(reply.status(), 409);
        assert_eq!(reply.headers()["idempotency-status"], "in-doubt");
    }
    let passed = failing.oneshot(request("GET", "k")).await;
    assert_eq!(passed.unwrap_err(), "failed");
    let closed = layer().layer(Failing {
        ready: Err("closed"),
    });
    let refused = closed.oneshot(request("POST", "k")).await;
    assert_eq!(refused.unwrap_err(), "closed");
}

#[tokio::test]
async fn what_is_not_protected_streams_in_both_directions() {
    let echo = tower::service_fn(async |request: Request<Body>| {
        // Held as a stream: nothing has read it.
        assert!(request.body().contents().is_none());
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
    let body = futures_util::stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((Ok::<_, Infallible>(piece), receiver))
    });
    let request = Request::put("/")
        .body(axum::body::Body::from_stream(body))
        .unwrap();
    let reply = layer().layer(echo).oneshot(request).await.unwrap();
    let mut body = reply.into_body();
    for piece in ["one", "two"] {
        sender.send(piece).unwrap();
        let frame = http_body_util::BodyExt::frame(&mut body)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
}

// The inner one would wait for the outer one's call, which is its own.
#[tokio::test]
async fn a_second_layer_of_one_store_on_a_way_says_so_at_once_and_leaves_no_doubt() {
    let ledger = Ledger::default();
    let layer = layer();
    let route = counting(&ledger).layer(layer.clone());
    let server = serve(Router::new().route("/pay", route).layer(layer.clone())).await;
    for _ in 0..2 {
        let refused = post("/pay", "x").key("k").send(server).await;
        assert_eq!((refused.code, refused.said()), (503, "not-executed"));
        assert!(refused.text().contains("two dedupe layers"));
    }
    // The key is free: with one of them taken away the call is made.
    let route = counting(&ledger).layer(layer);
    let server = serve(Router::new().route("/pay", route)).await;
    let reply = post("/pay", "x").key("k").send(server).await;
    assert_eq!((reply.said(), ledger.effects()), ("executed", 1));
}

// I3
#[tokio::test]
async fn an_answer_that_a_handler_passes_on_from_another_services_record_is_shown_unasked() {
    use onlyonce_middleware::http::Body;
    use tower::{Layer, ServiceExt, service_fn};

    let request = |key: &'static str| {
        let request = http::Request::post("/pay").header("idempotency-key", key);
        request.body(Body::default()).unwrap()
    };
    let behind = layer().layer(service_fn(async |_: http::Request<Body>| {
        Ok::<_, Infallible>(http::Response::new(Body::from("paid")))
    }));
    behind.clone().oneshot(request("there")).await.unwrap();
    let asked = Ledger::default();
    let counted = asked.clone();
    let in_front = layer()
        .on_replay(move |_, _| {
            counted.apply();
            async { false }
        })
        .layer(service_fn(move |_: http::Request<Body>| {
            behind.clone().oneshot(request("there"))
        }));
    let first = in_front.clone().oneshot(request("here")).await.unwrap();
    assert_eq!((first.status().as_u16(), asked.effects()), (200, 0));
    assert_eq!(first.headers()["idempotency-status"], "executed");
    let again = in_front.oneshot(request("here")).await.unwrap();
    assert_eq!((again.status().as_u16(), asked.effects()), (403, 1));
}
