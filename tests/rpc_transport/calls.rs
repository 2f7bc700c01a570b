//! What a connection carries.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use onlyonce::rpc::{
    Incoming, NotSent, Reply, Request, Server, ServerOptions, Stamp, Status, TransportError, Verb,
};
use onlyonce_middleware::client::Executed;
use onlyonce_storage::SessionCall;
use tokio::time::Instant;
use tower::{ServiceExt, service_fn};

use super::peers::{
    Raw, channel_to, channel_with, listener, new_call, request, send, serve, server, soon,
};

#[tokio::test]
async fn replies_find_their_callers_in_any_order() {
    let (serving, mut calls) = server().await;
    let channel = channel_to(serving.local_addr());
    let (first, second) = (
        send(&channel, request("first")).await,
        send(&channel, request("second")).await,
    );
    let (held_first, held_second) = (calls.next().await, calls.next().await);
    assert_eq!(&*held_first.incoming.method, "first");
    held_second.answer("two");
    assert_eq!(soon(second).await.unwrap().body, "two");
    held_first.answer("one");
    assert_eq!(soon(first).await.unwrap().body, "one");
}

#[tokio::test]
async fn all_clones_share_one_connection() {
    let listener = listener().await;
    let channel = channel_to(listener.local_addr().unwrap());
    let clones = (channel.clone(), channel.clone());
    let ready =
        async { tokio::join!(send(&clones.0, request("a")), send(&clones.1, request("b"))) };
    let (mut peer, (a, b)) = tokio::join!(Raw::accept(&listener), ready);
    assert_eq!((peer.read_call().await, peer.read_call().await), (1, 2));
    peer.write_reply(1).await;
    peer.write_reply(2).await;
    assert!(a.await.is_ok() && b.await.is_ok());
}

#[tokio::test]
async fn an_attempt_arrives_with_all_that_it_carries() {
    let (serving, mut calls) = server().await;
    let channel = channel_to(serving.local_addr());
    let call = new_call();
    let session = SessionCall {
        session: 1,
        sequence: 2,
        first_unanswered: 3,
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let stamp = Stamp::new(call.clone(), NonZeroU32::new(4).unwrap())
        .deadline(Some(deadline))
        .session(Some(session));
    let request = Request::new("transfer", Bytes::from(vec![7; 300_000]))
        .verb(Verb::Seal)
        .stamp(stamp);
    let _response = send(&channel, request).await;

    let incoming = calls.next().await.incoming;
    assert_eq!(incoming.verb, Verb::Seal);
    assert_eq!(&*incoming.method, "transfer");
    assert_eq!(incoming.key, Some(Ok(call.key().clone())));
    assert_eq!(incoming.attempt.get(), 4);
    assert_eq!(incoming.session, Some(session));
    assert_eq!(incoming.arguments, vec![7; 300_000]);
    assert_eq!(incoming.store, None);
    let left = incoming.deadline.unwrap();
    assert!(left > deadline - Duration::from_secs(30) && left < deadline + Duration::from_secs(30));
}

#[tokio::test]
async fn a_request_without_a_stamp_goes_without_a_key() {
    let (serving, mut calls) = server().await;
    let channel = channel_to(serving.local_addr());
    let _response = send(&channel, Request::new("naive", "")).await;
    let incoming = calls.next().await.incoming;
    assert_eq!(incoming.key, None);
    assert_eq!(incoming.first_sent, None);
}

#[tokio::test]
async fn a_reply_arrives_with_status_advice_and_body() {
    let (serving, mut calls) = server().await;
    let channel = channel_to(serving.local_addr());
    for status in Status::ALL {
        let response = send(&channel, request("m")).await;
        let reply = Reply::new(*status, "body").retry_after(Some(Duration::from_millis(70)));
        calls.next().await.reply.send(reply.clone()).unwrap();
        assert_eq!(soon(response).await.unwrap(), reply);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_refuses_calls_beyond_its_bound_and_goes_on() {
    let mut options = ServerOptions::default();
    options.in_flight_max = 1;
    let builder = Server::builder().global_scope().options(options);
    let (serving, mut calls) = serve(builder, listener().await);
    // A client that does not keep to what the handshake said.
    let mut client = Raw::client(serving.local_addr()).await;
    client.write_call(1).await;
    let held = calls.next().await;
    client.write_call(2).await;
    let refused = client.read_frame().await;
    assert_eq!(refused[..3], [3, 2, Status::Unavailable.number()]);
    held.answer("");
    assert_eq!(
        client.read_frame().await[..3],
        [3, 1, Status::Executed.number()]
    );
    // The place is free as soon as the client has the reply.
    for id in 3..=250 {
        client.write_call(id).await;
        calls.next().await.answer("");
        let reply = client.read_frame().await;
        assert_eq!(reply[..3], [3, id, Status::Executed.number()]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_keeps_to_the_bound_is_never_refused_for_it() {
    for in_flight_max in [1, 2, 8, 32] {
        let mut options = ServerOptions::default();
        options.in_flight_max = in_flight_max;
        let service =
            service_fn(async |_: Incoming| Ok::<_, Infallible>(Reply::new(Status::Executed, "")));
        let server = Server::builder().global_scope().options(options);
        let serving = server.build().unwrap();
        let serving = serving.serve(listener().await, service).unwrap();
        let channel = channel_to(serving.local_addr());
        // Twice as many callers as places, so that all places are taken all the time.
        let callers: Vec<_> = (0..in_flight_max * 2)
            .map(|_| {
                let channel = channel.clone();
                tokio::spawn(async move {
                    for _ in 0..200 {
                        let reply = channel.clone().oneshot(request("m")).await.unwrap();
                        assert_eq!(reply.status, Status::Executed, "{reply:?}");
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_server_refuses_arguments_beyond_what_all_connections_may_hold() {
    let mut options = ServerOptions::default();
    options.arguments_bytes_max = 10;
    options.in_flight_bytes_max = 15;
    let builder = Server::builder().global_scope().options(options);
    let (serving, mut calls) = serve(builder, listener().await);
    let (one, other) = (
        channel_to(serving.local_addr()),
        channel_to(serving.local_addr()),
    );
    let first = send(&one, Request::new("m", vec![0; 10])).await;
    let held = calls.next().await;
    let refused = other.clone().oneshot(Request::new("m", vec![0; 6])).await;
    assert_eq!(refused.unwrap().status, Status::Unavailable);
    let small = send(&other, Request::new("m", vec![0; 5])).await;
    calls.next().await.answer("");
    assert_eq!(soon(small).await.unwrap().status, Status::Executed);
    held.answer("");
    assert_eq!(soon(first).await.unwrap().status, Status::Executed);
    let again = send(&other, Request::new("m", vec![0; 10])).await;
    calls.next().await.answer("");
    assert_eq!(soon(again).await.unwrap().status, Status::Executed);
}

#[tokio::test]
async fn arguments_over_the_limits_are_not_sent_or_not_executed() {
    let mut options = ServerOptions::default();
    options.arguments_bytes_max = 10;
    let builder = Server::builder().global_scope().options(options);
    let (serving, _calls) = serve(builder, listener().await);

    let channel = channel_with(serving.local_addr(), |options| {
        options.arguments_bytes_max = 20;
    });
    let error = channel
        .clone()
        .oneshot(Request::new("m", vec![0; 21]))
        .await
        .unwrap_err();
    let (size, limit) = (21, 20);
    assert!(
        matches!(&error, TransportError::NotSent(e) if *e == NotSent::TooLarge { size, limit }),
        "{error}"
    );
    assert_eq!(error.executed(), Executed::NotThisAttempt);

    let reply = channel.oneshot(Request::new("m", vec![0; 11])).await;
    assert_eq!(reply.unwrap().status, Status::TooLarge);
}

#[tokio::test]
async fn arguments_that_no_frame_of_the_server_takes_are_not_sent() {
    let mut options = ServerOptions::default();
    options.frame_bytes_max = 4096;
    let builder = Server::builder().global_scope().options(options);
    let (serving, _calls) = serve(builder, listener().await);
    let channel = channel_to(serving.local_addr());
    let request = Request::new("m", vec![0; 5000]);
    let error = channel.oneshot(request).await.unwrap_err();
    assert!(
        matches!(error, TransportError::NotSent(NotSent::TooLarge { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn an_answer_over_the_limits_is_said_to_be_too_large() {
    let mut options = ServerOptions::default();
    options.answer_bytes_max = 10_000;
    let builder = Server::builder().global_scope().options(options);
    let (serving, mut calls) = serve(builder, listener().await);
    let generous = channel_to(serving.local_addr());
    let narrow = channel_with(serving.local_addr(), |options| {
        options.frame_bytes_max = 4096;
    });
    for (channel, size, status) in [
        (&generous, 10_000, Status::Executed),
        (&generous, 10_001, Status::AnswerTooLarge),
        (&narrow, 4_000, Status::Executed),
        (&narrow, 4_100, Status::AnswerTooLarge),
    ] {
        let response = send(channel, request("m")).await;
        let reply = Reply::new(Status::Executed, vec![0; size]);
        calls.next().await.reply.send(reply).unwrap();
        assert_eq!(soon(response).await.unwrap().status, status, "{size}");
    }
}

#[tokio::test]
async fn a_service_that_panics_leaves_the_call_in_doubt_and_the_connection_alive() {
    let service = service_fn(async |call: Incoming| {
        assert_ne!(&*call.method, "panic", "as the test wants it");
        Ok::<_, Infallible>(Reply::new(Status::Executed, "fine"))
    });
    let server = Server::builder().global_scope().build().unwrap();
    let serving = server.serve(listener().await, service).unwrap();
    let channel = channel_to(serving.local_addr());
    let reply = channel.clone().oneshot(request("panic")).await.unwrap();
    assert_eq!(reply.status, Status::InDoubt);
    let reply = channel.oneshot(request("other")).await.unwrap();
    assert_eq!(reply.body, "fine");
}

#[tokio::test]
async fn method_names_have_1_to_255_bytes() {
    let (serving, mut calls) = server().await;
    let channel = channel_to(serving.local_addr());
    for length in [0, 256] {
        let request = Request::new("m".repeat(length), "");
        let error = channel.clone().oneshot(request).await.unwrap_err();
        assert!(
            matches!(&error, TransportError::NotSent(NotSent::MethodLength { length: l }) if *l == length),
            "{error}"
        );
    }
    let _response = send(&channel, request(&"m".repeat(255))).await;
    assert_eq!(calls.next().await.incoming.method.len(), 255);
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_not_sent() {
    let (serving, _calls) = server().await;
    let channel = channel_to(serving.local_addr());
    let stamp = Stamp::new(new_call(), NonZeroU32::MIN).deadline(Some(Instant::now()));
    let request = Request::new("m", "").stamp(stamp);
    let error = channel.oneshot(request).await.unwrap_err();
    assert!(
        matches!(error, TransportError::NotSent(NotSent::DeadlinePassed)),
        "{error}"
    );
}
