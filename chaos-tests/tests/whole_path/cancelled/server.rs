//! What a server does with a call whose caller goes away.

use std::sync::Arc;

use onlyonce::middleware::client::Ticket;
use onlyonce::rpc::{CallFailure, Client, Known};
use onlyonce::storage::{IdempotencyKey, KeyState, Scope, ScopedKey, Store};
use onlyonce_chaos::cancel::CancelAt;

use super::services::CutServer;
use super::{on_every_store_that_waits, settled};
use crate::shop::{Declined, PAY, Receipt, Wish, client, key, payment};

on_every_store_that_waits![
    // B16, B17
    a_call_that_is_dropped_at_any_wait_pays_once_and_its_retry_gets_the_answer,
    // B16, B17
    a_fault_is_replayed_wherever_its_first_call_was_dropped,
    // B15, B16
    a_panic_is_one_doubt_wherever_its_call_was_dropped,
    // A8
    a_duplicate_that_is_dropped_at_any_wait_leaves_the_owner_its_answer_and_no_waiter,
    // A8
    a_question_that_is_dropped_at_any_wait_leaves_the_key_as_questions_do,
];

async fn a_call_that_is_dropped_at_any_wait_pays_once_and_its_retry_gets_the_answer(
    store: Arc<dyn Store>,
) {
    let server = CutServer::start(store).await;
    let client = client(server.serving.local_addr());
    let cancelled = CancelAt::sweep(async |cancel| {
        let operation = cancel.suspension();
        server.cut_next(cancel);
        let receipt = pay(&client, operation, Wish::Pay).await.unwrap();
        // The one who came back may be answered before the one who went is forgotten.
        server.until_idle().await;
        let again = pay(&client, operation, Wish::Pay).await.unwrap();
        let pay = (payment(operation, Wish::Pay), receipt.clone());
        assert!(server.shop.payments().contains(&pay), "{cancel:?}");
        assert_eq!(server.shop.paid(operation), 1, "{cancel:?}");
        assert_eq!(again, receipt, "{cancel:?}");
        server.until_idle().await;
        server.ended()
    })
    .await;
    // Before its first poll, and while it waits for its execution.
    assert!(cancelled >= 2, "{cancelled}");
}

async fn a_fault_is_replayed_wherever_its_first_call_was_dropped(store: Arc<dyn Store>) {
    let server = CutServer::start(store).await;
    let client = client(server.serving.local_addr());
    CancelAt::sweep(async |cancel| {
        let runs = server.shop.runs();
        server.cut_next(cancel);
        for _ in 0..2 {
            let ended = pay(&client, cancel.suspension(), Wish::Decline).await;
            let Err(CallFailure::Fault(Declined { run })) = ended else {
                panic!("{cancel:?}: {ended:?}");
            };
            assert_eq!(run, runs + 1, "{cancel:?}");
        }
        assert_eq!(server.shop.runs(), runs + 1, "{cancel:?}");
        server.until_idle().await;
        server.ended()
    })
    .await;
}

async fn a_panic_is_one_doubt_wherever_its_call_was_dropped(store: Arc<dyn Store>) {
    let server = CutServer::start(store).await;
    let client = client(server.serving.local_addr());
    CancelAt::sweep(async |cancel| {
        let operation = cancel.suspension();
        server.cut_next(cancel);
        for _ in 0..2 {
            let ended = pay(&client, operation, Wish::Panic).await;
            assert!(
                matches!(ended, Err(CallFailure::InDoubt(_))),
                "{cancel:?}: {ended:?}"
            );
        }
        assert_eq!(server.shop.paid(operation), 1, "{cancel:?}");
        server.until_idle().await;
        server.ended()
    })
    .await;
}

async fn a_duplicate_that_is_dropped_at_any_wait_leaves_the_owner_its_answer_and_no_waiter(
    store: Arc<dyn Store>,
) {
    let cancelled = CancelAt::sweep(async |cancel| {
        // The gate of a shop opens once.
        let server = CutServer::start(Arc::clone(&store)).await;
        let operation = cancel.suspension();
        let call = || {
            let client = client(server.serving.local_addr());
            tokio::spawn(async move { pay(&client, operation, Wish::Hold).await.unwrap() })
        };
        let owner = call();
        server.shop.until_runs(1).await;
        server.cut_next(cancel);
        let duplicate = call();
        // One that was dropped comes back as one that is not.
        while server.dedupe.load() != (1, 1) {
            tokio::task::yield_now().await;
        }
        server.shop.open_gate();
        let receipt = owner.await.unwrap();
        assert_eq!(duplicate.await.unwrap(), receipt, "{cancel:?}");
        assert_eq!((server.shop.paid(operation), server.shop.runs()), (1, 1));
        server.until_idle().await;
        server.ended()
    })
    .await;
    assert!(cancelled >= 2, "{cancelled}");
}

async fn a_question_that_is_dropped_at_any_wait_leaves_the_key_as_questions_do(
    store: Arc<dyn Store>,
) {
    let server = CutServer::start(Arc::clone(&store)).await;
    let client = client(server.serving.local_addr());
    // Questions are asked again where it is known whom.
    let ticket = |name: &IdempotencyKey| Ticket::new(name.clone()).store(store.id());
    CancelAt::sweep(async |cancel| {
        let name = name(cancel.suspension());
        server.cut_next(cancel);
        let known = client.peek(ticket(&name), &PAY).await.unwrap();
        assert_eq!(known, Known::Absent, "{cancel:?}");
        server.until_idle().await;
        server.ended()
    })
    .await;
    CancelAt::sweep(async |cancel| {
        let name = name(1_000 + cancel.suspension());
        server.cut_next(cancel);
        let known = client.seal(ticket(&name), &PAY).await.unwrap();
        assert_eq!(known, Known::Sealed, "{cancel:?}");
        let scope = Scope::global().operation(PAY.name()).unwrap();
        let state = settled(&*store, &ScopedKey::new(scope, name)).await;
        assert!(
            matches!(state, KeyState::Sealed { .. }),
            "{cancel:?}: {state:?}"
        );
        server.until_idle().await;
        server.ended()
    })
    .await;
    assert_eq!(server.shop.runs(), 0);
}

pub async fn pay(
    client: &Client,
    operation: u64,
    wish: Wish,
) -> Result<Receipt, CallFailure<Declined>> {
    client
        .call_as(name(operation), &PAY, &payment(operation, wish))
        .await
}

pub fn name(operation: u64) -> IdempotencyKey {
    key(&format!("order-{operation}"))
}
