//! What a duplicate gets.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use axum::routing::post as route_post;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use onlyonce_middleware::http::DedupeLayer;
use onlyonce_middleware::http::server::from_extension;
use onlyonce_storage::{Scope, SledOptions, SledStore};
use tower_http::compression::CompressionLayer;

use crate::client::{Reply, post};
use crate::kit::{Ledger, answering, layer, memory, serve};

/// A reply without what is made anew for each.
fn kept(reply: &Reply) -> Reply {
    let mut kept = reply.clone();
    kept.length = 0;
    kept.headers.retain(|(name, _)| {
        ![
            "connection",
            "date",
            "idempotency-status",
            "idempotency-store",
            "idempotent-replayed",
        ]
        .contains(&name.as_str())
    });
    kept
}

fn rich() -> Response {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("location", &b"/payments/1"[..]),
        ("link", b"</a>; rel=next"),
        ("link", b"</b>; rel=prev"),
        ("x-name", b"caf\xe9"),
        ("content-type", b"application/octet-stream"),
        ("retry-after", b"120"),
        ("trailer", b"x-sum"),
    ] {
        let name = HeaderName::from_static(name);
        headers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    let frames = [
        Frame::data(Bytes::from_static(b"\x00\xff")),
        Frame::data(Bytes::from_static(b"end")),
        Frame::trailers(trailers),
    ];
    let frames = frames.map(Ok::<_, Infallible>);
    let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
    (StatusCode::ACCEPTED, headers, body).into_response()
}

// F2, D6
#[tokio::test]
async fn a_replay_is_the_first_answer_with_every_header_line_body_and_trailer() {
    let (server, ledger) = answering(layer(), rich).await;
    let pay = || post("/pay", "").key("k").header("te", "trailers");
    let first = pay().send(server).await;
    let again = pay().send(server).await;
    assert_eq!((first.said(), again.said()), ("executed", "replayed"));
    assert_eq!(kept(&first), kept(&again));
    for reply in [first, again] {
        assert_eq!((reply.code, &*reply.body), (202, &b"\x00\xffend"[..]));
        assert_eq!(reply.all("link"), [b"</a>; rel=next", b"</b>; rel=prev"]);
        assert_eq!(reply.all("x-name"), [b"caf\xe9"]);
        assert_eq!(reply.header("retry-after"), Some("120"));
        assert_eq!(reply.trailers, [("x-sum".to_owned(), b"42".to_vec())]);
    }
    assert_eq!(ledger.effects(), 1);
}

// F2
#[tokio::test]
async fn a_replay_hands_out_no_credential_and_nothing_of_a_connection_that_is_gone() {
    let answer = || {
        let headers = [
            ("set-cookie", "session=1"),
            ("authentication-info", "nextnonce=1"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("date", "Mon, 01 Jan 2001 00:00:00 GMT"),
            ("x-plain", "1"),
        ];
        (headers, "paid").into_response()
    };
    let (server, _) = answering(layer(), answer).await;
    let first = post("/pay", "").key("k").send(server).await;
    let again = post("/pay", "").key("k").send(server).await;
    assert_eq!(first.header("set-cookie"), Some("session=1"));
    for name in ["set-cookie", "authentication-info", "x-hop"] {
        assert_eq!(again.header(name), None, "{name}");
    }
    assert_ne!(again.header("date"), Some("Mon, 01 Jan 2001 00:00:00 GMT"));
    assert_eq!((again.header("x-plain"), again.text()), (Some("1"), "paid"));

    // What is a credential is the author's to say.
    let (server, _) = answering(
        layer().withhold_headers([HeaderName::from_static("x-plain")]),
        answer,
    )
    .await;
    post("/pay", "").key("k").send(server).await;
    let again = post("/pay", "").key("k").send(server).await;
    assert_eq!(again.header("x-plain"), None);
    assert_eq!(again.header("set-cookie"), Some("session=1"));
}

// F2: also from a disk, also after the server was closed.
#[tokio::test]
async fn a_replay_from_a_store_that_was_opened_again_is_the_first_answer() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::default();
    let mut replies = Vec::new();
    for _ in 0..2 {
        let store = SledStore::open_async(folder.path(), SledOptions::new()).await;
        let store = Arc::new(store.unwrap());
        let layer = DedupeLayer::new(store.clone(), Scope::global());
        let counted = ledger.clone();
        let handler = move || {
            counted.apply();
            async { rich() }
        };
        let router = Router::new().route("/pay", route_post(handler).layer(layer.clone()));
        let request = http::Request::post("/pay").header("idempotency-key", "k");
        let request = request.body(Body::empty()).unwrap();
        let reply = tower::ServiceExt::oneshot(router, request).await.unwrap();
        let (mut parts, body) = reply.into_parts();
        let said = parts.headers.remove("idempotency-status").unwrap();
        parts.headers.remove("idempotency-store");
        parts.headers.remove("idempotent-replayed");
        let body = http_body_util::BodyExt::collect(body).await.unwrap();
        let trailers = body.trailers().cloned();
        replies.push((said, parts.status, parts.headers, body.to_bytes(), trailers));
        layer.executions().idle().await;
        store.close().await.unwrap();
    }
    let (again, first) = (replies.pop().unwrap(), replies.pop().unwrap());
    assert_eq!(
        (first.0, again.0),
        ("executed".parse().unwrap(), "replayed".parse().unwrap())
    );
    assert_eq!(
        (first.1, first.2, first.3, first.4),
        (again.1, again.2, again.3, again.4)
    );
    assert_eq!(ledger.effects(), 1);
}

// F4
#[tokio::test]
async fn an_answer_too_large_to_keep_is_delivered_once_whole_and_says_so() {
    let large = || "x".repeat(70_000).into_response();
    let (server, ledger) = answering(layer().answer_bytes_max(65_536), large).await;
    let first = post("/pay", "").key("k").send(server).await;
    assert_eq!((first.code, first.said()), (200, "executed; unrecorded"));
    assert_eq!(first.body.len(), 70_000);
    let again = post("/pay", "").key("k").send(server).await;
    assert_eq!((again.code, again.said()), (409, "in-doubt"));
    assert_eq!(ledger.effects(), 1);
    // Headers count too.
    let long = || ([("x-long", "x".repeat(70_000))], "").into_response();
    let (server, _) = answering(layer().answer_bytes_max(65_536), long).await;
    let first = post("/pay", "").key("k").send(server).await;
    assert_eq!(first.said(), "executed; unrecorded");
}

fn events() -> Response {
    let headers = [("content-type", "text/event-stream; charset=utf-8")];
    (headers, "data: 1\n\n").into_response()
}

// F5
#[tokio::test]
async fn a_stream_of_events_is_refused_before_the_effect_or_delivered_once() {
    let (server, ledger) = answering(layer(), events).await;
    for accept in [
        "text/event-stream",
        "Text/Event-Stream;q=0.9 , text/event-stream",
    ] {
        let request = post("/pay", "").key("k").header("accept", accept);
        let refused = request.send(server).await;
        assert_eq!((refused.code, refused.said()), (406, "not-executed"));
        assert_eq!(refused.problem(), "not-recordable");
    }
    assert_eq!(ledger.effects(), 0);
    let both = "text/event-stream, application/json";
    let first = post("/pay", "")
        .key("k")
        .header("accept", both)
        .send(server)
        .await;
    assert_eq!(
        (first.said(), first.text()),
        ("executed; unrecorded", "data: 1\n\n")
    );
    let again = post("/pay", "")
        .key("k")
        .header("accept", both)
        .send(server)
        .await;
    assert_eq!(again.said(), "in-doubt");
    assert_eq!(ledger.effects(), 1);
}

// F4, F5, I4
#[tokio::test]
async fn where_only_the_head_is_kept_the_first_caller_gets_the_body_and_others_where_it_is() {
    let secret = || {
        let headers = [
            ("location", "/tokens/1"),
            ("content-type", "text/event-stream"),
        ];
        (StatusCode::CREATED, headers, "shown once").into_response()
    };
    let (server, ledger) = answering(layer().head_only(), secret).await;
    let ask = || {
        post("/pay", "")
            .key("k")
            .header("accept", "text/event-stream")
    };
    let first = ask().send(server).await;
    assert_eq!(
        (first.code, first.said(), first.text()),
        (201, "executed", "shown once")
    );
    let again = ask().send(server).await;
    assert_eq!(
        (again.code, again.said(), again.text()),
        (201, "replayed", "")
    );
    assert_eq!(again.header("location"), Some("/tokens/1"));
    assert_eq!(ledger.effects(), 1);
}

// I4: the record itself has no secret.
#[tokio::test]
async fn what_is_kept_of_a_head_only_answer_has_no_body() {
    let store = memory();
    let layer = DedupeLayer::new(Arc::clone(&store), Scope::global()).head_only();
    let (server, _) = answering(layer, || "top secret".into_response()).await;
    post("/pay", "").key("k").send(server).await;
    let key = onlyonce_storage::IdempotencyKey::parse("k").unwrap();
    let key = onlyonce_storage::ScopedKey::new(Scope::global(), key);
    let onlyonce_storage::KeyState::Completed(completion) = store.peek(key).await.unwrap() else {
        panic!("the call is completed");
    };
    let kept = completion.answer.body();
    assert!(!kept.windows(6).any(|window| window == b"secret"));
}

// F9
#[tokio::test]
async fn a_replay_runs_nothing_that_stands_inside() {
    let inside = Ledger::default();
    let counted = inside.clone();
    let audit = axum::middleware::map_request(move |request: axum::extract::Request| {
        counted.apply();
        async { request }
    });
    let ledger = Ledger::default();
    let route = crate::kit::counting(&ledger)
        .layer::<_, Infallible>(audit)
        .layer(layer());
    let server = serve(Router::new().route("/pay", route)).await;
    for _ in 0..5 {
        post("/pay", "").key("k").send(server).await;
    }
    assert_eq!((ledger.effects(), inside.effects()), (1, 1));
}

// F11
#[tokio::test]
async fn with_compression_outside_each_caller_gets_an_encoding_that_it_takes() {
    let text = "compress me ".repeat(100);
    let body = text.clone();
    let route = route_post(async move || body).layer::<_, Infallible>(layer());
    let route = route.layer(CompressionLayer::new());
    let server = serve(Router::new().route("/pay", route)).await;
    let packed = post("/pay", "").key("k").header("accept-encoding", "gzip");
    let first = packed.send(server).await;
    assert_eq!(first.header("content-encoding"), Some("gzip"));
    assert!(first.body.len() < text.len());
    let plain = post("/pay", "").key("k").send(server).await;
    assert_eq!(
        (plain.said(), plain.header("content-encoding")),
        ("replayed", None)
    );
    assert_eq!(plain.text(), text);
    let again = packed.send(server).await;
    assert_eq!((again.said(), &again.body), ("replayed", &first.body));
}

// F11
#[tokio::test]
async fn with_compression_inside_a_replay_says_the_encoding_that_it_has() {
    let text = "compress me ".repeat(100);
    let body = text.clone();
    let route = route_post(async move || body).layer::<_, Infallible>(CompressionLayer::new());
    let server = serve(Router::new().route("/pay", route.layer(layer()))).await;
    let first = post("/pay", "")
        .key("k")
        .header("accept-encoding", "gzip")
        .send(server)
        .await;
    // This caller cannot read it, and is told so by the header: what is kept is what was said.
    let again = post("/pay", "").key("k").send(server).await;
    assert_eq!((first.said(), again.said()), ("executed", "replayed"));
    assert_eq!(kept(&first), kept(&again));
    assert_eq!(again.header("content-encoding"), Some("gzip"));
    assert!(again.body.starts_with(&[0x1f, 0x8b]));
}

// I1
#[tokio::test]
async fn who_may_no_longer_see_an_answer_is_refused_and_the_record_stays() {
    let allowed = Arc::new(AtomicBool::new(true));
    let asked = Ledger::default();
    let (may, counted) = (Arc::clone(&allowed), asked.clone());
    let hook = move |request: http::request::Parts, answer: http::response::Parts| {
        counted.apply();
        assert_eq!(request.headers["authorization"], "alice");
        assert_eq!(answer.headers["idempotency-status"], "replayed");
        let may = may.load(Ordering::SeqCst);
        async move { may }
    };
    let (server, ledger) = answering(layer().on_replay(hook), || "paid".into_response()).await;
    let pay = || post("/pay", "").key("k").header("authorization", "alice");
    assert_eq!(pay().send(server).await.text(), "paid");
    assert_eq!(asked.effects(), 0);
    assert_eq!(pay().send(server).await.text(), "paid");

    allowed.store(false, Ordering::SeqCst);
    let refused = pay().send(server).await;
    assert_eq!(
        (refused.code, refused.problem().as_str()),
        (403, "not-authorised")
    );
    // Told as not executed, its client would make the call anew.
    assert_eq!(refused.said(), "replayed");

    allowed.store(true, Ordering::SeqCst);
    assert_eq!(pay().send(server).await.text(), "paid");
    assert_eq!((ledger.effects(), asked.effects()), (1, 3));
}

#[tokio::test]
async fn scripts_of_other_origins_may_read_what_is_said_on_request() {
    let (server, _) = answering(layer().expose_to_cors(), || "paid".into_response()).await;
    for _ in 0..2 {
        let reply = post("/pay", "").key("k").send(server).await;
        let exposed = reply.all("access-control-expose-headers");
        assert_eq!(exposed.len(), 1);
        let exposed = std::str::from_utf8(exposed[0]).unwrap();
        assert!(exposed.contains("idempotency-status"), "{exposed}");
    }
    let refused = post("/pay", "").send(server).await;
    assert!(refused.header("access-control-expose-headers").is_some());
    let (server, _) = answering(layer(), || "paid".into_response()).await;
    let reply = post("/pay", "").key("k").send(server).await;
    assert_eq!(reply.header("access-control-expose-headers"), None);
}

#[tokio::test]
async fn a_layer_with_no_scope_of_its_own_takes_it_from_the_request() {
    let layer = DedupeLayer::new(memory(), from_extension());
    let outside = axum::Extension(Scope::principal("a").unwrap());
    let route = route_post(async || "paid")
        .layer::<_, Infallible>(layer)
        .layer(outside);
    let server = serve(Router::new().route("/pay", route)).await;
    assert_eq!(
        post("/pay", "").key("k").send(server).await.said(),
        "executed"
    );
}
