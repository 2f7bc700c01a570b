//! What a handler's answer means for the key.

use onlyonce_middleware::grpc::{Code, Declaration};
use onlyonce_middleware::server::{InDoubtPolicy, Reconciled, Reconciliation};
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use crate::bank::Receipt;
use crate::kit::{Ledger, answering, client, keyed, layer, raw, said, send, serve};

/// What two calls with one key were told, and how often the handler ran.
async fn twice(
    layer: onlyonce_middleware::grpc::DedupeLayer,
    answer: impl Fn() -> Result<Response<Receipt>, Status> + Clone + Send + Sync + 'static,
) -> ([String; 2], u32) {
    let (server, ledger) = answering(layer, answer).await;
    let first = send(raw(server, "k")).await;
    let again = send(raw(server, "k")).await;
    assert_eq!(first.line("grpc-status"), again.line("grpc-status"));
    assert_eq!(first.line("grpc-message"), again.line("grpc-message"));
    let told = [first.said().to_owned(), again.said().to_owned()];
    (told, ledger.effects())
}

const RECORDED: [&str; 2] = ["executed", "replayed"];
const DOUBTFUL: [&str; 2] = ["in-doubt", "in-doubt"];
const FREE: [&str; 2] = ["not-executed", "not-executed"];

// D2, D4
#[tokio::test]
async fn each_code_is_recorded_or_in_doubt_with_its_answer_kept() {
    for code in 1..=16 {
        let answer = move || Err(Status::new(tonic::Code::from_i32(code), "because"));
        let (told, effects) = twice(layer(), answer).await;
        let expected = match code {
            3 | 5 | 6 | 7 | 9 | 11 | 12 => RECORDED,
            _ => DOUBTFUL,
        };
        assert_eq!(told, expected, "code {code}");
        assert_eq!(effects, 1, "code {code}");
    }
}

// D3
#[tokio::test]
async fn a_code_that_is_declared_to_mean_so_frees_the_key() {
    let released = [Code::Unavailable, Code::ResourceExhausted];
    for (code, expected, runs) in [
        (tonic::Code::Unavailable, FREE, 2),
        (tonic::Code::ResourceExhausted, FREE, 2),
        (tonic::Code::Internal, DOUBTFUL, 1),
    ] {
        let answer = move || Err(Status::new(code, "later"));
        let (told, effects) = twice(layer().release(released), answer).await;
        assert_eq!(
            (told, effects),
            (expected.map(str::to_owned), runs),
            "{code:?}"
        );
    }
}

#[tokio::test]
async fn a_status_that_a_handler_hands_on_from_another_server_frees_no_key() {
    for (code, told_there, expected) in [
        (tonic::Code::ResourceExhausted, "not-executed", DOUBTFUL),
        (tonic::Code::Unavailable, "not-executed", DOUBTFUL),
        (tonic::Code::FailedPrecondition, "stale", RECORDED),
        (tonic::Code::InvalidArgument, "mismatch", RECORDED),
        (tonic::Code::FailedPrecondition, "in-doubt", DOUBTFUL),
        (tonic::Code::Aborted, "in-progress", DOUBTFUL),
    ] {
        let answer = move || {
            let mut metadata = MetadataMap::new();
            metadata.insert("idempotency-status", told_there.parse().unwrap());
            metadata.insert("idempotency-store", "\"elsewhere\"".parse().unwrap());
            Err(Status::with_metadata(code, "from another server", metadata))
        };
        let (told, effects) = twice(layer(), answer).await;
        assert_eq!(told, expected, "{code:?} {told_there}");
        assert_eq!(effects, 1, "{code:?} {told_there}");
    }
}

#[tokio::test]
async fn a_handler_declares_what_its_codes_do_not_say() {
    for definitive in [false, true] {
        let ledger = Ledger::default();
        let counted = ledger.clone();
        let handler = move |request: tonic::Request<_>| {
            counted.apply();
            let run = request.extensions().get::<Declaration>().unwrap();
            if definitive {
                run.definitive();
            }
            // Beside the other it does not count.
            run.not_executed();
            std::future::ready(Err(Status::internal("declared")))
        };
        let server = serve(layer(), handler).await;
        let mut bank = client(server).await;
        for told in if definitive { RECORDED } else { FREE } {
            let failed = bank.transfer(keyed("k", 10)).await.unwrap_err();
            assert_eq!(failed.message(), "declared");
            assert_eq!(said(failed.metadata()), told);
        }
        assert_eq!(ledger.effects(), if definitive { 1 } else { 2 });
    }
}

#[tokio::test]
async fn a_success_can_be_declared_too_by_an_extension_of_the_response() {
    use onlyonce_middleware::http::NotExecuted;
    let nothing_done = || {
        let mut response = Response::new(Receipt::default());
        response.extensions_mut().insert(NotExecuted);
        Ok(response)
    };
    let (told, effects) = twice(layer(), nothing_done).await;
    assert_eq!((told, effects), (FREE.map(str::to_owned), 2));
}

#[tokio::test]
async fn a_handler_that_panics_leaves_its_call_in_doubt_and_its_caller_knows() {
    let answer = || -> Result<Response<Receipt>, Status> { panic!("as the test wants") };
    let (server, ledger) = answering(layer(), answer).await;
    for _ in 0..2 {
        let doubtful = send(raw(server, "k")).await;
        assert_eq!((doubtful.grpc_status(), doubtful.said()), (2, "in-doubt"));
        assert_eq!(doubtful.line("grpc-retry-pushback-ms"), Some("-1"));
    }
    assert_eq!(ledger.effects(), 1);
}

// F4
#[tokio::test]
async fn an_answer_that_is_too_large_is_delivered_once_and_says_so() {
    let large = || {
        Ok(Response::new(Receipt {
            number: 1,
            text: "x".repeat(10_000),
        }))
    };
    let (server, ledger) = answering(layer().answer_bytes_max(5_000), large).await;
    let first = send(raw(server, "k")).await;
    assert_eq!(
        (first.grpc_status(), first.said()),
        (0, "executed; unrecorded")
    );
    assert!(first.body.len() > 10_000);
    let again = send(raw(server, "k")).await;
    assert_eq!((again.grpc_status(), again.said()), (2, "in-doubt"));
    assert_eq!(ledger.effects(), 1);
}

// B2
#[tokio::test]
async fn a_doubt_is_ended_with_the_answer_that_the_outside_world_gives() {
    let receipt = prost::Message::encode_to_vec(&Receipt {
        number: 41,
        text: "found in the books".to_owned(),
    });
    let books = Reconciliation::new(move |_| {
        let found = Reconciled::Applied(onlyonce_middleware::grpc::answer(receipt.clone()));
        std::future::ready(Ok::<_, std::io::Error>(found))
    });
    let reconciled = layer().in_doubt(InDoubtPolicy::Reconcile(books));
    let lost = || -> Result<Response<Receipt>, Status> { panic!("as the test wants") };
    let (server, ledger) = answering(reconciled, lost).await;
    let mut bank = client(server).await;
    let first = bank.transfer(keyed("k", 10)).await.unwrap_err();
    assert_eq!(said(first.metadata()), "in-doubt");
    let found = bank.transfer(keyed("k", 10)).await.unwrap();
    assert_eq!(found.get_ref().text, "found in the books");
    assert_eq!(ledger.effects(), 1);
}
