//! A server that goes away lets nobody down.

use std::sync::Arc;
use std::time::Duration;

use onlyonce::storage::Store;
use onlyonce_chaos::proxy::Plan;

use super::shop::{ClientOptions, PAY, Shop, Wish, network, payment};
use super::stores::on_every_store;

on_every_store![
    // K1
    calls_in_flight_are_answered_and_later_ones_succeed_on_another_server,
];

async fn calls_in_flight_are_answered_and_later_ones_succeed_on_another_server(
    store: Arc<dyn Store>,
) {
    let shop = Shop::new();
    let leaving = shop.serve(Arc::clone(&store)).await;
    let staying = shop.serve(store).await;
    let proxy = network(&leaving, Plan::none()).await;
    let client = ClientOptions::attempts(10).client(proxy.addr());
    let in_flight: Vec<_> = (1..=3)
        .map(|operation| {
            let client = client.clone();
            tokio::spawn(async move { client.call(&PAY, &payment(operation, Wish::Hold)).await })
        })
        .collect();
    shop.until_runs(3).await;
    assert_eq!(leaving.in_flight(), 3);

    proxy.set_upstream(staying.local_addr());
    let shutdown = tokio::spawn(leaving.shutdown(Duration::from_secs(60)));
    // Over the connection that is being left, or over the next one.
    for operation in 4..=6 {
        client
            .call(&PAY, &payment(operation, Wish::Pay))
            .await
            .unwrap();
    }
    shop.open_gate();
    for call in in_flight {
        call.await.unwrap().unwrap();
    }
    assert_eq!(shutdown.await.unwrap().cut_off, 0);
    for operation in 1..=6 {
        assert_eq!(shop.paid(operation), 1, "{operation}");
    }
    assert_eq!(shop.runs(), 6);
    assert_eq!(proxy.stats().connections, 2);
}
