//! A client that goes away takes nothing with it.

use std::sync::Arc;

use onlyonce::rpc::Known;
use onlyonce::storage::Store;
use onlyonce_chaos::proxy::Plan;

use super::shop::{PAY, Shop, Wish, client, key, network, payment};
use super::stores::on_every_store;

on_every_store![
    // B16, P18
    a_cut_connection_lets_the_handler_finish_and_the_retry_gets_its_answer,
    // B16, P18
    a_client_that_vanishes_lets_the_handler_finish_and_its_key_is_kept,
    // A8
    a_waiter_that_vanishes_leaves_the_owner_its_answer,
    // A8
    an_owner_that_vanishes_leaves_its_waiter_the_answer,
];

async fn a_cut_connection_lets_the_handler_finish_and_the_retry_gets_its_answer(
    store: Arc<dyn Store>,
) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let proxy = network(&serving, Plan::none()).await;
    let client = client(proxy.addr());
    let call = tokio::spawn(async move { client.call(&PAY, &payment(1, Wish::Hold)).await });
    shop.until_runs(1).await;
    proxy.cut();
    shop.until_seen(2).await;
    shop.open_gate();
    let receipt = call.await.unwrap().unwrap();
    assert_eq!(shop.payments(), [(payment(1, Wish::Hold), receipt)]);
    assert_eq!(shop.runs(), 1);
    assert_eq!(proxy.stats().connections, 2);
}

async fn a_client_that_vanishes_lets_the_handler_finish_and_its_key_is_kept(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let gone = client(serving.local_addr());
    let first = tokio::spawn(async move {
        gone.call_as(key("order-1"), &PAY, &payment(1, Wish::Hold))
            .await
    });
    shop.until_runs(1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());

    let other = client(serving.local_addr());
    let known = other.peek(key("order-1"), &PAY).await.unwrap();
    assert_eq!(known, Known::InProgress);
    shop.open_gate();
    let again = other
        .call_as(key("order-1"), &PAY, &payment(1, Wish::Hold))
        .await;
    assert_eq!(shop.payments(), [(payment(1, Wish::Hold), again.unwrap())]);
    assert_eq!(shop.runs(), 1);
}

async fn a_waiter_that_vanishes_leaves_the_owner_its_answer(store: Arc<dyn Store>) {
    let (shop, owner, waiter, _serving) = owner_and_waiter(store).await;
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    shop.open_gate();
    let receipt = owner.await.unwrap();
    assert_eq!(shop.payments(), [(payment(1, Wish::Hold), receipt)]);
    assert_eq!(shop.runs(), 1);
}

async fn an_owner_that_vanishes_leaves_its_waiter_the_answer(store: Arc<dyn Store>) {
    let (shop, owner, waiter, _serving) = owner_and_waiter(store).await;
    owner.abort();
    assert!(owner.await.unwrap_err().is_cancelled());
    shop.open_gate();
    let receipt = waiter.await.unwrap();
    assert_eq!(shop.payments(), [(payment(1, Wish::Hold), receipt)]);
    assert_eq!(shop.runs(), 1);
}

type Calling = tokio::task::JoinHandle<super::shop::Receipt>;

/// Two clients with one key: the first one's call is being executed, the second one's waits.
async fn owner_and_waiter(
    store: Arc<dyn Store>,
) -> (Shop, Calling, Calling, onlyonce::rpc::Serving) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let address = serving.local_addr();
    let call = || {
        let client = client(address);
        tokio::spawn(async move {
            let payment = payment(1, Wish::Hold);
            client
                .call_as(key("order-1"), &PAY, &payment)
                .await
                .unwrap()
        })
    };
    let owner = call();
    shop.until_runs(1).await;
    let waiter = call();
    shop.until_seen(2).await;
    (shop, owner, waiter, serving)
}
