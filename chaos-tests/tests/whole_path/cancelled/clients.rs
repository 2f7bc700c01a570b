//! A client that gives up at any point, and goes on with its ticket.

use std::sync::Arc;

use onlyonce::middleware::client::Ticket;
use onlyonce::rpc::Known;
use onlyonce::storage::Store;
use onlyonce_chaos::cancel::{CancelAt, Ended};

use super::on_every_store_that_waits;
use super::server::name;
use super::services::CutServer;
use crate::shop::{PAY, Wish, client, payment};

on_every_store_that_waits![
    // A8, H7
    a_call_that_its_caller_drops_at_any_wait_is_resumed_and_pays_once,
    a_question_that_its_caller_drops_at_any_wait_is_asked_again,
];

async fn a_call_that_its_caller_drops_at_any_wait_is_resumed_and_pays_once(store: Arc<dyn Store>) {
    let server = CutServer::start(store).await;
    let cancelled = CancelAt::sweep(async |cancel| {
        // A new one, so that connecting and shaking hands are waits of the call too.
        let client = client(server.serving.local_addr());
        let operation = cancel.suspension();
        let (ticket, pay) = (Ticket::new(name(operation)), payment(operation, Wish::Pay));
        let ended = cancel.run(client.resume(ticket.clone(), &PAY, &pay)).await;
        let receipt = client.resume(ticket, &PAY, &pay).await.unwrap();
        assert_eq!(server.shop.paid(operation), 1, "{cancel:?}");
        assert!(
            server.shop.payments().contains(&(pay, receipt.clone())),
            "{cancel:?}"
        );
        server.until_idle().await;
        match ended {
            Ended::Completed(first) => {
                assert_eq!(first.unwrap(), receipt, "{cancel:?}");
                Ended::Completed(())
            }
            Ended::Cancelled => Ended::Cancelled,
        }
    })
    .await;
    assert!(cancelled >= 2, "{cancelled}");
}

async fn a_question_that_its_caller_drops_at_any_wait_is_asked_again(store: Arc<dyn Store>) {
    let server = CutServer::start(store).await;
    CancelAt::sweep(async |cancel| {
        let client = client(server.serving.local_addr());
        let key = name(cancel.suspension());
        let ended = cancel.run(client.seal(key.clone(), &PAY)).await;
        let known = client.peek(key.clone(), &PAY).await.unwrap();
        assert!(matches!(known, Known::Absent | Known::Sealed), "{known:?}");
        let known = client.seal(key, &PAY).await.unwrap();
        assert_eq!(known, Known::Sealed, "{cancel:?}");
        server.until_idle().await;
        ended
    })
    .await;
    assert_eq!(server.shop.runs(), 0);
}
