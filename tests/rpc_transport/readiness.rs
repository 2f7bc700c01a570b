//! A place for a call belongs to the instance that was made ready, and is never leaked.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use onlyonce::rpc::{Connecting, NotSent, Server, ServerOptions, Status, TransportError};
use onlyonce_middleware::client::Executed;
use tower::{Service, ServiceExt};

use super::peers::{Raw, channel_to, channel_with, listener, request, send, serve, server, soon};

#[tokio::test]
async fn a_clone_of_a_ready_channel_is_not_ready() {
    let (serving, _calls) = server().await;
    let mut channel = channel_to(serving.local_addr());
    channel.ready().await.unwrap();
    let error = channel.clone().call(request("m")).await.unwrap_err();
    assert!(
        matches!(error, TransportError::NotSent(NotSent::NotReady)),
        "{error}"
    );
    assert_eq!(error.executed(), Executed::NotThisAttempt);
}

#[tokio::test]
async fn a_second_call_needs_a_second_readiness() {
    let (serving, mut calls) = server().await;
    let mut channel = channel_to(serving.local_addr());
    let first = channel.ready().await.unwrap().call(request("m"));
    let error = channel.call(request("m")).await.unwrap_err();
    assert!(
        matches!(error, TransportError::NotSent(NotSent::NotReady)),
        "{error}"
    );
    calls.next().await.answer("");
    assert!(first.await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_the_bound_wait_in_readiness() {
    let mut options = ServerOptions::default();
    options.in_flight_max = 2;
    let builder = Server::builder().global_scope().options(options);
    let (serving, mut calls) = serve(builder, listener().await);
    for own_limit in [1_u32, 2, 100] {
        let channel = channel_with(serving.local_addr(), |o| o.in_flight_max = own_limit);
        let mut under_way = VecDeque::new();
        // The lower of both limits counts.
        for _ in 0..own_limit.min(2) {
            let response = send(&channel, request("m")).await;
            under_way.push_back((response, calls.next().await));
        }
        for _ in 0..200 {
            let mut next = channel.clone();
            assert!(next.ready().now_or_never().is_none(), "{own_limit}");
            let (response, held) = under_way.pop_front().unwrap();
            held.answer("");
            // The place that becomes free is one that the server gives at once.
            assert_eq!(soon(response).await.unwrap().status, Status::Executed);
            let response = soon(next.ready()).await.unwrap().call(request("m"));
            under_way.push_back((response, calls.next().await));
        }
    }
}

#[tokio::test]
async fn connecting_without_a_time_limit_can_be_said() {
    let (serving, mut calls) = server().await;
    let channel = channel_with(serving.local_addr(), |options| {
        options.connect_timeout = Duration::MAX;
    });
    let response = send(&channel, request("m")).await;
    calls.next().await.answer("");
    assert!(soon(response).await.is_ok());
}

#[tokio::test]
async fn an_instance_that_is_dropped_ready_gives_its_place_back() {
    let (serving, mut calls) = server().await;
    let channel = channel_with(serving.local_addr(), |options| options.in_flight_max = 1);
    for _ in 0..3 {
        let mut ready = channel.clone();
        ready.ready().await.unwrap();
        let mut waiting = channel.clone();
        assert!(waiting.ready().now_or_never().is_none());
    }
    let response = send(&channel, request("m")).await;
    calls.next().await.answer("");
    assert!(response.await.is_ok());
}

#[tokio::test]
async fn an_attempt_that_ends_while_connecting_leaks_nothing_and_its_connection_is_used() {
    let listener = listener().await;
    let channel = channel_with(listener.local_addr().unwrap(), |o| o.in_flight_max = 1);
    // The attempt is given up before the server has said anything.
    let mut attempt = channel.clone();
    let mut peer = {
        let mut ready = pin!(poll_fn(|cx| attempt.poll_ready(cx)));
        assert!(ready.as_mut().now_or_never().is_none());
        let mut peer = Raw(listener.accept().await.unwrap().0);
        peer.read_opening().await;
        assert!(ready.as_mut().now_or_never().is_none());
        peer
    };
    drop(attempt);
    peer.welcome().await;
    for id in [1, 2] {
        let response = send(&channel, request("m")).await;
        assert_eq!(peer.read_call().await, id);
        peer.write_reply(id).await;
        assert!(response.await.is_ok());
    }
    assert!(listener.accept().now_or_never().is_none());
}

#[tokio::test]
async fn a_channel_that_cannot_connect_is_ready_to_say_so_and_stays_usable() {
    let reserved = listener().await;
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let mut channel = channel_to(address);
    for _ in 0..2 {
        let ready = poll_fn(|cx| channel.poll_ready(cx)).await;
        assert!(ready.is_ok());
        let error = channel.call(request("m")).await.unwrap_err();
        assert!(
            matches!(
                &error,
                TransportError::Connect {
                    source: Connecting::Io(_),
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert_eq!(error.executed(), Executed::NotThisAttempt);
    }
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let (_serving, mut calls) = serve(Server::builder().global_scope(), listener);
    let response = channel.ready().await.unwrap().call(request("m"));
    calls.next().await.answer("");
    assert!(response.await.is_ok());
}

#[tokio::test]
async fn a_ready_channel_whose_connection_was_lost_becomes_ready_again() {
    let listener = listener().await;
    let mut channel = channel_to(listener.local_addr().unwrap());
    let (peer, _) = tokio::join!(Raw::accept(&listener), async {
        channel.ready().await.unwrap();
    });
    drop(peer);
    let (mut peer, ()) = tokio::join!(
        Raw::accept(&listener),
        // Until the loss is noticed, the old readiness stands.
        poll_fn(|cx| {
            let ready = channel.poll_ready(cx);
            match ready {
                Poll::Ready(_) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Pending => Poll::Ready(()),
            }
        })
    );
    let response = channel.ready().await.unwrap().call(request("m"));
    assert_eq!(peer.read_call().await, 1);
    peer.write_reply(1).await;
    assert!(response.await.is_ok());
}
