//! What a handler's answer means for its key.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use axum::routing::post as route_post;
use http::StatusCode;
use onlyonce_middleware::http::{Definitive, NotExecuted};
use onlyonce_middleware::server::{Doubt, InDoubtPolicy, Reconciled, Reconciliation};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::timeout::TimeoutLayer;

use crate::client::post;
use crate::kit::{Ledger, answering, layer, serve};

fn with_status(code: u16) -> Response {
    let code = StatusCode::from_u16(code).unwrap();
    if code == StatusCode::NO_CONTENT {
        return code.into_response();
    }
    (code, format!("answer {code}")).into_response()
}

// D1, D2, D3, D7
#[tokio::test]
async fn answers_below_500_are_replayed_but_those_that_say_come_again_free_the_key() {
    for code in [200, 201, 204, 303, 400, 402, 404, 409, 422] {
        let (server, ledger) = answering(layer(), move || with_status(code)).await;
        let first = post("/pay", "").key("k").send(server).await;
        let again = post("/pay", "").key("k").send(server).await;
        assert_eq!((first.code, first.said()), (code, "executed"));
        assert_eq!((again.code, again.said()), (code, "replayed"));
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!((first.body, ledger.effects()), (again.body, 1));
    }
    for code in [401, 407, 421, 425, 429] {
        let (server, ledger) = answering(layer(), move || with_status(code)).await;
        for effects in 1..3 {
            let reply = post("/pay", "").key("k").send(server).await;
            assert_eq!((reply.code, reply.said()), (code, "not-executed"));
            assert_eq!(ledger.effects(), effects);
        }
    }
}

// D4
#[tokio::test]
async fn a_5xx_is_in_doubt_and_every_duplicate_gets_that_same_answer() {
    for code in [500, 502, 503, 504] {
        let (server, ledger) = answering(layer(), move || with_status(code)).await;
        let first = post("/pay", "").key("k").send(server).await;
        let again = post("/pay", "").key("k").send(server).await;
        for reply in [&first, &again] {
            assert_eq!((reply.code, reply.said()), (code, "in-doubt"));
        }
        assert_eq!((first.body, ledger.effects()), (again.body, 1));
    }
}

// D4
#[tokio::test(start_paused = true)]
async fn a_handler_that_a_timeout_inside_has_cut_off_is_in_doubt_whatever_code_that_says() {
    for code in [408, 503, 504] {
        let ledger = Ledger::default();
        let counted = ledger.clone();
        let handler = service_fn(move |_: http::Request<onlyonce_middleware::http::Body>| {
            counted.apply();
            // Never comes to the second half of its effect.
            std::future::pending::<Result<Response, Infallible>>()
        });
        let status = StatusCode::from_u16(code).unwrap();
        let second = Duration::from_secs(1);
        let timeout = TimeoutLayer::with_status_code(status, second).layer(handler);
        let service = layer().layer(timeout);
        for _ in 0..2 {
            let request = http::Request::post("/pay").header("idempotency-key", "k");
            let request = request.body(Body::empty()).unwrap();
            let reply = service.clone().oneshot(request).await.unwrap();
            assert_eq!(reply.status(), code);
            assert_eq!(reply.headers()["idempotency-status"], "in-doubt", "{code}");
        }
        assert_eq!(ledger.effects(), 1);
    }
}

#[tokio::test]
async fn a_503_frees_the_key_only_where_that_is_declared() {
    let (server, ledger) = answering(layer().release_503(), || with_status(503)).await;
    for effects in 1..3 {
        let reply = post("/pay", "").key("k").send(server).await;
        assert_eq!((reply.code, reply.said()), (503, "not-executed"));
        assert_eq!(ledger.effects(), effects);
    }
    let (server, ledger) = answering(layer().release_503(), || with_status(500)).await;
    for _ in 0..2 {
        assert_eq!(
            post("/pay", "").key("k").send(server).await.said(),
            "in-doubt"
        );
    }
    assert_eq!(ledger.effects(), 1);
}

#[tokio::test]
async fn a_handler_can_say_what_its_answer_means() {
    let free = || (StatusCode::CONFLICT, NotExecuted, "later").into_response();
    let (server, ledger) = answering(layer(), free).await;
    for effects in 1..3 {
        let reply = post("/pay", "").key("k").send(server).await;
        assert_eq!(
            (reply.code, reply.said(), reply.text()),
            (409, "not-executed", "later")
        );
        assert_eq!(ledger.effects(), effects);
    }
    let broken = (
        StatusCode::INTERNAL_SERVER_ERROR,
        axum::Extension(Definitive),
        "broken",
    );
    let (server, ledger) = answering(layer(), move || broken.into_response()).await;
    for said in ["executed", "replayed"] {
        let reply = post("/pay", "").key("k").send(server).await;
        assert_eq!(
            (reply.code, reply.said(), reply.text()),
            (500, said, "broken")
        );
    }
    assert_eq!(ledger.effects(), 1);
}

// B15
#[tokio::test]
async fn a_panic_is_in_doubt_and_the_server_lives() {
    let (server, ledger) = answering(layer(), || panic!("after the effect")).await;
    for _ in 0..2 {
        let reply = post("/pay", "").key("k").send(server).await;
        assert_eq!((reply.code, reply.said()), (409, "in-doubt"));
        assert_eq!(reply.problem(), "in-doubt");
        assert_eq!(reply.header("retry-after"), None);
    }
    assert_eq!(ledger.effects(), 1);
}

// F6
#[tokio::test]
async fn a_body_that_fails_or_panics_half_way_is_in_doubt_and_the_server_lives() {
    let fails = || {
        let frames = [Ok("half"), Err("the disk is gone")];
        Response::new(Body::from_stream(futures_util::stream::iter(frames)))
    };
    let (server, ledger) = answering(layer(), fails).await;
    for _ in 0..2 {
        let reply = post("/pay", "").key("k").send(server).await;
        assert_eq!((reply.code, reply.said()), (409, "in-doubt"));
    }
    assert_eq!(ledger.effects(), 1);

    let panics = || {
        let frames = futures_util::stream::poll_fn(|_| panic!("in the body"));
        let frames = futures_util::StreamExt::map(frames, |bytes: Bytes| Ok::<_, String>(bytes));
        Response::new(Body::from_stream(frames))
    };
    let (server, ledger) = answering(layer(), panics).await;
    for _ in 0..2 {
        assert_eq!(
            post("/pay", "").key("k").send(server).await.said(),
            "in-doubt"
        );
    }
    assert_eq!(ledger.effects(), 1);
}

/// A gateway passes on what a server behind it answered.
#[tokio::test]
async fn what_another_server_said_frees_the_key_only_where_nothing_was_executed() {
    let said = |code: u16, said: &'static str| {
        move || {
            let mut response = with_status(code);
            let headers = response.headers_mut();
            headers.insert("idempotency-status", said.parse().unwrap());
            headers.insert("idempotency-store", "\"theirs\"".parse().unwrap());
            headers.insert("idempotent-replayed", "true".parse().unwrap());
            response
        }
    };
    for (code, word, first, again, effects) in [
        (200, "replayed", "executed", "replayed", 1),
        (500, "executed", "executed", "replayed", 1),
        (409, "in-progress", "in-doubt", "in-doubt", 1),
        (409, "in-doubt", "in-doubt", "in-doubt", 1),
        (500, "in-doubt", "in-doubt", "in-doubt", 1),
        (503, "not-executed", "not-executed", "not-executed", 2),
        (422, "mismatch", "mismatch", "mismatch", 2),
        (412, "stale", "stale", "stale", 2),
        (200, "perhaps", "in-doubt", "in-doubt", 1),
    ] {
        let (server, ledger) = answering(layer(), said(code, word)).await;
        for expected in [first, again] {
            let reply = post("/pay", "").key("k").send(server).await;
            assert_eq!((reply.said(), word), (expected, word));
            // One word of each, and it is this server's.
            assert_eq!(reply.all("idempotency-status").len(), 1);
            assert_eq!(reply.all("idempotency-store").len(), 1);
            assert_ne!(reply.header("idempotency-store"), Some("\"theirs\""));
            let replayed = reply.header("idempotent-replayed").is_some();
            assert_eq!(replayed, expected == "replayed", "{word}");
        }
        assert_eq!(ledger.effects(), effects, "{word}");
    }
}

#[tokio::test]
async fn a_call_in_doubt_is_settled_by_its_hook_with_an_answer_in_http() {
    let hook = Reconciliation::new(async |_: Doubt| {
        let receipt = http::Response::builder()
            .status(201)
            .header("location", "/receipts/1");
        let receipt = receipt.body(Bytes::from("found")).unwrap();
        Ok::<_, std::io::Error>(Reconciled::Applied(onlyonce_middleware::http::answer(
            receipt,
        )))
    });
    let layer = layer().in_doubt(InDoubtPolicy::Reconcile(hook));
    let (server, ledger) = answering(layer, || with_status(500)).await;
    assert_eq!(
        post("/pay", "").key("k").send(server).await.said(),
        "in-doubt"
    );
    for _ in 0..2 {
        let found = post("/pay", "").key("k").send(server).await;
        assert_eq!(
            (found.code, found.said(), found.text()),
            (201, "replayed", "found")
        );
        assert_eq!(found.header("location"), Some("/receipts/1"));
    }
    assert_eq!(ledger.effects(), 1);
}

// C18: routes of one server differ.
#[tokio::test]
async fn layers_of_one_server_keep_what_was_said_of_each() {
    let ledger = Ledger::default();
    let layer = layer();
    let counted = ledger.clone();
    let handler = move || {
        counted.apply();
        async { StatusCode::SERVICE_UNAVAILABLE }
    };
    let router = Router::new()
        .route(
            "/frees",
            route_post(handler.clone()).layer(layer.clone().release_503()),
        )
        .route("/doubts", route_post(handler).layer(layer));
    let server = serve(router).await;
    assert_eq!(
        post("/frees", "").key("a").send(server).await.said(),
        "not-executed"
    );
    assert_eq!(
        post("/doubts", "").key("b").send(server).await.said(),
        "in-doubt"
    );
}
