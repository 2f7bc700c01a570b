//! How handlers and stores end a call, and what the client is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use onlyonce::middleware::client::Ticket;
use onlyonce::rpc::{CallFailure, Known, Request, Stamp, Status};
use onlyonce::storage::Store;
use onlyonce_chaos::proxy::{Direction, Fault, Plan, Rule};
use tower::ServiceExt;

use super::lost::handshake;
use super::shop::{
    ClientOptions, Declined, PAY, Shop, Wish, channel, client, key, network, payment,
};
use super::stores::{Folder, Unreachable, on_every_store};

on_every_store![
    // D2
    a_fault_of_the_handler_crosses_the_wire_and_is_replayed_like_any_answer,
    // D1, D3
    a_handler_that_did_not_execute_frees_the_key,
    // B15
    a_panic_of_the_handler_leaves_the_key_in_doubt,
];

async fn a_fault_of_the_handler_crosses_the_wire_and_is_replayed_like_any_answer(
    store: Arc<dyn Store>,
) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let cut = Rule::new(Direction::ToClient, Fault::Reset).nth(1);
    let plan = Plan::none().rule(cut.after_bytes(handshake(&serving).await.0));
    let proxy = network(&serving, plan).await;
    let client = client(proxy.addr());
    // The first two get the same fault: its answer was lost once.
    for seen in [2, 3] {
        let ended = client
            .call_as(key("order-1"), &PAY, &payment(1, Wish::Decline))
            .await;
        let Err(CallFailure::Fault(declined)) = ended else {
            panic!("no fault: {ended:?}");
        };
        assert_eq!(declined, Declined { run: 1 });
        assert_eq!((shop.seen().len(), shop.runs()), (seen, 1));
    }
    let known = client.peek(key("order-1"), &PAY).await.unwrap();
    assert_eq!(known, Known::Completed(Err(Declined { run: 1 })));
}

async fn a_handler_that_did_not_execute_frees_the_key(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    shop.refuse(true);
    let client = ClientOptions::attempts(3).client(serving.local_addr());
    let pay = payment(1, Wish::Refuse);
    let ticket = Ticket::never_sent(key("order-1"));
    let ended = client.resume(ticket, &PAY, &pay).await;
    let Err(CallFailure::NotExecuted(failed)) = ended else {
        panic!("executed: {ended:?}");
    };
    assert_eq!((failed.attempts, shop.runs(), shop.paid(1)), (3, 3, 0));
    assert!(failed.last.contains("not today"), "{failed}");
    assert_eq!(
        client.peek(key("order-1"), &PAY).await.unwrap(),
        Known::Absent
    );

    shop.refuse(false);
    let receipt = client.resume(failed.ticket, &PAY, &pay).await.unwrap();
    assert_eq!(shop.payments(), [(pay, receipt)]);
    assert_eq!(shop.runs(), 4);
}

async fn a_panic_of_the_handler_leaves_the_key_in_doubt(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let client = client(serving.local_addr());
    let ended = client
        .call_as(key("order-1"), &PAY, &payment(1, Wish::Panic))
        .await;
    assert!(matches!(ended, Err(CallFailure::InDoubt(_))), "{ended:?}");
    let known = client.peek(key("order-1"), &PAY).await.unwrap();
    assert!(matches!(known, Known::InDoubt(_)), "{known:?}");
    // A seal comes too late, and the connection serves others as before.
    let sealed = client.seal(key("order-1"), &PAY).await.unwrap();
    assert!(matches!(sealed, Known::InDoubt(_)), "{sealed:?}");
    client.call(&PAY, &payment(2, Wish::Pay)).await.unwrap();
    assert_eq!((shop.paid(1), shop.paid(2), shop.runs()), (1, 1, 2));
}

// G1
#[tokio::test]
async fn a_store_that_cannot_be_reached_means_not_executed_with_advice() {
    let shop = Shop::new();
    let store = Unreachable::new();
    let serving = shop.serve(store.clone()).await;
    let client = ClientOptions::attempts(2).client(serving.local_addr());
    let ticket = Ticket::never_sent(key("order-1"));
    let ended = client.resume(ticket, &PAY, &payment(1, Wish::Pay)).await;
    let Err(CallFailure::NotExecuted(failed)) = ended else {
        panic!("executed: {ended:?}");
    };
    assert_eq!((failed.attempts, shop.seen().len(), shop.runs()), (2, 2, 0));

    let call = onlyonce::middleware::client::Call::new(failed.ticket.clone());
    let stamp = Stamp::new(Arc::new(call), std::num::NonZeroU32::MIN);
    let request = Request::new(PAY.name(), shop.seen()[0].arguments.clone()).stamp(stamp);
    let reply = channel(serving.local_addr())
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(reply.status, Status::Unavailable);
    assert_eq!(reply.retry_after, Some(Duration::from_millis(20)));

    store.refuses.store(false, Ordering::SeqCst);
    client
        .resume(failed.ticket, &PAY, &payment(1, Wish::Pay))
        .await
        .unwrap();
    assert_eq!((shop.runs(), shop.paid(1)), (1, 1));
}

// G1
#[tokio::test]
async fn a_closed_store_executes_nothing() {
    let (folder, shop) = (Folder::new(), Shop::new());
    let store = folder.open().await;
    let serving = shop.serve(store.clone()).await;
    store.close().await.unwrap();
    let client = ClientOptions::attempts(1).client(serving.local_addr());
    let ended = client.call(&PAY, &payment(1, Wish::Pay)).await;
    assert!(
        matches!(ended, Err(CallFailure::NotExecuted(_))),
        "{ended:?}"
    );
    assert_eq!((shop.seen().len(), shop.runs()), (1, 0));
}
