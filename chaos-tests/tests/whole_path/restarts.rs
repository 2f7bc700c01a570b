//! What a server remembers when it comes back.

use std::num::NonZeroU32;
use std::sync::Arc;

use onlyonce::middleware::client::{Call, Ticket};
use onlyonce::rpc::{CallFailure, Reply, Request, Serving, Stamp, Status};
use onlyonce::storage::{FencingToken, KeyState, Scope, ScopedKey, Store};
use onlyonce_chaos::proxy::Plan;
use tower::ServiceExt;

use super::shop::{ClientOptions, PAY, Shop, Wish, channel, client, key, network, payment};
use super::stores::Folder;

// B1
#[tokio::test]
async fn an_answer_is_replayed_byte_for_byte_by_the_next_incarnation() {
    let (folder, shop) = (Folder::new(), Shop::new());
    let store = folder.open().await;
    let serving = shop.serve(store.clone()).await;
    let ticket = Ticket::new(key("order-1"));
    let pay = payment(1, Wish::Pay);
    client(serving.local_addr())
        .resume(ticket, &PAY, &pay)
        .await
        .unwrap();
    let arguments = shop.seen()[0].arguments.clone();
    let request = Request::new(PAY.name(), arguments);
    let before = attempt(&serving, request.clone()).await;
    assert_eq!(before.status, Status::Replayed);

    drop(serving);
    store.close().await.unwrap();
    let serving = shop.serve(folder.open().await).await;
    let after = attempt(&serving, request).await;
    assert_eq!(after, before);
    let receipt = client(serving.local_addr())
        .call_as(key("order-1"), &PAY, &pay)
        .await
        .unwrap();
    assert_eq!(shop.payments(), [(pay, receipt)]);
    assert_eq!(shop.runs(), 1);
}

// B1: what was being executed when the server died is in doubt at once, for the client that was
// waiting and for whoever asks later.
#[tokio::test]
async fn a_claim_of_a_dead_incarnation_is_in_doubt_for_the_retry_at_once() {
    let (folder, shop) = (Folder::new(), Shop::new());
    let store = folder.open().await;
    let serving = shop.serve(store.clone()).await;
    let proxy = network(&serving, Plan::none()).await;
    let waiting = ClientOptions::attempts(100).client(proxy.addr());
    let call = tokio::spawn(async move {
        waiting
            .call_as(key("order-1"), &PAY, &payment(1, Wish::Hold))
            .await
    });
    shop.until_runs(1).await;
    drop(serving);
    store.close().await.unwrap();
    let serving = shop.serve(folder.open().await).await;
    proxy.set_upstream(serving.local_addr());
    proxy.cut();
    let failure = call.await.unwrap().unwrap_err();
    assert!(matches!(failure, CallFailure::InDoubt(_)), "{failure:?}");

    let again = client(serving.local_addr())
        .call_as(key("order-1"), &PAY, &payment(1, Wish::Hold))
        .await;
    let Err(CallFailure::InDoubt(failed)) = again else {
        panic!("not in doubt: {again:?}");
    };
    assert_eq!(failed.attempts, 1);
    // The handler of the dead incarnation ends, and changes nothing any more.
    shop.open_gate();
    assert_eq!((shop.paid(1), shop.runs()), (1, 1));
}

// B12
#[tokio::test]
async fn every_fencing_token_after_a_restart_is_larger_than_all_before_it() {
    let (folder, shop) = (Folder::new(), Shop::new());
    let mut tokens = Vec::new();
    for incarnation in 0..3 {
        let store = folder.open().await;
        let serving = shop.serve(store.clone()).await;
        for order in 0..3 {
            let name = format!("order-{incarnation}-{order}");
            let operation = incarnation * 3 + order;
            let pay = payment(operation, Wish::Pay);
            client(serving.local_addr())
                .call_as(key(&name), &PAY, &pay)
                .await
                .unwrap();
            tokens.push(token(&*store, &name).await);
        }
        drop(serving);
        store.close().await.unwrap();
    }
    assert!(
        tokens.is_sorted_by(|earlier, later| earlier < later),
        "{tokens:?}"
    );
    assert_eq!(shop.payments().len(), tokens.len());
}

async fn token(store: &dyn Store, name: &str) -> FencingToken {
    let scope = Scope::global().operation(PAY.name()).unwrap();
    match store.peek(ScopedKey::new(scope, key(name))).await.unwrap() {
        KeyState::Completed(completion) => completion.token,
        other => panic!("{name} is {other:?}"),
    }
}

/// One attempt of the call `order-1`, as it comes over the wire.
async fn attempt(serving: &Serving, request: Request) -> Reply {
    let call = Arc::new(Call::new(Ticket::new(key("order-1"))));
    let request = request.stamp(Stamp::new(call, NonZeroU32::MIN));
    channel(serving.local_addr())
        .oneshot(request)
        .await
        .unwrap()
}
