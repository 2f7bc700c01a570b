//! Time is the server's, and a call stays with the store that it first met.

use onlyonce::rpc::{Reply, Request, Server, Serving, Stamp, Status, Verb};
use onlyonce_storage::{StoreId, Timestamp};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tower::ServiceExt;

use super::peers::{Calls, attempt, channel_to, listener, new_call, send, serve, server, soon};

async fn server_with(store: StoreId, now: u64) -> (Serving, Calls) {
    let builder = Server::builder()
        .global_scope()
        .store(store, move || Timestamp::from_millis(now));
    serve(builder, listener().await)
}

#[tokio::test]
async fn a_call_is_first_sent_on_the_server_s_clock_and_bound_to_its_store() {
    let store = StoreId::random();
    // An hour from any client's clock, and 56 years.
    let (serving, mut calls) = server_with(store, 3_600_000).await;
    let channel = channel_to(serving.local_addr());
    let call = new_call();
    let _response = send(&channel, attempt("m", &call, 1)).await;
    let incoming = calls.next().await.incoming;
    assert_eq!(incoming.store, Some(store));
    let first_sent = incoming.first_sent.unwrap().as_millis();
    assert!((3_600_000..3_660_000).contains(&first_sent), "{first_sent}");
    let ticket = call.ticket();
    assert_eq!(ticket.store, Some(store));
    assert_eq!(ticket.first_sent, incoming.first_sent);
}

#[tokio::test]
async fn a_second_attempt_carries_what_the_first_one_noted_and_another_store_refuses_it() {
    let (first_store, second_store) = (StoreId::random(), StoreId::random());
    let (first, mut first_calls) = server_with(first_store, 1_000_000).await;
    let (second, mut second_calls) = server_with(second_store, 9_000_000).await;
    let call = new_call();
    let _lost = send(&channel_to(first.local_addr()), attempt("m", &call, 1)).await;
    let noted = first_calls.next().await.incoming.first_sent;

    let other = channel_to(second.local_addr());
    let reply = soon(other.clone().oneshot(attempt("m", &call, 2)))
        .await
        .unwrap();
    assert_eq!(reply.status, Status::Misdirected);

    // The same server takes it, with the first attempt's time.
    let again = channel_to(first.local_addr());
    let _response = send(&again, attempt("m", &call, 3)).await;
    let incoming = first_calls.next().await.incoming;
    assert_eq!(
        (incoming.store, incoming.first_sent),
        (Some(first_store), noted)
    );

    // The refused attempt never reached the other server's service.
    let _response = send(&other, attempt("m", &new_call(), 1)).await;
    assert_eq!(second_calls.next().await.incoming.attempt.get(), 1);
}

#[tokio::test]
async fn a_server_without_a_store_refuses_a_call_that_met_one() {
    let (with_store, _calls) = server_with(StoreId::random(), 1_000_000).await;
    let (without, mut calls) = server().await;
    let call = new_call();
    let _lost = send(&channel_to(with_store.local_addr()), attempt("m", &call, 1)).await;
    let channel = channel_to(without.local_addr());
    let reply = soon(channel.clone().oneshot(attempt("m", &call, 2))).await;
    assert_eq!(reply.unwrap().status, Status::Misdirected);

    let unbound = new_call();
    let _response = send(&channel, attempt("m", &unbound, 1)).await;
    assert_eq!(calls.next().await.incoming.store, None);
    assert_eq!(unbound.store(), None);
}

#[tokio::test]
async fn a_question_notes_nothing_and_carries_what_is_noted() {
    let store = StoreId::random();
    let (serving, mut calls) = server_with(store, 1_000_000).await;
    let channel = channel_to(serving.local_addr());
    let call = new_call();
    let peek = || {
        let stamp = Stamp::new(call.clone(), NonZeroU32::MIN);
        Request::new("m", "").verb(Verb::Peek).stamp(stamp)
    };
    let _response = send(&channel, peek()).await;
    let incoming = calls.next().await.incoming;
    assert_eq!((incoming.store, incoming.first_sent), (None, None));
    assert_eq!(call.ticket().first_sent, None);

    let _response = send(&channel, attempt("m", &call, 1)).await;
    let noted = calls.next().await.incoming.first_sent;
    let _response = send(&channel, peek()).await;
    let incoming = calls.next().await.incoming;
    assert_eq!((incoming.store, incoming.first_sent), (Some(store), noted));
}

#[tokio::test]
async fn a_call_that_never_got_into_a_connection_is_bound_to_nothing() {
    let (serving, _calls) = server_with(StoreId::random(), 1_000_000).await;
    let channel = channel_to(serving.local_addr());
    let call = new_call();
    let stamp = Stamp::new(call.clone(), NonZeroU32::MIN);
    let too_large = Request::new("m", vec![0; 2 << 20]).stamp(stamp);
    assert!(channel.oneshot(too_large).await.is_err());
    assert_eq!((call.ticket().first_sent, call.store()), (None, None));
}

#[tokio::test]
async fn a_server_whose_clock_was_set_back_is_asked_for_its_time_again() {
    let now = Arc::new(AtomicU64::new(9_000_000));
    let told = Arc::clone(&now);
    let builder = Server::builder()
        .global_scope()
        .store(StoreId::random(), move || {
            Timestamp::from_millis(told.load(Ordering::SeqCst))
        });
    let (serving, mut calls) = serve(builder, listener().await);
    let channel = channel_to(serving.local_addr());
    let response = send(&channel, attempt("m", &new_call(), 1)).await;
    now.store(1_000_000, Ordering::SeqCst);
    let refusal = Reply::refusal(Status::FirstSentAhead, "");
    calls.next().await.reply.send(refusal).unwrap();
    assert_eq!(soon(response).await.unwrap().status, Status::FirstSentAhead);

    let _response = send(&channel, attempt("m", &new_call(), 1)).await;
    let first_sent = calls.next().await.incoming.first_sent.unwrap().as_millis();
    assert!((1_000_000..1_060_000).contains(&first_sent), "{first_sent}");
}
