//! An answer is there whole, or it is no answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use onlyonce_middleware::client::{Last, Outcome, Stopped, Verdict};
use onlyonce_middleware::http::client::{Classification, ErrorCodes};
use tokio::time::{Instant, timeout};

use crate::h2_peer::H2Peer;
use crate::peer::{
    Fault, Peer, answer, at_once, clients, over_hyper, over_hyper_h2, over_reqwest, text,
};

// P24
#[tokio::test]
async fn an_answer_that_is_cut_at_any_byte_is_another_attempt_and_not_half_an_answer() {
    for (name, stack) in [("hyper-util", over_hyper()), ("reqwest", over_reqwest())] {
        let client = at_once(stack).build();
        let peer = Peer::deduping(1).await;
        let whole = peer.store_line() + "idempotency-status: executed\r\n";
        let length = answer(200, &whole, "done").len();
        for cut in 0..length {
            let before = peer.seen().len();
            peer.misbehave([Fault::Cut(cut)]);
            let response = client.send(peer.post("a")).await.unwrap();
            assert_eq!(text(response).await, "done", "{name}: cut at {cut}");
            assert_eq!(peer.seen().len(), before + 2, "{name}: cut at {cut}");
        }
        assert_eq!(peer.effects().len(), length, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_to_keep_comes_as_it_comes() {
    for stack in [over_hyper(), over_reqwest()] {
        let client = at_once(stack).with_answer_bytes_max(10).build();
        let peer = Peer::deduping(1).await;
        let lines = peer.store_line() + "idempotency-status: executed\r\n";
        let said = answer(200, &lines, &"x".repeat(100_000));
        peer.misbehave([Fault::Say(said)]);
        let response = client.send(peer.post("a")).await.unwrap();
        assert!(response.body().contents().is_none());
        assert_eq!(text(response).await.len(), 100_000);

        // What is cut there is for the caller to see.
        let said = answer(200, &lines, "0123456789 and more");
        peer.misbehave([
            Fault::Say(said[..said.len() - 2].to_owned()),
            Fault::CloseAtHead,
        ]);
        let response = client.send(peer.post("b")).await.unwrap();
        let before = peer.seen().len();
        let read = timeout(Duration::from_millis(200), response.into_body().collect()).await;
        assert!(!matches!(read, Ok(Ok(_))));
        assert_eq!(peer.seen().len(), before);
    }
}

#[tokio::test]
async fn nobody_waits_for_the_end_of_an_event_stream() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        let said = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    transfer-encoding: chunked\r\n\r\n7\r\ndata: 1\r\n";
        peer.misbehave([Fault::Say(said.to_owned())]);
        let began = Instant::now();
        let mut response = client.send(peer.post("a")).await.unwrap();
        let first = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "data: 1");
        assert!(began.elapsed() < Duration::from_secs(2), "{name}");
    }
}

// P24
#[tokio::test]
async fn an_error_in_the_body_is_what_its_code_was_said_to_be() {
    let json = ErrorCodes::new().retry(&[-32_000]).in_doubt(&[-32_001]);
    let xml = ErrorCodes::new().retry(&[4]).in_doubt(&[5]);
    let fault = |code: i64| {
        format!(
            "<methodResponse><fault><value><struct><member><name>faultCode</name><value>\
             <int>{code}</int></value></member></struct></value></fault></methodResponse>"
        )
    };
    let error = |code: i64| format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code}}}}}"#);
    let (for_json, for_xml) = (json.clone(), xml.clone());
    let cases = [
        (
            Classification::http().with_body(move |head, body| for_json.in_json_rpc(head, body)),
            [error(-32_000), error(-32_001), error(-32_601)],
        ),
        (
            Classification::http().with_body(move |head, body| for_xml.in_xml_rpc(head, body)),
            [fault(4), fault(5), fault(6)],
        ),
    ];
    for (classification, [retried, in_doubt, final_answer]) in cases {
        let client = at_once(over_hyper())
            .with_classification(classification)
            .build();
        let peer = Peer::deduping(1).await;
        let say = |body: &str| Fault::Say(answer(200, &peer.store_line(), body));

        peer.misbehave([say(&retried)]);
        let response = client.send(peer.post("a")).await.unwrap();
        assert_eq!(text(response).await, "done");
        assert_eq!(peer.seen().len(), 2);

        peer.misbehave([say(&in_doubt)]);
        let error = client.send(peer.post("a")).await.unwrap_err();
        assert_eq!(
            (error.outcome, error.stopped),
            (Outcome::InDoubt, Stopped::Final)
        );
        let Last::Response(response) = error.last else {
            panic!("it was answered");
        };
        assert_eq!(text(response).await, in_doubt);

        peer.misbehave([say(&final_answer)]);
        let response = client.send(peer.post("a")).await.unwrap();
        assert_eq!(text(response).await, final_answer);

        // What is on record would be answered so again.
        let before = peer.seen().len();
        let lines = peer.store_line() + "idempotency-status: executed\r\n";
        peer.misbehave([Fault::Say(answer(200, &lines, &retried))]);
        let response = client.send(peer.post("a")).await.unwrap();
        assert_eq!(text(response).await, retried);
        assert_eq!(peer.seen().len(), before + 1);
    }
}

// P24, P23
#[tokio::test]
async fn a_protocol_on_top_reads_the_trailers_before_it_says_what_an_answer_means() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let classification = Classification::custom(move |call, response| {
        // It binds the call to the store that the answer names.
        let verdict = Classification::http().classify(call, Ok(response));
        let contents = response.body().contents().unwrap();
        let failed = contents.trailers.as_ref().unwrap()["x-sum"] == "7";
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        if failed && first {
            Verdict::RETRY_UNKNOWN
        } else {
            verdict
        }
    });
    let client = at_once(over_hyper_h2())
        .with_classification(classification)
        .build();
    let peer = H2Peer::start([]).await;
    let request = http::Request::post(peer.url("/")).body("a").unwrap();
    assert_eq!(text(client.send(request).await.unwrap()).await, "done");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(peer.effects().len(), 1);
}
