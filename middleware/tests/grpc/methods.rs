//! Which methods are protected.

use bytes::Bytes;
use onlyonce_middleware::grpc::DedupeLayer;
use onlyonce_storage::Scope;
use tonic::Request;
use tower::ServiceBuilder;

use crate::bank::{REFUND, TRANSFER, WATCH};
use crate::kit::{
    Ledger, client, counting, framed, keyed, layer, memory, paying, raw, said, send, serve,
    transfer,
};

#[tokio::test]
async fn a_method_that_is_not_named_passes_and_says_so() {
    let (server, ledger) = paying(layer()).await;
    let mut bank = client(server).await;
    for _ in 0..2 {
        let passed = bank.unary(keyed("k", 10), REFUND).await.unwrap();
        assert_eq!(said(passed.metadata()), "unprotected");
    }
    assert_eq!(ledger.effects(), 2);
}

#[tokio::test]
async fn what_another_server_said_of_its_call_is_not_said_of_this_one() {
    let handed_on = || {
        let mut response = tonic::Response::new(crate::bank::Receipt::default());
        for (name, value) in [
            ("idempotency-status", "replayed"),
            ("idempotency-store", "\"elsewhere\""),
            ("idempotent-replayed", "true"),
        ] {
            response.metadata_mut().insert(name, value.parse().unwrap());
        }
        Ok(response)
    };
    let (server, _) = crate::kit::answering(layer(), handed_on).await;
    let mut bank = client(server).await;
    for (path, expected) in [(TRANSFER, "executed"), (REFUND, "unprotected")] {
        let answer = bank.unary(keyed("k", 10), path).await.unwrap();
        let metadata = answer.metadata();
        assert_eq!(said(metadata), expected);
        assert!(metadata.get("idempotent-replayed").is_none(), "{path}");
        let store = metadata.get("idempotency-store").unwrap();
        assert_ne!(store, "\"elsewhere\"", "{path}");
    }
}

#[tokio::test]
async fn a_streaming_method_passes_and_says_so() {
    let everything = layer().protect_service("bank.Bank").leave_out(WATCH);
    let (server, _) = paying(everything).await;
    let mut bank = client(server).await;
    let watched = bank.watch(keyed("k", 10)).await.unwrap();
    assert_eq!(said(watched.metadata()), "unprotected");
    let mut receipts = watched.into_inner();
    let mut numbers = Vec::new();
    while let Some(receipt) = receipts.message().await.unwrap() {
        numbers.push(receipt.number);
    }
    assert_eq!(numbers, [1, 2, 3]);
    // The rest of the service is protected.
    for expected in ["executed", "replayed"] {
        let refunded = bank.unary(keyed("k", 10), REFUND).await.unwrap();
        assert_eq!(said(refunded.metadata()), expected);
    }
}

// C9
#[tokio::test]
async fn a_protected_call_without_a_key_is_refused_and_not_executed() {
    let (server, ledger) = paying(layer()).await;
    let mut bank = client(server).await;
    let refused = bank.transfer(Request::new(transfer(10))).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert_eq!(said(refused.metadata()), "not-executed");
    assert!(refused.message().contains("key"), "{refused}");
    assert_eq!(ledger.effects(), 0);
}

// C17
#[tokio::test]
async fn one_key_is_not_used_for_two_methods() {
    let (server, ledger) = paying(layer().protect(REFUND)).await;
    let mut bank = client(server).await;
    bank.transfer(keyed("k", 10)).await.unwrap();
    let other = bank.unary(keyed("k", 10), REFUND).await.unwrap_err();
    assert_eq!(said(other.metadata()), "mismatch");
    assert_eq!(ledger.effects(), 1);
}

#[tokio::test]
async fn layers_of_one_server_leave_each_others_methods_alone() {
    let both = DedupeLayer::new(memory(), Scope::global());
    let inner = both.clone().protect(TRANSFER);
    let outer = both.protect(REFUND).message_bytes_max(20);
    let ledger = Ledger::default();
    let layers = ServiceBuilder::new().layer(outer).layer(inner).into_inner();
    let server = serve(layers, counting(&ledger)).await;
    let mut bank = client(server).await;
    for path in [TRANSFER, REFUND] {
        let key = if path == TRANSFER { "a" } else { "b" };
        for expected in ["executed", "replayed"] {
            let paid = bank.unary(keyed(key, 10), path).await.unwrap();
            assert_eq!(said(paid.metadata()), expected, "{path}");
        }
    }
    assert_eq!(ledger.effects(), 2);
    let watched = bank.watch(Request::new(transfer(1))).await.unwrap();
    assert_eq!(said(watched.metadata()), "unprotected");
}

#[tokio::test]
async fn more_or_less_than_one_message_is_refused_before_the_effect() {
    let (server, ledger) = paying(layer()).await;
    let message = framed(&prost::Message::encode_to_vec(&transfer(10)));
    let mut flagged = message.clone();
    flagged[0] = 7;
    for body in [
        Vec::new(),
        [message.clone(), message.clone()].concat(),
        message[..message.len() - 1].to_vec(),
        message[..3].to_vec(),
        flagged,
    ] {
        let request = raw(server, "k").map(|_| Bytes::from(body));
        let refused = send(request).await;
        assert_eq!((refused.grpc_status(), refused.said()), (3, "not-executed"));
    }
    assert_eq!(ledger.effects(), 0);
    assert_eq!(send(raw(server, "k")).await.said(), "executed");
}

#[tokio::test]
async fn what_is_not_grpc_does_not_get_around_the_key() {
    let (server, ledger) = paying(layer()).await;
    for content_type in [
        "application/grpc-web",
        "application/grpc-web+proto",
        "text/plain",
    ] {
        let mut request = raw(server, "k");
        let value = http::HeaderValue::from_static(content_type);
        request.headers_mut().insert("content-type", value);
        let refused = send(request).await;
        assert_eq!((refused.grpc_status(), refused.said()), (3, "not-executed"));
    }
    // tonic looks at the path alone.
    for method in ["GET", "PUT", "DELETE"] {
        let mut request = raw(server, "k");
        *request.method_mut() = method.parse().unwrap();
        let refused = send(request).await;
        assert_eq!((refused.grpc_status(), refused.said()), (3, "not-executed"));
    }
    assert_eq!(ledger.effects(), 0);
    let mut request = raw(server, "k");
    let value = http::HeaderValue::from_static("application/grpc+proto");
    request.headers_mut().insert("content-type", value);
    assert_eq!(send(request).await.said(), "executed");
}

#[tokio::test]
async fn a_question_about_a_protected_method_is_answered_and_executes_nothing() {
    let (server, ledger) = paying(layer()).await;
    let mut question = raw(server, "k");
    *question.method_mut() = http::Method::OPTIONS;
    let told = send(question).await;
    assert_eq!(told.code, 200);
    assert!(told.headers.contains_key("idempotency-store"));
    assert_eq!(ledger.effects(), 0);
}
