//! What a typed call comes to: answers, faults and refusals.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use onlyonce::middleware::client::Ticket;
use onlyonce::rpc::{
    CallFailure, Channel, ChannelOptions, Client, Known, Method, Request, Router, Server, Status,
    blocking,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use super::{COUNT, Declined, PAY, Payment, key, serve};

#[tokio::test]
async fn a_typed_fault_crosses_the_wire_and_is_replayed_like_any_answer() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    for _ in 0..3 {
        let failed = client
            .call_as(key("k"), &PAY, &Payment { cents: 1_250 })
            .await;
        let Err(CallFailure::Fault(fault)) = failed else {
            panic!("{failed:?}")
        };
        assert_eq!(fault, Declined::NoFunds { missing: 250 });
    }
    assert_eq!(paid.load(Ordering::SeqCst), 1, "the handler ran once");
}

// H1
#[tokio::test]
async fn every_logical_call_has_a_key_of_its_own_and_a_key_that_the_caller_keeps_is_one_call() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let payment = Payment { cents: 5 };
    assert_eq!(client.call(&PAY, &payment).await.unwrap(), 1);
    assert_eq!(client.call(&PAY, &payment).await.unwrap(), 2);
    assert_eq!(client.call_as(key("k"), &PAY, &payment).await.unwrap(), 3);
    assert_eq!(client.call_as(key("k"), &PAY, &payment).await.unwrap(), 3);
    assert_eq!(client.call(&COUNT, &()).await.unwrap(), 3);
}

// C1
#[tokio::test]
async fn a_key_reused_with_other_arguments_is_refused_by_name_and_not_retried() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    client
        .call_as(key("k"), &PAY, &Payment { cents: 5 })
        .await
        .unwrap();
    let refused = client.call_as(key("k"), &PAY, &Payment { cents: 6 }).await;
    assert!(
        matches!(
            refused,
            Err(CallFailure::Refused {
                status: Status::Mismatch,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_was_not_executed_frees_its_key_and_what_cannot_be_known_keeps_it() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let ticket = Ticket::never_sent(key("k"));
    let refused = client.resume(ticket, &PAY, &Payment { cents: 0 }).await;
    assert!(
        matches!(refused, Err(CallFailure::NotExecuted(_))),
        "{refused:?}"
    );
    assert_eq!(
        client
            .call_as(key("k"), &PAY, &Payment { cents: 5 })
            .await
            .unwrap(),
        1
    );

    for _ in 0..2 {
        let doubtful = client
            .call_as(key("d"), &PAY, &Payment { cents: 1_001 })
            .await;
        assert!(
            matches!(doubtful, Err(CallFailure::InDoubt(_))),
            "{doubtful:?}"
        );
    }
    assert!(matches!(
        client.peek(key("d"), &PAY).await.unwrap(),
        Known::InDoubt(_)
    ));
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_leaves_a_ticket_that_knows_of_the_execution() {
    const PAY_IN_WORDS: Method<Payment, String> = Method::new("pay");
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let failed = client.call(&PAY_IN_WORDS, &Payment { cents: 5 }).await;
    let Err(CallFailure::Unreadable { ticket, .. }) = failed else {
        panic!("{failed:?}");
    };
    assert!(ticket.maybe_executed && ticket.first_sent.is_some() && ticket.store.is_some());
    // A server with another store does not execute it a second time.
    let other = serve(&paid).await;
    let client = Client::new(other.local_addr().to_string());
    let resumed = client.resume(ticket, &PAY, &Payment { cents: 5 }).await;
    let unknown = matches!(resumed, Err(CallFailure::OutcomeUnknown(_)));
    assert!(unknown, "{resumed:?}");
    assert_eq!(paid.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn arguments_of_another_type_and_unknown_methods_are_refused_by_name_before_any_effect() {
    const OTHER: Method<String, u32, Declined> = Method::new("pay");
    const NOBODY: Method<(), ()> = Method::new("nobody");
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let refused = client.call_as(key("k"), &OTHER, &"x".repeat(300)).await;
    assert!(
        matches!(
            refused,
            Err(CallFailure::Refused {
                status: Status::ArgumentsMalformed,
                ..
            })
        ),
        "{refused:?}"
    );
    let refused = client.call(&NOBODY, &()).await;
    assert!(
        matches!(
            refused,
            Err(CallFailure::Refused {
                status: Status::UnknownMethod,
                ..
            })
        ),
        "{refused:?}"
    );
    // The key of what was not executed is free.
    assert_eq!(
        client
            .call_as(key("k"), &PAY, &Payment { cents: 5 })
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn a_caller_without_a_runtime_calls_resumes_peeks_and_seals() {
    let paid = Arc::default();
    let serving = serve(&paid).await;
    let address = serving.local_addr().to_string();
    let caller = std::thread::spawn(move || {
        let client = blocking::Client::new(address).unwrap();
        let payment = Payment { cents: 5 };
        assert_eq!(client.call(&PAY, &payment).unwrap(), 1);
        assert_eq!(client.call_as(key("k"), &PAY, &payment).unwrap(), 2);
        assert_eq!(client.resume(key("k").into(), &PAY, &payment).unwrap(), 2);
        assert_eq!(
            client.peek(key("k"), &PAY).unwrap(),
            Known::Completed(Ok(2))
        );
        assert_eq!(client.seal(key("s"), &PAY).unwrap(), Known::Sealed);
        let failed = client.call(&PAY, &Payment { cents: 2_000 });
        assert!(matches!(
            failed,
            Err(CallFailure::Fault(Declined::NoFunds { missing: 1_000 }))
        ));
    });
    tokio::task::spawn_blocking(move || caller.join().unwrap())
        .await
        .unwrap();
    assert_eq!(paid.load(Ordering::SeqCst), 3);
}

#[derive(Debug, Serialize, Deserialize)]
enum Filter {
    All,
    Not(Box<Filter>),
}

const COUNT_WHERE: Method<Filter, u32> = Method::new("count-where");

#[tokio::test]
async fn arguments_that_contain_themselves_without_end_are_refused_and_the_server_lives() {
    let routes = Router::new(())
        .read_only(&COUNT_WHERE, |_, (), filter: Filter| async move {
            Ok(u32::from(matches!(filter, Filter::All)))
        })
        .into_routes();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder().global_scope().build().unwrap();
    let serving = server.serve(listener, routes).unwrap();
    let address = serving.local_addr().to_string();
    let channel = Channel::new(address, ChannelOptions::default());
    for (arguments, status) in [
        (vec![1; 512 * 1024], Status::ArgumentsMalformed),
        (vec![1, 0], Status::Executed),
    ] {
        let request = Request::new(COUNT_WHERE.name(), arguments);
        let reply = channel.clone().oneshot(request).await.unwrap();
        assert_eq!(reply.status, status, "{reply:?}");
    }
}
