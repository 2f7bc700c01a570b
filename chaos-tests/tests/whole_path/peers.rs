//! Servers that do not remember what another one did.

use std::sync::Arc;

use onlyonce::middleware::client::Stopped;
use onlyonce::rpc::{CallFailure, Client, Failure, Method, Router, Server, ServerAdapter};
use onlyonce::storage::Store;
use onlyonce_chaos::proxy::Plan;
use onlyonce_storage::MemoryStore;
use tokio::net::TcpListener;
use tower::Layer;

use super::shop::{ClientOptions, PAY, Shop, Wish, client, network, payment};
use super::stores::on_every_store;

on_every_store![
    // H8
    a_retry_that_meets_another_store_ends_unknown_and_pays_nothing,
];

async fn a_retry_that_meets_another_store_ends_unknown_and_pays_nothing(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let first = shop.serve(store).await;
    let second = shop.serve(Arc::new(MemoryStore::new())).await;
    let proxy = network(&first, Plan::none()).await;
    let calling = client(proxy.addr());
    let call = tokio::spawn(async move { calling.call(&PAY, &payment(1, Wish::Hold)).await });
    shop.until_runs(1).await;
    proxy.set_upstream(second.local_addr());
    proxy.cut();
    let ended = call.await.unwrap();
    let Err(CallFailure::OutcomeUnknown(failed)) = ended else {
        panic!("not unknown: {ended:?}");
    };
    assert_eq!((failed.attempts, failed.stopped), (2, Stopped::Final));
    assert!(failed.last.contains("misdirected"), "{failed}");
    assert_eq!((shop.runs(), shop.paid(1)), (1, 1));

    // Where the first store is, the ticket gets the answer.
    shop.open_gate();
    let pay = payment(1, Wish::Hold);
    let later = client(first.local_addr());
    let receipt = later.resume(failed.ticket, &PAY, &pay).await.unwrap();
    assert_eq!(shop.payments(), [(pay, receipt)]);
    assert_eq!(shop.runs(), 1);
}

// H7
#[tokio::test]
async fn a_call_lost_on_a_server_that_does_not_dedupe_is_not_retried() {
    let shop = Shop::new();
    let serving = shop.serve_unprotected().await;
    let proxy = network(&serving, Plan::none()).await;
    let calling = client(proxy.addr());
    let call = tokio::spawn(async move { calling.call(&PAY, &payment(1, Wish::Hold)).await });
    shop.until_runs(1).await;
    proxy.cut();
    let ended = call.await.unwrap();
    let Err(CallFailure::OutcomeUnknown(failed)) = ended else {
        panic!("not unknown: {ended:?}");
    };
    assert_eq!(failed.stopped, Stopped::PeerNotKnownToDedupe);
    assert_eq!(
        (failed.attempts, shop.seen().len(), shop.paid(1)),
        (1, 1, 1)
    );
}

const FORWARD: Method<u64, u64> = Method::new("front.forward");

// P13
#[tokio::test]
async fn a_dead_server_behind_another_sees_the_attempts_of_the_outermost_client_alone() {
    let dead = Shop::new().serve(Arc::new(MemoryStore::new())).await;
    let proxy = network(&dead, Plan::none()).await;
    drop(dead);

    let behind = ClientOptions::attempts(2).client(proxy.addr());
    let routes = Router::new(behind)
        .method(&FORWARD, |_, behind: Client, operation: u64| async move {
            let paid = behind.call(&PAY, &payment(operation, Wish::Pay)).await;
            match paid {
                Ok(receipt) => Ok(receipt.entry),
                Err(CallFailure::NotExecuted(failed)) => {
                    Err(Failure::NotExecuted(failed.to_string()))
                }
                Err(_) => Err(Failure::InDoubt),
            }
        })
        .into_routes();
    let store = Arc::new(MemoryStore::new());
    let layers = onlyonce::middleware::stack::server(store, ServerAdapter::new(routes.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder().global_scope().dedupe(layers.executions());
    let front = server
        .build()
        .unwrap()
        .serve(listener, layers.layer(routes))
        .unwrap();

    let client = ClientOptions::attempts(3).client(front.local_addr());
    let ended = client.call(&FORWARD, &1).await;
    let Err(CallFailure::NotExecuted(failed)) = ended else {
        panic!("executed: {ended:?}");
    };
    assert_eq!(failed.attempts, 3);
    // The server in the middle would make two, were its own caller not retrying already.
    assert_eq!(proxy.stats().connections, 3);
}
