//! What duplicates get.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use onlyonce_middleware::server::{DedupeOptions, Wait};
use onlyonce_storage::Scope;
use onlyonce_storage::transaction::{Table, Transaction};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Response, Status};

use crate::bank::{Receipt, TRANSFER};
use crate::kit::{
    Ledger, answering, client, counting, keyed, layer, memory, paying, raw, said, send, serve,
};

#[tokio::test]
async fn a_tonic_client_that_knows_nothing_of_the_layer_pays_once() {
    let (server, ledger) = paying(layer()).await;
    let mut bank = client(server).await;
    let first = bank.transfer(keyed("\"k\"", 10)).await.unwrap();
    // Another connection, and the other spelling of the key.
    let again = client(server).await.transfer(keyed("k", 10)).await.unwrap();
    assert_eq!(said(first.metadata()), "executed");
    assert_eq!(said(again.metadata()), "replayed");
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(first.get_ref().text, "10 to anna");
    assert_eq!(first.into_inner(), again.into_inner());
    assert_eq!(ledger.effects(), 1);
}

/// A success and a failure with everything that metadata can be.
fn rich(code: Code) -> Result<Response<Receipt>, Status> {
    let mut metadata = MetadataMap::new();
    metadata.append("x-note", "one".parse().unwrap());
    metadata.append("x-note", "two".parse().unwrap());
    metadata.append_bin("x-seal-bin", MetadataValue::from_bytes(&[0, 255, 10]));
    metadata.insert("grpc-retry-pushback-ms", "700".parse().unwrap());
    if code == Code::Ok {
        let mut response = Response::new(Receipt {
            number: 7,
            text: "paid \u{fc}".to_owned(),
        });
        *response.metadata_mut() = metadata;
        return Ok(response);
    }
    Err(Status::with_details_and_metadata(
        code,
        "not enough, \u{fc}nlucky: 100 %\n",
        Bytes::from_static(&[8, 9, 0, 255]),
        metadata,
    ))
}

// F3, D6
#[tokio::test]
async fn trailers_details_and_binary_metadata_are_replayed_byte_for_byte() {
    for code in [Code::Ok, Code::FailedPrecondition, Code::NotFound] {
        let (server, ledger) = answering(layer(), move || rich(code)).await;
        let first = send(raw(server, "k")).await;
        let again = send(raw(server, "k")).await;
        assert_eq!(first.said(), "executed");
        assert_eq!(again.said(), "replayed");
        assert_eq!(i32::from(first.grpc_status()), code as i32);
        assert_eq!(first.line("x-seal-bin"), Some("AP8K"));
        assert_eq!(first.trailers.is_some(), code == Code::Ok);
        assert_eq!(first.without_ours(), again.without_ours(), "{code:?}");
        assert_eq!(ledger.effects(), 1);
    }
}

// F3
#[tokio::test]
async fn a_tonic_client_reads_a_replayed_failure_as_it_read_the_failure() {
    let (server, ledger) = answering(layer(), || rich(Code::FailedPrecondition)).await;
    let mut bank = client(server).await;
    let first = bank.transfer(keyed("k", 10)).await.unwrap_err();
    let again = bank.transfer(keyed("k", 10)).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert_eq!(again.message(), first.message());
    assert_eq!(again.details(), &[8, 9, 0, 255]);
    let seal = |status: &Status| status.metadata().get_bin("x-seal-bin").unwrap().to_bytes();
    assert_eq!(seal(&again).unwrap(), seal(&first).unwrap());
    assert_eq!(said(again.metadata()), "replayed");
    assert_eq!(ledger.effects(), 1);
}

// F11
#[tokio::test]
async fn a_client_without_compression_can_read_the_answer_to_one_with_it() {
    let (server, ledger) = paying(layer()).await;
    let mut compressing = client(server).await.compressing();
    let first = compressing.transfer(keyed("k", 10)).await.unwrap();
    assert_eq!(said(first.metadata()), "executed");
    let again = compressing.transfer(keyed("k", 10)).await.unwrap();
    assert_eq!(again.get_ref(), first.get_ref());
    // The same call, not compressed, is told apart by its bytes: it is refused, and executed never.
    let plain = client(server).await.transfer(keyed("k", 10)).await;
    assert_eq!(said(plain.unwrap_err().metadata()), "mismatch");
    // A record that was made for a client with compression has none.
    let mut asks_for_gzip = raw(server, "other");
    let gzip = http::HeaderValue::from_static("gzip");
    asks_for_gzip
        .headers_mut()
        .insert("grpc-accept-encoding", gzip);
    assert_eq!(send(asks_for_gzip).await.said(), "executed");
    let replayed = client(server).await.transfer(keyed("other", 10)).await;
    assert_eq!(replayed.unwrap().get_ref().number, 2);
    assert_eq!(ledger.effects(), 2);
}

// P18
#[tokio::test]
async fn a_caller_who_goes_away_finds_the_answer_when_it_comes_back() {
    let ledger = Ledger::default();
    let counted = ledger.clone();
    let handler = move |_| {
        let number = counted.apply();
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let text = String::new();
            Ok(Response::new(Receipt { number, text }))
        }
    };
    let server = serve(layer(), handler).await;
    let mut bank = client(server).await;
    let mut given_up = Box::pin(bank.transfer(keyed("k", 10)));
    while ledger.effects() == 0 {
        assert!((&mut given_up).now_or_never().is_none());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(given_up);
    let again = client(server).await.transfer(keyed("k", 10)).await.unwrap();
    assert_eq!(said(again.metadata()), "attached");
    assert_eq!(again.get_ref().number, 1);
    assert_eq!(ledger.effects(), 1);
}

#[tokio::test]
async fn of_many_at_once_one_is_executed_and_all_get_its_answer() {
    let (server, ledger) = paying(layer()).await;
    let calls = (0..32).map(|_| async move {
        let mut bank = client(server).await;
        bank.transfer(keyed("k", 10)).await.unwrap().into_inner()
    });
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.number == 1));
    assert_eq!(ledger.effects(), 1);
}

#[tokio::test]
async fn a_duplicate_that_is_not_to_wait_is_told_when_to_ask_again() {
    let mut options = DedupeOptions::default();
    options.wait = Wait::No;
    let impatient =
        onlyonce_middleware::grpc::DedupeLayer::with_options(memory(), Scope::global(), options);
    let ledger = Ledger::default();
    let counted = ledger.clone();
    let handler = move |_| {
        counted.apply();
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok(Response::new(Receipt::default()))
        }
    };
    let server = serve(impatient.protect(TRANSFER), handler).await;
    let first = tokio::spawn(send(raw(server, "k")));
    while ledger.effects() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let busy = send(raw(server, "k")).await;
    assert_eq!((busy.grpc_status(), busy.said()), (10, "in-progress"));
    let pushback: i64 = busy
        .line("grpc-retry-pushback-ms")
        .unwrap()
        .parse()
        .unwrap();
    assert!(pushback > 0);
    assert_eq!(first.await.unwrap().said(), "executed");
    assert_eq!(ledger.effects(), 1);
}

// P25
#[tokio::test]
async fn what_tonics_server_times_out_is_executed_once_and_answered_to_the_next_attempt() {
    let ledger = Ledger::default();
    let counted = ledger.clone();
    let handler = move |_| {
        let number = counted.apply();
        async move {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let text = String::new();
            Ok(Response::new(Receipt { number, text }))
        }
    };
    let server = serve(layer(), handler).await;
    let mut hasty = raw(server, "k");
    let timeout = http::HeaderValue::from_static("100m");
    hasty.headers_mut().insert("grpc-timeout", timeout);
    let late = send(hasty).await;
    // Whichever timer is first: tonic's own says CANCELLED, and nothing of the call.
    match late.grpc_status() {
        1 => assert_eq!(late.said(), "nothing"),
        4 => assert_eq!(late.said(), "in-progress"),
        other => panic!("code {other}"),
    }
    let again = send(raw(server, "k")).await;
    assert!(matches!(again.said(), "attached" | "replayed"));
    assert_eq!(ledger.effects(), 1);
}

const SEATS: Table = Table::new("seats");

#[tokio::test]
async fn a_transactional_method_applies_its_effect_with_its_answer_or_not_at_all() {
    let store = memory();
    let booking = onlyonce_middleware::grpc::DedupeLayer::new(store.clone(), Scope::global())
        .transactional()
        .protect(TRANSFER);
    let handler = |request: tonic::Request<crate::bank::Transfer>| async move {
        let seats = request.extensions().get::<Transaction>().cloned();
        let seats = seats.ok_or_else(|| Status::internal("no transaction"))?;
        let undone = |error| Status::unavailable(format!("{error}"));
        let taken = seats.get(&SEATS, b"1").await.map_err(undone)?;
        seats.put(&SEATS, b"1", b"taken").map_err(undone)?;
        match request.get_ref().cents {
            0 => Err(Status::unavailable("later")),
            1 => Err(Status::failed_precondition("never")),
            _ if taken.is_some() => Err(Status::already_exists("taken")),
            _ => Ok(Response::new(Receipt::default())),
        }
    };
    let server = serve(booking, handler).await;
    let mut bank = client(server).await;
    // Rolled back, and free.
    let later = bank.transfer(keyed("a", 0)).await.unwrap_err();
    assert_eq!(
        (later.code(), said(later.metadata())),
        (Code::Unavailable, "not-executed")
    );
    // Recorded, without its effect.
    for expected in ["executed", "replayed"] {
        let never = bank.transfer(keyed("b", 1)).await.unwrap_err();
        assert_eq!(never.code(), Code::FailedPrecondition);
        assert_eq!(said(never.metadata()), expected);
    }
    for expected in ["executed", "replayed"] {
        let booked = bank.transfer(keyed("a", 2)).await.unwrap();
        assert_eq!(said(booked.metadata()), expected);
    }
    let taken = bank.transfer(keyed("c", 2)).await.unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn an_answer_that_its_caller_may_no_longer_see_is_withheld_and_kept() {
    let watched =
        layer().on_replay(|request, _| async move { !request.headers.contains_key("x-revoked") });
    let (server, ledger) = paying(watched).await;
    assert_eq!(send(raw(server, "k")).await.said(), "executed");
    let mut revoked = raw(server, "k");
    let yes = http::HeaderValue::from_static("yes");
    revoked.headers_mut().insert("x-revoked", yes);
    let withheld = send(revoked).await;
    assert_eq!((withheld.grpc_status(), withheld.said()), (7, "replayed"));
    assert!(withheld.body.is_empty());
    assert_eq!(send(raw(server, "k")).await.grpc_status(), 0);
    assert_eq!(ledger.effects(), 1);
}

#[tokio::test]
async fn two_tenants_with_the_same_key_do_not_meet() {
    let by_user = |request: &http::request::Parts| {
        let user = request.headers.get("x-user")?.to_str().ok()?;
        Scope::principal(user).ok()
    };
    let layer = onlyonce_middleware::grpc::DedupeLayer::new(memory(), by_user).protect(TRANSFER);
    let ledger = Ledger::default();
    let server = serve(layer, counting(&ledger)).await;
    let mut bank = client(server).await;
    for user in ["anna", "bert"] {
        let mut request = keyed("k", 10);
        request
            .metadata_mut()
            .insert("x-user", user.parse().unwrap());
        let paid = bank.transfer(request).await.unwrap();
        assert_eq!(said(paid.metadata()), "executed");
    }
    let nobody = bank.transfer(keyed("k", 10)).await.unwrap_err();
    assert_eq!(nobody.code(), Code::PermissionDenied);
    assert_eq!(ledger.effects(), 2);
}
