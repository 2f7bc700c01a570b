//! Over gRPC.

use std::net::SocketAddr;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use onlyonce_middleware::client::Outcome;
use onlyonce_middleware::grpc::client::{Client, Error, stack};
use onlyonce_middleware::http::client::{Hyper, hyper};
use tonic::{Request, Response, Status};

use crate::bank::{BankClient, Receipt, TRANSFER, Transfer};
use crate::servers::{HANG, Pair};

type Bank = BankClient<Client<Hyper<HttpConnector>>>;

fn bank(server: SocketAddr) -> Bank {
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .http2_only(true)
        .retry_canceled_requests(false)
        .build_http();
    let stack = stack(hyper(client)).protect(TRANSFER);
    let origin = format!("http://{server}").parse().unwrap();
    BankClient::with_origin(stack.build(), origin)
}

async fn pay(bank: &mut Bank, whom: &str) -> Result<Response<Receipt>, Status> {
    let to = whom.to_owned();
    bank.transfer(Request::new(Transfer { to, cents: 10 }))
        .await
}

fn outcome(failed: &Status) -> Outcome {
    let source = std::error::Error::source(failed).expect("a source");
    match source.downcast_ref() {
        Some(Error::Call(error)) => error.outcome,
        other => panic!("{other:?}"),
    }
}

// A2, H4
#[tokio::test]
async fn a_retry_whose_answer_was_lost_gets_it_from_another_server_of_the_store() {
    let Some(mut pair) = Pair::start("grpc").await else {
        return;
    };
    let mut bank = bank(pair.front.address);
    let first = pay(&mut bank, "anna").await.unwrap();
    assert_eq!(first.get_ref().text, "anna paid by one");
    assert_eq!(pair.one.had_an_effect().await, "anna");

    let paying = tokio::spawn(async move { pay(&mut bank, "bert").await });
    assert_eq!(pair.one.had_an_effect().await, "bert");
    pair.front.lose_what_the_first_one_says();
    let answer = paying.await.unwrap().unwrap();
    let said = answer.metadata().get("idempotency-status").unwrap();
    assert!(said == "attached" || said == "replayed", "{said:?}");
    assert_eq!(answer.get_ref().text, "bert paid by one");
    assert_eq!(pair.effects().await, [Vec::<String>::new(), Vec::new()]);
}

// A2, B2
#[tokio::test]
async fn a_call_whose_server_was_killed_in_it_is_in_doubt_at_the_other_one() {
    let Some(mut pair) = Pair::start("grpc").await else {
        return;
    };
    let mut bank = bank(pair.front.address);
    pay(&mut bank, "anna").await.unwrap();
    assert_eq!(pair.one.had_an_effect().await, "anna");

    let paying = tokio::spawn(async move {
        let failed = pay(&mut bank, HANG).await.unwrap_err();
        (bank, failed)
    });
    assert_eq!(pair.one.had_an_effect().await, HANG);
    pair.one.kill().await;
    let (mut bank, failed) = paying.await.unwrap();
    assert_eq!(outcome(&failed), Outcome::InDoubt, "{failed}");
    // Other calls go on.
    let other = pay(&mut bank, "carl").await.unwrap();
    assert_eq!(other.get_ref().text, "carl paid by two");
    assert_eq!(pair.effects().await, [vec![], vec!["carl".to_owned()]]);
}
