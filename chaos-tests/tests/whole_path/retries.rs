//! What a call keeps over its attempts, which refusals end it, and what its end says.

use std::sync::Arc;

use onlyonce::middleware::client::{EarnedBy, RetryBudgetOptions};
use onlyonce::middleware::client::{RetryBudget, Stopped, Ticket};
use onlyonce::rpc::{CallFailure, Known, Status};
use onlyonce::storage::Store;
use onlyonce_chaos::proxy::{Direction, Fault, Plan, Rule};

use super::lost::handshake;
use super::shop::{ClientOptions, PAY, Shop, Wish, client, key, network, payment};
use super::stores::on_every_store;

on_every_store![
    // H1
    a_call_keeps_its_key_over_attempts_and_reconnects_and_the_next_call_has_another,
    // H5
    a_call_in_progress_is_waited_for_without_using_an_attempt,
    // H5
    a_mismatch_is_not_retried,
    // H5
    a_sealed_key_is_not_retried,
    // H5
    a_call_in_doubt_is_not_retried,
    // H10
    a_total_loss_of_answers_is_an_unknown_outcome_that_its_ticket_resumes,
    // H10
    a_total_loss_of_requests_is_an_unknown_outcome_whose_ticket_executes_once,
    // H10
    a_spent_budget_is_an_unknown_outcome_with_the_key,
];

async fn a_call_keeps_its_key_over_attempts_and_reconnects_and_the_next_call_has_another(
    store: Arc<dyn Store>,
) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let cut = Rule::new(Direction::ToClient, Fault::Reset).first(3);
    let plan = Plan::none().rule(cut.after_bytes(handshake(&serving).await.0));
    let proxy = network(&serving, plan).await;
    let client = ClientOptions::attempts(10).client(proxy.addr());
    client.call(&PAY, &payment(1, Wish::Pay)).await.unwrap();

    let seen = shop.seen();
    let attempts: Vec<_> = seen.iter().map(|seen| seen.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    assert_eq!(proxy.stats().connections, 4);
    let first = &seen[0];
    assert!(first.key.is_some() && first.first_sent.is_some() && first.store.is_some());
    for later in &seen {
        assert_eq!(later.key, first.key);
        assert_eq!(later.first_sent, first.first_sent);
        assert_eq!(later.store, first.store);
        assert_eq!(later.arguments, first.arguments);
    }

    client.call(&PAY, &payment(1, Wish::Pay)).await.unwrap();
    let next = shop.seen().pop().unwrap();
    assert_ne!(next.key, first.key);
    assert_eq!(next.attempt, 1);
    // The same wish twice is two intents.
    assert_eq!(shop.paid(1), 2);
}

async fn a_call_in_progress_is_waited_for_without_using_an_attempt(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve_impatiently(store).await;
    let address = serving.local_addr();
    let call = |attempts_max| {
        let client = ClientOptions::attempts(attempts_max).client(address);
        tokio::spawn(async move {
            client
                .call_as(key("order-1"), &PAY, &payment(1, Wish::Hold))
                .await
        })
    };
    let owner = call(2);
    shop.until_runs(1).await;
    let waiter = call(2);
    // More often than it has attempts.
    shop.until_seen(1 + 5).await;
    shop.open_gate();
    let receipt = owner.await.unwrap().unwrap();
    assert_eq!(waiter.await.unwrap().unwrap(), receipt);
    assert_eq!((shop.paid(1), shop.runs()), (1, 1));
}

async fn a_mismatch_is_not_retried(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let client = client(serving.local_addr());
    let first = client
        .call_as(key("order-1"), &PAY, &payment(1, Wish::Pay))
        .await
        .unwrap();
    let failure = client
        .call_as(key("order-1"), &PAY, &payment(2, Wish::Pay))
        .await;
    let Err(CallFailure::Refused { status, ticket, .. }) = failure else {
        panic!("not refused: {failure:?}");
    };
    assert_eq!((status, ticket.key), (Status::Mismatch, key("order-1")));
    assert_eq!((shop.seen().len(), shop.runs()), (2, 1));
    // The owner's record is as it was.
    let again = client
        .call_as(key("order-1"), &PAY, &payment(1, Wish::Pay))
        .await
        .unwrap();
    assert_eq!(again, first);
}

async fn a_sealed_key_is_not_retried(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let client = client(serving.local_addr());
    assert_eq!(
        client.seal(key("order-1"), &PAY).await.unwrap(),
        Known::Sealed
    );
    let ticket = Ticket::never_sent(key("order-1"));
    let failure = client.resume(ticket, &PAY, &payment(1, Wish::Pay)).await;
    let Err(CallFailure::Refused { status, .. }) = failure else {
        panic!("not refused: {failure:?}");
    };
    assert_eq!(status, Status::Stale);
    assert_eq!((shop.seen().len(), shop.runs()), (2, 0));
}

async fn a_call_in_doubt_is_not_retried(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let client = client(serving.local_addr());
    for calls in 1..=2 {
        let ended = client
            .call_as(key("order-1"), &PAY, &payment(1, Wish::Panic))
            .await;
        let Err(CallFailure::InDoubt(failed)) = ended else {
            panic!("not in doubt: {ended:?}");
        };
        assert_eq!((failed.attempts, failed.stopped), (1, Stopped::Final));
        assert_eq!(
            (shop.seen().len(), shop.runs(), shop.paid(1)),
            (calls, 1, 1)
        );
    }
}

async fn a_total_loss_of_answers_is_an_unknown_outcome_that_its_ticket_resumes(
    store: Arc<dyn Store>,
) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let lost = Rule::answer_lost(handshake(&serving).await.0);
    let proxy = network(&serving, Plan::none().rule(lost)).await;
    let client = ClientOptions::quick(3).client(proxy.addr());
    let ended = client.call(&PAY, &payment(1, Wish::Pay)).await;
    let Err(CallFailure::OutcomeUnknown(failed)) = ended else {
        panic!("not unknown: {ended:?}");
    };
    assert_eq!((failed.attempts, failed.stopped), (3, Stopped::Attempts));
    assert_eq!(Some(&failed.ticket.key), shop.seen()[0].key.as_ref());
    assert_eq!(shop.paid(1), 1);

    proxy.set_plan(Plan::none());
    proxy.cut();
    let later = super::shop::client(proxy.addr());
    let receipt = later
        .resume(failed.ticket, &PAY, &payment(1, Wish::Pay))
        .await
        .unwrap();
    assert_eq!(shop.payments(), [(payment(1, Wish::Pay), receipt)]);
    assert_eq!(shop.runs(), 1);
}

async fn a_total_loss_of_requests_is_an_unknown_outcome_whose_ticket_executes_once(
    store: Arc<dyn Store>,
) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let lost = Rule::request_lost(handshake(&serving).await.1);
    let proxy = network(&serving, Plan::none().rule(lost)).await;
    let client = ClientOptions::quick(3).client(proxy.addr());
    let ended = client.call(&PAY, &payment(1, Wish::Pay)).await;
    let Err(CallFailure::OutcomeUnknown(failed)) = ended else {
        panic!("not unknown: {ended:?}");
    };
    assert_eq!((failed.attempts, failed.stopped), (3, Stopped::Attempts));
    assert_eq!((shop.seen().len(), shop.runs()), (0, 0));

    proxy.set_plan(Plan::none());
    proxy.cut();
    let later = super::shop::client(proxy.addr());
    for _ in 0..2 {
        let ticket = failed.ticket.clone();
        let receipt = later
            .resume(ticket, &PAY, &payment(1, Wish::Pay))
            .await
            .unwrap();
        assert_eq!(shop.payments(), [(payment(1, Wish::Pay), receipt)]);
    }
    assert_eq!(shop.runs(), 1);
}

async fn a_spent_budget_is_an_unknown_outcome_with_the_key(store: Arc<dyn Store>) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let proxy = network(&serving, Plan::none()).await;
    let nothing = RetryBudgetOptions {
        earned_by: EarnedBy::SuccessfulCalls,
        retries_per_1000_calls: 0,
        reserve_per_second: 0,
    };
    let options = ClientOptions {
        budget: RetryBudget::new(nothing),
        ..ClientOptions::default()
    };
    let client = options.client(proxy.addr());
    let call = tokio::spawn(async move {
        client
            .call_as(key("order-1"), &PAY, &payment(1, Wish::Hold))
            .await
    });
    shop.until_runs(1).await;
    proxy.cut();
    let ended = call.await.unwrap();
    let Err(CallFailure::OutcomeUnknown(failed)) = ended else {
        panic!("not unknown: {ended:?}");
    };
    assert_eq!((failed.attempts, failed.stopped), (1, Stopped::Budget));
    assert_eq!(failed.ticket.key, key("order-1"));
    shop.open_gate();
    assert_eq!(shop.runs(), 1);
}
