//! Over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use ::http::Request;
use hyper_util::client::legacy::connect::HttpConnector;
use onlyonce_middleware::client::Outcome;
use onlyonce_middleware::http::client::{Client, Hyper, stack};
use onlyonce_middleware::http::{Body, Read};

use crate::servers::{HANG, Pair};

fn client() -> Client {
    stack(Hyper::over(HttpConnector::new()))
        .with_call_timeout(Duration::from_secs(30))
        .build()
}

fn pay(server: SocketAddr, whom: &'static str) -> Request<Body> {
    let request = Request::post(format!("http://{server}/pay"));
    request.body(Body::from(whom)).unwrap()
}

async fn text(body: Body) -> String {
    let Read::Whole(contents) = body.read(1024).await.unwrap() else {
        panic!("answers are short");
    };
    String::from_utf8(contents.bytes.to_vec()).unwrap()
}

// A2, H4
#[tokio::test]
async fn a_retry_whose_answer_was_lost_gets_it_from_another_server_of_the_store() {
    let Some(mut pair) = Pair::start("http").await else {
        return;
    };
    let (client, front) = (client(), pair.front.address);
    let first = client.send(pay(front, "anna")).await.unwrap();
    assert_eq!(first.headers()["idempotency-status"], "executed");
    assert_eq!(text(first.into_body()).await, "anna paid by one");
    assert_eq!(pair.one.had_an_effect().await, "anna");

    let paying = tokio::spawn(client.send(pay(front, "bert")));
    assert_eq!(pair.one.had_an_effect().await, "bert");
    pair.front.lose_what_the_first_one_says();
    let answer = paying.await.unwrap().unwrap();
    let said = answer.headers()["idempotency-status"].to_str().unwrap();
    assert!(matches!(said, "attached" | "replayed"), "{said}");
    assert_eq!(text(answer.into_body()).await, "bert paid by one");
    assert_eq!(pair.effects().await, [Vec::<String>::new(), Vec::new()]);
}

// A2, B2
#[tokio::test]
async fn a_call_whose_server_was_killed_in_it_is_in_doubt_at_the_other_one() {
    let Some(mut pair) = Pair::start("http").await else {
        return;
    };
    let (client, front) = (client(), pair.front.address);
    client.send(pay(front, "anna")).await.unwrap();
    assert_eq!(pair.one.had_an_effect().await, "anna");

    let paying = tokio::spawn(client.send(pay(front, HANG)));
    assert_eq!(pair.one.had_an_effect().await, HANG);
    pair.one.kill().await;
    let error = paying.await.unwrap().unwrap_err();
    assert_eq!(error.outcome, Outcome::InDoubt, "{error}");
    let mut again = pay(front, HANG);
    again.extensions_mut().insert(error.ticket);
    let error = client.send(again).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::InDoubt, "{error}");
    // Other calls go on.
    let other = client.send(pay(front, "carl")).await.unwrap();
    assert_eq!(text(other.into_body()).await, "carl paid by two");
    assert_eq!(pair.effects().await, [vec![], vec!["carl".to_owned()]]);
}
