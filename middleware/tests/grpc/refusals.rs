//! What is refused, and in which words.

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::HeaderValue;
use onlyonce_middleware::http::ServingStore;
use onlyonce_storage::StoreId;
use prost::Message as _;

use crate::kit::{Raw, layer, paying, raw, send};

/// `google.rpc.Status`, `google.protobuf.Any` and `google.rpc.ErrorInfo`, as their documents have them.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// The reason in the details, after everything around it has been looked at.
fn reason(refused: &Raw) -> String {
    assert_eq!(refused.code, 200);
    assert_eq!(refused.headers["content-type"], "application/grpc");
    assert!(refused.body.is_empty() && refused.trailers.is_none());
    let store = ServingStore::of(&refused.headers).unwrap();
    assert!(store.now.is_some());
    let details = refused.line("grpc-status-details-bin").unwrap();
    let details = base64::engine::general_purpose::STANDARD_NO_PAD.decode(details);
    let status = RpcStatus::decode(details.unwrap().as_slice()).unwrap();
    assert_eq!(status.code, i32::from(refused.grpc_status()));
    let [any] = &status.details[..] else {
        panic!("one detail");
    };
    assert_eq!(any.type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    let info = ErrorInfo::decode(any.value.as_slice()).unwrap();
    assert_eq!(info.domain, "onlyonce");
    info.reason
}

#[tokio::test]
async fn each_refusal_has_its_code_its_status_and_its_reason() {
    let (server, ledger) = paying(layer().message_bytes_max(64)).await;
    let other_store = ServingStore {
        id: StoreId::from_bytes([9; 16]),
        now: None,
    };
    let other_store = other_store.header_value();
    let other_store = other_store.to_str().unwrap();
    let far = u64::MAX.to_string();
    for (name, value, code, said, expected) in [
        (
            "idempotency-key",
            "two words",
            3,
            "not-executed",
            "KEY_MALFORMED",
        ),
        (
            "idempotency-key",
            "a, b",
            3,
            "not-executed",
            "KEY_MALFORMED",
        ),
        ("idempotency-attempt", "0", 3, "not-executed", "UNREADABLE"),
        (
            "idempotency-first-sent",
            "soon",
            3,
            "not-executed",
            "UNREADABLE",
        ),
        (
            "idempotency-first-sent",
            &far[..],
            3,
            "not-executed",
            "FIRST_SENT_AHEAD",
        ),
        ("idempotency-first-sent", "1", 9, "stale", "STALE"),
        (
            "idempotency-session",
            "1,2",
            3,
            "not-executed",
            "UNREADABLE",
        ),
        (
            "idempotency-session",
            "7,1,1",
            9,
            "not-executed",
            "UNKNOWN_SESSION",
        ),
        (
            "idempotency-store",
            other_store,
            9,
            "not-executed",
            "MISDIRECTED",
        ),
        ("grpc-timeout", "5", 3, "not-executed", "UNREADABLE"),
        ("grpc-timeout", "0m", 4, "not-executed", "DEADLINE_PASSED"),
    ] {
        let mut request = raw(server, "k");
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().insert(name, value);
        let refused = send(request).await;
        // tonic's own timer knows of no time at all before ours does.
        if name == "grpc-timeout" && refused.grpc_status() == 1 {
            continue;
        }
        assert_eq!(reason(&refused), expected, "{name}");
        assert_eq!(
            (refused.grpc_status(), refused.said()),
            (code, said),
            "{name}"
        );
        let stops = refused.line("grpc-retry-pushback-ms") == Some("-1");
        assert_eq!(stops, code != 4, "{name}");
    }
    let large = raw(server, "k").map(|_| Bytes::from(crate::kit::framed(&[0; 65])));
    let refused = send(large).await;
    assert_eq!(reason(&refused), "TOO_LARGE");
    assert_eq!((refused.grpc_status(), refused.said()), (8, "not-executed"));
    assert_eq!(ledger.effects(), 0);
}

// C1, C10
#[tokio::test]
async fn a_key_with_another_message_is_refused_and_the_record_stays() {
    let (server, ledger) = paying(layer()).await;
    assert_eq!(send(raw(server, "k")).await.said(), "executed");
    let other = raw(server, "k").map(|_| Bytes::from(crate::kit::framed(b"")));
    let refused = send(other).await;
    assert_eq!(reason(&refused), "MISMATCH");
    assert_eq!((refused.grpc_status(), refused.said()), (3, "mismatch"));
    let mut two_keys = raw(server, "k");
    let second = HeaderValue::from_static("k");
    two_keys.headers_mut().append("idempotency-key", second);
    assert_eq!(reason(&send(two_keys).await), "KEY_MALFORMED");
    assert_eq!(send(raw(server, "k")).await.said(), "replayed");
    assert_eq!(ledger.effects(), 1);
}

#[tokio::test]
async fn a_message_that_does_not_come_is_not_waited_for_for_ever() {
    use http_body_util::StreamBody;
    let (server, ledger) = paying(layer().message_timeout(Duration::from_millis(100))).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let never = futures_util::stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>();
    let request = raw(server, "k").map(|_| StreamBody::new(never));
    let refused = client.request(request).await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "14");
    assert_eq!(refused.headers()["idempotency-status"], "not-executed");
    assert_eq!(ledger.effects(), 0);
}
