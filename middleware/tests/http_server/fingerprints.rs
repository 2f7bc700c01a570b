//! What makes two requests with one key the same request.

use std::convert::Infallible;

use axum::Router;
use http::HeaderName;
use tower_http::decompression::RequestDecompressionLayer;

use crate::client::{post, request};
use crate::kit::{Ledger, counting, layer, paying, serve};

// C1, C2
#[tokio::test]
async fn another_body_query_path_or_method_is_a_mismatch_and_leaves_the_record() {
    let ledger = Ledger::default();
    let router = Router::new()
        .route("/pay", counting(&ledger))
        .route("/pay/more", counting(&ledger))
        .layer(layer());
    let server = serve(router).await;
    let first = post("/pay?to=a", "10").key("k").send(server).await;
    assert_eq!((first.code, first.text()), (200, "10 #1"));
    for other in [
        post("/pay?to=a", "11"),
        post("/pay?to=b", "10"),
        post("/pay", "10"),
        post("/pay/more?to=a", "10"),
        request("PUT", "/pay?to=a", "10"),
        request("PATCH", "/pay?to=a", "10"),
        request("DELETE", "/pay?to=a", "10"),
        post("/pay?to=a", "10").header("content-type", "text/html"),
    ] {
        let refused = other.clone().key("k").send(server).await;
        assert_eq!(
            (refused.code, refused.said()),
            (422, "mismatch"),
            "{other:?}"
        );
        assert_eq!(refused.problem(), "mismatch");
    }
    let again = post("/pay?to=a", "10").key("k").send(server).await;
    assert_eq!((again.said(), again.text()), ("replayed", "10 #1"));
    assert_eq!(ledger.effects(), 1);
}

// C3
#[tokio::test]
async fn json_that_says_the_same_replays_with_the_option_and_mismatches_without() {
    let one = || post("/pay", r#"{"to":"a","cents":10}"#).json().key("k");
    let other = || {
        post("/pay", r#"{ "cents": 10, "to": "a" }"#)
            .json()
            .key("k")
    };
    let more = || {
        post("/pay", r#"{ "cents": 10.0, "to": "a" }"#)
            .json()
            .key("k")
    };

    let (raw, ledger) = paying(layer()).await;
    one().send(raw).await;
    assert_eq!(other().send(raw).await.code, 422);
    assert_eq!(ledger.effects(), 1);

    let (canonical, ledger) = paying(layer().canonical_json()).await;
    let first = one().send(canonical).await;
    let again = other().send(canonical).await;
    assert_eq!((again.said(), &again.body), ("replayed", &first.body));
    assert_eq!(more().send(canonical).await.code, 422);
    assert_eq!(ledger.effects(), 1);
}

// C19
#[tokio::test]
async fn records_of_before_the_option_replay_and_after_it_is_taken_back_nothing_is_guessed() {
    let ledger = Ledger::default();
    let raw = layer();
    let canonical = raw.clone().canonical_json();
    let before = serve(Router::new().route("/pay", counting(&ledger).layer(raw))).await;
    let after = serve(Router::new().route("/pay", counting(&ledger).layer(canonical))).await;
    let pay = |key| post("/pay", r#"{"to":"a","cents":10}"#).json().key(key);

    assert_eq!(pay("old").send(before).await.said(), "executed");
    assert_eq!(pay("old").send(after).await.said(), "replayed");
    assert_eq!(pay("new").send(after).await.said(), "executed");
    // The server of before does not know how the record's fingerprint was made.
    let refused = pay("new").send(before).await;
    assert_eq!((refused.code, refused.said()), (503, "not-executed"));
    assert_eq!(ledger.effects(), 2);
}

// C10, C11
#[tokio::test]
async fn a_quoted_key_is_the_bare_one_and_two_keys_are_none() {
    let (server, ledger) = paying(layer()).await;
    let bare = post("/pay", "").key("abc").send(server).await;
    let quoted = post("/pay", "").key("\"abc\"").send(server).await;
    assert_eq!((bare.said(), quoted.said()), ("executed", "replayed"));

    let long = "k".repeat(256);
    for keys in [
        &["a", "b"][..],
        &["a", "a"],
        &["a, b"],
        &["a,b"],
        &["\"a\", \"b\""],
        &[""],
        &["two words"],
        &["k\u{fc}"],
        &[&long],
        &["\"a"],
    ] {
        let request = keys
            .iter()
            .fold(post("/pay", ""), |request, key| request.key(key));
        let refused = request.send(server).await;
        assert_eq!(
            (refused.code, refused.said()),
            (400, "not-executed"),
            "{keys:?}"
        );
        assert_eq!(refused.problem(), "key-malformed");
        // Neither is repeated: keys are not for logs.
        assert!(!refused.text().contains("two words"));
    }
    assert_eq!(ledger.effects(), 1);
}

// C16
#[tokio::test]
async fn what_changes_with_every_attempt_does_not_make_another_request() {
    let (server, ledger) = paying(layer()).await;
    let attempt = |number: &str| {
        post("/pay", "10")
            .key("k")
            .header("date", number)
            .header("traceparent", number)
            .header("user-agent", number)
            .header("authorization", number)
            .header("idempotency-attempt", number)
            .header("idempotency-deadline-ms", &format!("{number}000"))
    };
    assert_eq!(attempt("1").send(server).await.said(), "executed");
    assert_eq!(attempt("2").send(server).await.said(), "replayed");
    assert_eq!(ledger.effects(), 1);
}

#[tokio::test]
async fn a_header_that_the_author_chose_makes_another_request() {
    let currency = HeaderName::from_static("x-currency");
    let (server, ledger) = paying(layer().fingerprint_header(currency)).await;
    let pay = |currency| post("/pay", "10").key("k").header("x-currency", currency);
    pay("EUR").send(server).await;
    assert_eq!(pay("EUR").send(server).await.said(), "replayed");
    assert_eq!(pay("USD").send(server).await.said(), "mismatch");
    assert_eq!(ledger.effects(), 1);
}

// C16: the bytes that reach the layer are compared.
#[tokio::test]
async fn a_compressed_request_is_the_plain_one_where_it_is_unpacked_outside() {
    let plain = || post("/pay", "ten").key("k");
    let packed = || {
        post("/pay", TEN_IN_GZIP)
            .header("content-encoding", "gzip")
            .key("k")
    };

    let ledger = Ledger::default();
    let outside = counting(&ledger)
        .layer::<_, Infallible>(layer())
        .layer(RequestDecompressionLayer::new());
    let server = serve(Router::new().route("/pay", outside)).await;
    assert_eq!(plain().send(server).await.text(), "ten #1");
    let again = packed().send(server).await;
    assert_eq!((again.said(), again.text()), ("replayed", "ten #1"));

    let ledger = Ledger::default();
    let inside = counting(&ledger)
        .layer::<_, Infallible>(RequestDecompressionLayer::new())
        .layer(layer());
    let server = serve(Router::new().route("/pay", inside)).await;
    assert_eq!(packed().send(server).await.text(), "ten #1");
    assert_eq!(packed().send(server).await.said(), "replayed");
    assert_eq!(plain().send(server).await.said(), "mismatch");
    assert_eq!(ledger.effects(), 1);
}

// C17
#[tokio::test]
async fn two_versions_of_a_route_in_nested_routers_do_not_share_a_key() {
    let ledger = Ledger::default();
    let layer = layer();
    let version = || Router::new().route("/pay", counting(&ledger).layer(layer.clone()));
    let router = Router::new().nest("/v1", version()).nest("/v2", version());
    let server = serve(router).await;
    assert_eq!(
        post("/v1/pay", "").key("k").send(server).await.said(),
        "executed"
    );
    assert_eq!(
        post("/v2/pay", "").key("k").send(server).await.said(),
        "mismatch"
    );
    assert_eq!(
        post("/v1/pay", "").key("k").send(server).await.said(),
        "replayed"
    );
    assert_eq!(ledger.effects(), 1);
}

// C17
#[tokio::test]
async fn operations_that_are_named_have_keys_of_their_own() {
    let ledger = Ledger::default();
    let layer = layer();
    let named = |name| counting(&ledger).layer(layer.clone().operation(name).unwrap());
    let router = Router::new()
        .route("/pay", named("pay"))
        .route("/refund", named("refund"));
    let server = serve(router).await;
    assert_eq!(
        post("/pay", "").key("k").send(server).await.said(),
        "executed"
    );
    assert_eq!(
        post("/refund", "").key("k").send(server).await.said(),
        "executed"
    );
    assert_eq!(
        post("/pay", "").key("k").send(server).await.said(),
        "replayed"
    );
    assert_eq!(ledger.effects(), 2);
    assert!(layer.operation("").is_err());
}

/// `printf ten | gzip -n`.
pub(crate) const TEN_IN_GZIP: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x2b, 0x49, 0xcd, 0x03, 0x00, 0x23,
    0xca, 0x39, 0x1e, 0x03, 0x00, 0x00, 0x00,
];
