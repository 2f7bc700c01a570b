//! What a caller knows of a call that was sent before, and what it may say of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::middleware::client::Ticket;
use onlyonce::rpc::{CallFailure, Client, Incoming, Known, Reply, Server, Status};
use onlyonce::storage::{Inspect as _, ManualClock, MemoryOptions, MemoryStore, Store as _};
use tokio::net::TcpListener;

use super::{PAY, Payment, key, serve, serve_on};

#[tokio::test]
async fn peek_and_seal_tell_the_typed_answer_and_execute_nothing() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    assert_eq!(client.peek(key("k"), &PAY).await.unwrap(), Known::Absent);
    client
        .call_as(key("k"), &PAY, &Payment { cents: 5 })
        .await
        .unwrap();
    assert_eq!(
        client.peek(key("k"), &PAY).await.unwrap(),
        Known::Completed(Ok(1))
    );
    assert_eq!(
        client.seal(key("k"), &PAY).await.unwrap(),
        Known::Completed(Ok(1))
    );

    assert_eq!(client.seal(key("s"), &PAY).await.unwrap(), Known::Sealed);
    let ticket = Ticket::never_sent(key("s"));
    let refused = client.resume(ticket, &PAY, &Payment { cents: 5 }).await;
    assert!(
        matches!(
            refused,
            Err(CallFailure::Refused {
                status: Status::Stale,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

/// Whoever believes a seal pays again under another key.
#[tokio::test]
async fn a_forgotten_call_is_stale_for_its_ticket_never_absent_or_sealed() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_options(
        MemoryOptions::new().clock(clock.clone()),
    ));
    let paid = Arc::default();
    let serving = serve_on(Arc::clone(&store), &paid).await;
    let client = Client::new(serving.local_addr().to_string());
    clock.advance(Duration::from_secs(60));
    let ticket = Ticket::new(key("order-1")).first_sent(store.now());
    let payment = Payment { cents: 5 };
    client.resume(ticket.clone(), &PAY, &payment).await.unwrap();
    clock.advance(DAY * 9);
    store.sweep().await.unwrap();

    assert_eq!(
        client.peek(ticket.clone(), &PAY).await.unwrap(),
        Known::Stale
    );
    assert_eq!(
        client.seal(ticket.clone(), &PAY).await.unwrap(),
        Known::Stale
    );
    let resumed = client.resume(ticket, &PAY, &payment).await;
    assert!(resumed.is_err(), "{resumed:?}");
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

/// Whoever wrote the key down, or derives it, does not know that it was never sent.
#[tokio::test]
async fn a_key_of_the_caller_s_own_is_unknown_where_the_server_cannot_be_reached() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let address = serving.local_addr().to_string();
    let payment = Payment { cents: 5 };
    Client::new(address.clone())
        .call_as(key("order-1"), &PAY, &payment)
        .await
        .unwrap();
    serving.shutdown(Duration::from_secs(5)).await;
    let client = Client::new(address);
    let failed = client.call_as(key("order-1"), &PAY, &payment).await;
    let Err(CallFailure::OutcomeUnknown(failed)) = failed else {
        panic!("{failed:?}");
    };
    assert!(failed.ticket.maybe_executed);
    // A key that was made for this call was never sent.
    let failed = client.call(&PAY, &payment).await;
    let Err(CallFailure::NotExecuted(failed)) = failed else {
        panic!("{failed:?}");
    };
    assert!(!failed.ticket.maybe_executed);
}

#[tokio::test]
async fn a_question_that_is_not_answered_says_nothing_of_the_call() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let address = serving.local_addr().to_string();
    let client = Client::new(address.clone());
    let payment = Payment { cents: 5 };
    client
        .call_as(key("order-1"), &PAY, &payment)
        .await
        .unwrap();
    serving.shutdown(Duration::from_secs(5)).await;
    let client = Client::new(address);
    for unanswered in [
        client.peek(key("order-1"), &PAY).await.unwrap_err(),
        client.seal(key("order-1"), &PAY).await.unwrap_err(),
    ] {
        assert_eq!(unanswered.status, None, "{unanswered}");
        assert_eq!(unanswered.ticket, Ticket::new(key("order-1")));
        assert!(!unanswered.to_string().contains("executed"), "{unanswered}");
    }
}

/// The record may be of this very call, encoded otherwise.
#[tokio::test]
async fn a_mismatch_under_a_key_that_was_sent_before_does_not_say_not_executed() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let other = Payment { cents: 6 };
    client
        .call_as(key("order-1"), &PAY, &Payment { cents: 5 })
        .await
        .unwrap();
    for (ticket, maybe_executed) in [
        (Ticket::new(key("order-1")), true),
        (Ticket::never_sent(key("order-1")), false),
    ] {
        let failed = client.resume(ticket, &PAY, &other).await.unwrap_err();
        let CallFailure::Refused { status, ticket, .. } = &failed else {
            panic!("{failed:?}");
        };
        assert_eq!(*status, Status::Mismatch);
        assert_eq!(ticket.maybe_executed, maybe_executed);
        let text = failed.to_string();
        assert_eq!(
            text.contains("may have been executed"),
            maybe_executed,
            "{text}"
        );
    }
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_call_whose_answer_is_no_longer_kept_is_not_said_not_executed() {
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_options(
        MemoryOptions::new().clock(clock.clone()),
    ));
    let paid = Arc::default();
    let serving = serve_on(store, &paid).await;
    clock.advance(Duration::from_secs(60));
    let payment = Payment { cents: 5 };
    let call = async || {
        let client = Client::new(serving.local_addr().to_string());
        client.call_as(key("order-1"), &PAY, &payment).await
    };
    call().await.unwrap();
    clock.advance(Duration::from_secs(25 * 60 * 60));
    let stale = call().await;
    let unknown = matches!(stale, Err(CallFailure::OutcomeUnknown(_)));
    assert!(unknown, "{stale:?}");
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_call_that_may_have_been_sent_before_is_not_sent_to_a_server_that_does_not_dedupe() {
    let paid: Arc<AtomicU32> = Arc::default();
    let counted = Arc::clone(&paid);
    let service = tower::service_fn(move |_: Incoming| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Infallible>(Reply::new(Status::Executed, vec![0, 7])) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder().global_scope().build().unwrap();
    let serving = server.serve(listener, service).unwrap();
    let client = Client::new(serving.local_addr().to_string());
    let payment = Payment { cents: 5 };
    let failed = client.call_as(key("order-1"), &PAY, &payment).await;
    let Err(CallFailure::OutcomeUnknown(failed)) = failed else {
        panic!("{failed:?}");
    };
    assert!(failed.last.contains("does not dedupe"), "{failed}");
    assert_eq!(paid.load(Ordering::SeqCst), 0);
    assert_eq!(client.call(&PAY, &payment).await.unwrap(), 7);
}
