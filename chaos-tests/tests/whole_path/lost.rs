//! Requests and answers that get lost, wherever the network cuts them.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use onlyonce::rpc::Serving;
use onlyonce::storage::Store;
use onlyonce_chaos::proxy::{Direction, Fault, Plan, Rule};

use super::shop::{ClientOptions, PAY, Shop, Wish, channel, client, network, payment};
use super::stores::on_every_store;
use tower::ServiceExt;

on_every_store![
    // H1
    a_lost_answer_is_got_by_the_retry_and_the_effect_happens_once,
    a_cut_at_any_byte_ends_answered_and_pays_once,
];

async fn a_lost_answer_is_got_by_the_retry_and_the_effect_happens_once(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let welcome = handshake(&serving).await.0;
    let lost = Rule::answer_lost(welcome).nth(1);
    let proxy = network(&serving, Plan::none().rule(lost)).await;
    let client = ClientOptions::quick(5).client(proxy.addr());
    let receipt = client.call(&PAY, &payment(1, Wish::Pay)).await.unwrap();
    let (_, first) = &shop.payments()[0];
    assert_eq!((&receipt, shop.paid(1)), (first, 1));
    assert!(shop.seen().len() >= 2, "{:?}", shop.seen());
}

/// One call on a fresh connection, cut at each of its bytes: the handshake's, the request's and
/// the answer's.
async fn a_cut_at_any_byte_ends_answered_and_pays_once(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let (to_client, to_server) = conversation(&serving).await;
    let cuts = [Fault::Reset, Fault::Close, Fault::DropRest]
        .into_iter()
        .flat_map(|fault| {
            let answers = (0..to_client).map(move |byte| (Direction::ToClient, fault, byte));
            answers.chain((0..to_server).map(move |byte| (Direction::ToServer, fault, byte)))
        });
    let cuts: Vec<_> = (1_u64..).zip(cuts).collect();
    assert!(cuts.len() > 300, "{to_client} and {to_server} bytes");
    // As many at a time as a slow machine still answers well within an attempt.
    stream::iter(&cuts)
        .for_each_concurrent(24, |&(operation, cut)| {
            pay_through(&shop, &serving, operation, cut)
        })
        .await;
    assert_eq!(shop.payments().len(), cuts.len() + 1);
}

async fn pay_through(
    shop: &Shop,
    serving: &Serving,
    operation: u64,
    (direction, fault, byte): (Direction, Fault, u64),
) {
    let rule = Rule::new(direction, fault).after_bytes(byte).nth(1);
    let proxy = network(serving, Plan::none().rule(rule)).await;
    let client = ClientOptions::quick(20).client(proxy.addr());
    let answer = client.call(&PAY, &payment(operation, Wish::Pay)).await;
    let cut = format!("{fault:?} {direction:?} at {byte}");
    let receipt = answer.unwrap_or_else(|failure| panic!("{cut}: {failure:?}"));
    assert_eq!(proxy.stats().fired(fault.kind()), 1, "{cut}");
    let payments = shop.payments();
    let paid: Vec<_> = payments
        .iter()
        .filter(|(p, _)| p.operation == operation)
        .collect();
    assert_eq!(paid, [&(payment(operation, Wish::Pay), receipt)], "{cut}");
}

/// How many bytes go to the client and to the server on a connection with one call.
async fn conversation(serving: &Serving) -> (u64, u64) {
    let proxy = network(serving, Plan::none()).await;
    let client = client(proxy.addr());
    client.call(&PAY, &payment(0, Wish::Pay)).await.unwrap();
    let stats = proxy.stats();
    (stats.bytes_to_client, stats.bytes_to_server)
}

/// How many bytes go to the client and to the server before the first request.
pub async fn handshake(serving: &Serving) -> (u64, u64) {
    let proxy = network(serving, Plan::none()).await;
    channel(proxy.addr()).ready().await.unwrap();
    let stats = proxy.stats();
    (stats.bytes_to_client, stats.bytes_to_server)
}
