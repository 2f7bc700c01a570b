//! Looking at a key and making it impossible, over the wire.

use std::sync::Arc;

use onlyonce::middleware::client::{Stopped, Ticket};
use onlyonce::rpc::{CallFailure, Known, Status, Verb};
use onlyonce::storage::Store;
use onlyonce_chaos::proxy::{Direction, Fault, Plan, Rule};

use super::lost::handshake;
use super::shop::{PAY, Shop, Wish, client, key, network, payment};
use super::stores::on_every_store;

on_every_store![
    // D1
    peek_tells_each_state_of_a_key_and_executes_nothing,
    // D1
    a_sealed_key_is_never_executed,
    // D1
    a_seal_changes_nothing_of_a_call_that_was_executed_or_is_being,
    // D1
    a_question_whose_answer_is_lost_is_asked_again_where_the_ticket_names_the_store,
];

async fn peek_tells_each_state_of_a_key_and_executes_nothing(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let (asking, calling) = (client(serving.local_addr()), client(serving.local_addr()));
    let peek = async || asking.peek(key("order-1"), &PAY).await.unwrap();
    assert_eq!(peek().await, Known::Absent);
    assert_eq!(peek().await, Known::Absent);
    let call = tokio::spawn(async move {
        calling
            .call_as(key("order-1"), &PAY, &payment(1, Wish::Hold))
            .await
    });
    shop.until_runs(1).await;
    assert_eq!(peek().await, Known::InProgress);
    shop.open_gate();
    let receipt = call.await.unwrap().unwrap();
    assert_eq!(peek().await, Known::Completed(Ok(receipt)));
    assert_eq!((shop.runs(), shop.paid(1)), (1, 1));

    let sealed = asking.seal(key("order-2"), &PAY).await.unwrap();
    assert_eq!(sealed, Known::Sealed);
    let known = asking.peek(key("order-2"), &PAY).await.unwrap();
    assert_eq!(known, Known::Sealed);
}

async fn a_sealed_key_is_never_executed(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let client = client(serving.local_addr());
    for _ in 0..2 {
        let sealed = client.seal(key("order-1"), &PAY).await.unwrap();
        assert_eq!(sealed, Known::Sealed);
        let ticket = Ticket::never_sent(key("order-1"));
        let ended = client.resume(ticket, &PAY, &payment(1, Wish::Pay)).await;
        let Err(CallFailure::Refused { status, .. }) = ended else {
            panic!("not refused: {ended:?}");
        };
        assert_eq!(status, Status::Stale);
    }
    assert_eq!((shop.runs(), shop.paid(1)), (0, 0));
}

async fn a_seal_changes_nothing_of_a_call_that_was_executed_or_is_being(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let (asking, calling) = (client(serving.local_addr()), client(serving.local_addr()));
    let pay = payment(1, Wish::Hold);
    let call = {
        let pay = pay.clone();
        tokio::spawn(async move { calling.call_as(key("order-1"), &PAY, &pay).await })
    };
    shop.until_runs(1).await;
    let sealed = asking.seal(key("order-1"), &PAY).await.unwrap();
    assert_eq!(sealed, Known::InProgress);
    shop.open_gate();
    let receipt = call.await.unwrap().unwrap();
    let sealed = asking.seal(key("order-1"), &PAY).await.unwrap();
    assert_eq!(sealed, Known::Completed(Ok(receipt.clone())));
    let again = asking.call_as(key("order-1"), &PAY, &pay).await.unwrap();
    assert_eq!((again, shop.runs()), (receipt, 1));
}

/// Without the store's id the next attempt might meet another store, whose seal would say nothing:
/// then it stays unanswered, though the key may be sealed.
async fn a_question_whose_answer_is_lost_is_asked_again_where_the_ticket_names_the_store(
    store: Arc<dyn Store>,
) {
    let shop = Shop::new();
    let id = store.id();
    let serving = shop.serve(store).await;
    let lost = Rule::new(Direction::ToClient, Fault::Reset).first(2);
    let lost = lost.after_bytes(handshake(&serving).await.0);
    let proxy = network(&serving, Plan::none().rule(lost)).await;
    let client = client(proxy.addr());
    let unanswered = client.seal(key("order-1"), &PAY).await.unwrap_err();
    assert_eq!(unanswered.stopped, Stopped::PeerNotKnownToDedupe);

    let ticket = Ticket::new(key("order-1")).store(id);
    let sealed = client.seal(ticket, &PAY).await.unwrap();
    assert_eq!(sealed, Known::Sealed);
    let seen = shop.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|seen| seen.verb == Verb::Seal));
}
