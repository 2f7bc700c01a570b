//! What a client of tonic's gets from the stack, and what it sends.

use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::FutureExt;
use h2::Reason;
use onlyonce_middleware::client::{Outcome, Stopped, Ticket};
use onlyonce_storage::{IdempotencyKey, StoreId};
use tonic::{Code, Request, Response};

use crate::bank::{REFUND, Receipt};
use crate::kit::{self, Ledger, counting, layer, paying, serve, serve_plain, transfer};
use crate::peer::{Act, Loss, Peer, ended, executed, said};
use crate::safe::{bank, both, call_error, endpoint, over_channel, over_hyper};

fn pay() -> Request<crate::bank::Transfer> {
    Request::new(transfer(10))
}

/// A handler that has an effect, whose answer is then lost where `loses` says so.
fn losing(
    ledger: &Ledger,
    loss: &Loss,
    loses: impl Fn(u32) -> bool + Clone + Send + Sync + 'static,
) -> impl Fn(
    Request<crate::bank::Transfer>,
) -> std::future::Ready<Result<Response<Receipt>, tonic::Status>>
+ Clone
+ Send
+ Sync
+ 'static {
    let (ledger, loss) = (ledger.clone(), loss.clone());
    move |_| {
        let number = ledger.apply();
        if loses(number) {
            loss.happen();
        }
        let text = String::new();
        std::future::ready(Ok(Response::new(Receipt { number, text })))
    }
}

// P21, P23
#[tokio::test]
async fn a_call_whose_answer_was_lost_is_retried_and_gets_that_answer() {
    for over in 0..2 {
        let (ledger, loss) = (Ledger::default(), Loss::default());
        let handler = losing(&ledger, &loss, |number| number == 2);
        let server = loss.before(serve(layer(), handler).await).await;
        let [first, second] = both(server);
        let (name, stack) = if over == 0 { first } else { second };
        let mut bank = bank(stack, server);
        let known = bank.transfer(pay()).await.unwrap();
        assert_eq!(known.get_ref().number, 1, "{name}");
        let retried = bank.transfer(pay()).await.unwrap();
        assert_eq!(retried.get_ref().number, 2, "{name}");
        assert_eq!(kit::said(retried.metadata()), "replayed", "{name}");
        assert_eq!(ledger.effects(), 2, "{name}");
    }
}

#[tokio::test]
async fn the_first_call_to_a_method_is_not_repeated_once_it_may_have_been_executed() {
    let (ledger, loss) = (Ledger::default(), Loss::default());
    let handler = losing(&ledger, &loss, |number| number == 1);
    let server = loss.before(serve(layer(), handler).await).await;
    let mut bank = bank(over_hyper(), server);
    let lost = bank.transfer(pay()).await.unwrap_err();
    let error = call_error(&lost);
    assert_eq!(error.outcome, Outcome::Unknown);
    assert_eq!(error.stopped, Stopped::PeerNotKnownToDedupe);
    assert_eq!((error.attempts, ledger.effects()), (1, 1));
    // Resumed once the peer is known, it gets the answer of its first attempt.
    let ticket = error.ticket.clone();
    bank.transfer(pay()).await.unwrap();
    let mut resumed = pay();
    resumed.extensions_mut().insert(ticket);
    let resumed = bank.transfer(resumed).await.unwrap();
    assert_eq!(resumed.get_ref().number, 1);
    assert_eq!(ledger.effects(), 2);
}

#[tokio::test]
async fn a_peer_that_is_asked_is_known_before_its_first_call() {
    let (ledger, loss) = (Ledger::default(), Loss::default());
    let handler = losing(&ledger, &loss, |number| number == 1);
    let server = loss.before(serve(layer(), handler).await).await;
    for (name, stack) in both(server) {
        let ledger = Ledger::default();
        let plain = serve_plain(counting(&ledger)).await;
        let mut elsewhere = bank(stack.asking_peers(), plain);
        // One that knows nothing of the question executes nothing for it.
        if name == "hyper" {
            elsewhere.transfer(pay()).await.unwrap();
            assert_eq!(ledger.effects(), 1);
        }
    }
    let channel = endpoint(server).connect_lazy();
    let mut bank = bank(over_channel(channel).asking_peers(), server);
    let retried = bank.transfer(pay()).await.unwrap();
    assert_eq!(retried.get_ref().number, 1);
    assert_eq!(ledger.effects(), 1);
}

/// What a fault proves of the request that met it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Class {
    Answered,
    NotSent,
    SentUnknown,
}

// P25, H11
#[tokio::test]
async fn each_fault_proves_what_it_proves_and_no_more() {
    let class = |error: &tonic::Status, attempts: u32| {
        let error = call_error(error);
        match (error.outcome, error.attempts == attempts) {
            (Outcome::NotExecuted, true) => Class::NotSent,
            (Outcome::Unknown, false) => Class::SentUnknown,
            other => panic!("{other:?}: {error}"),
        }
    };
    let twice = NonZeroU32::new(2).unwrap();
    for (act, expected) in [
        (Act::GoAway, Class::NotSent),
        (Act::Reset(Reason::REFUSED_STREAM), Class::NotSent),
        (Act::Reset(Reason::CANCEL), Class::SentUnknown),
        (Act::Reset(Reason::INTERNAL_ERROR), Class::SentUnknown),
        (Act::Reset(Reason::NO_ERROR), Class::SentUnknown),
        (Act::Close, Class::SentUnknown),
        (Act::Silent, Class::SentUnknown),
        (Act::Only(ended(1, None)), Class::SentUnknown),
        (Act::Answer(vec![], ended(14, None)), Class::SentUnknown),
        (Act::Only(ended(5, None)), Class::Answered),
        (Act::Only(ended(3, None)), Class::Answered),
    ] {
        for over in 0..2 {
            let peer = Peer::start([act.clone(), act.clone()]).await;
            let [first, second] = both(peer.address);
            let (name, stack) = if over == 0 { first } else { second };
            let stack = stack.with_http(|http| {
                http.with_attempts_max(twice)
                    .with_attempt_timeout(Duration::from_millis(500))
            });
            let failed = bank(stack, peer.address).transfer(pay()).await;
            let failed = failed.unwrap_err();
            let found = match std::error::Error::source(&failed) {
                None => Class::Answered,
                Some(_) => class(&failed, 2),
            };
            assert_eq!(found, expected, "{name}: {act:?}: {failed:?}");
        }
    }
    // Nobody there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    for (name, stack) in both(address) {
        let stack = stack.with_http(|http| http.with_attempts_max(twice));
        let refused = bank(stack, address).transfer(pay()).await.unwrap_err();
        assert_eq!(class(&refused, 2), Class::NotSent, "{name}");
        // And tonic's callers see what they always see.
        if name == "tonic" {
            assert_eq!(refused.code(), Code::Unavailable);
        }
    }
    // A timeout of the channel's own, which tonic calls CANCELLED.
    let peer = Peer::start([Act::Silent]).await;
    let hasty = endpoint(peer.address).timeout(Duration::from_millis(100));
    let mut bank = bank(over_channel(hasty.connect_lazy()), peer.address);
    let late = bank.transfer(pay()).await.unwrap_err();
    // Here it is what it is.
    assert_eq!(late.code(), Code::Unknown);
    assert!(late.message().starts_with("outcome unknown"), "{late}");
    assert_eq!(class(&late, 2), Class::SentUnknown);
}

// P24
#[tokio::test]
async fn a_code_in_the_trailers_is_retried_with_the_same_key_and_message() {
    let script = [
        executed(1),
        Act::Answer(said("not-executed", 1), ended(14, Some("1"))),
        Act::Answer(vec![], ended(14, None)),
        executed(1),
    ];
    let peer = Peer::start(script).await;
    let channel = endpoint(peer.address).connect_lazy();
    let mut bank = bank(over_channel(channel), peer.address);
    bank.transfer(pay()).await.unwrap();
    bank.transfer(pay()).await.unwrap();
    let seen = peer.seen();
    assert_eq!(seen.len(), 4);
    let keys: Vec<_> = seen.iter().map(|it| &it["idempotency-key"]).collect();
    assert_ne!(keys[0], keys[1]);
    assert!(keys[2..].iter().all(|key| *key == keys[1]));
    let messages = peer.messages();
    assert!(messages[2..].iter().all(|it| *it == messages[1]));

    let attempts = |it: &http::HeaderMap| {
        let text = |name| {
            it.get(name)
                .map(|it: &http::HeaderValue| it.to_str().unwrap().to_owned())
        };
        (
            text("idempotency-attempt").unwrap(),
            text("grpc-previous-rpc-attempts"),
        )
    };
    let previous = |text: &str| Some(text.to_owned());
    assert_eq!(attempts(&seen[1]), ("1".to_owned(), None));
    assert_eq!(attempts(&seen[2]), ("2".to_owned(), previous("1")));
    assert_eq!(attempts(&seen[3]), ("3".to_owned(), previous("2")));
    // When it was first sent is on the server's clock, which the first call has yet to learn.
    assert!(!seen[0].contains_key("idempotency-first-sent"));
    let first_sent = &seen[1]["idempotency-first-sent"];
    assert!(
        seen[2..]
            .iter()
            .all(|it| it["idempotency-first-sent"] == first_sent)
    );
    assert!(
        seen[1..]
            .iter()
            .all(|it| it.contains_key("idempotency-store"))
    );
}

// P7
#[tokio::test]
async fn a_pushback_is_waited_for_and_a_negative_one_ends_the_call() {
    for (pushback, attempts) in [("-1", 1), ("abc", 1), ("30", 2)] {
        let script = [executed(1), Act::Answer(vec![], ended(14, Some(pushback)))];
        let peer = Peer::start(script).await;
        let mut bank = bank(over_hyper(), peer.address);
        bank.transfer(pay()).await.unwrap();
        let began = tokio::time::Instant::now();
        let result = bank.transfer(pay()).await;
        assert_eq!(peer.seen().len(), 1 + attempts, "{pushback}");
        match result {
            Ok(_) => assert!(began.elapsed() >= Duration::from_millis(30)),
            Err(status) => {
                let error = call_error(&status);
                assert_eq!(error.stopped, Stopped::Pushback);
                assert_eq!(error.outcome, Outcome::Unknown);
            }
        }
    }
}

#[tokio::test]
async fn a_callers_timeout_is_the_calls_deadline_and_every_attempt_says_what_is_left() {
    let script = [
        executed(1),
        Act::Answer(vec![], ended(14, Some("50"))),
        executed(1),
        Act::Silent,
    ];
    let peer = Peer::start(script).await;
    let mut bank = bank(over_hyper(), peer.address);
    let within = |millis| {
        let mut request = pay();
        request.set_timeout(Duration::from_millis(millis));
        request
    };
    bank.transfer(pay()).await.unwrap();
    bank.transfer(within(5_000)).await.unwrap();
    let left = |it: &http::HeaderMap| -> u64 {
        let text = it["grpc-timeout"].to_str().unwrap();
        text.strip_suffix('m').unwrap().parse().unwrap()
    };
    let seen = peer.seen();
    assert!((29_000..=30_000).contains(&left(&seen[0])));
    assert!((4_000..=5_000).contains(&left(&seen[1])));
    assert!(left(&seen[2]) + 50 <= left(&seen[1]));
    // The other word for it is not said too.
    assert!(!seen[1].contains_key("idempotency-deadline-ms"));
    let late = bank.transfer(within(200)).await.unwrap_err();
    let error = call_error(&late);
    assert_eq!(error.outcome, Outcome::Unknown);
    assert_eq!(error.stopped, Stopped::Deadline);
}

#[tokio::test]
async fn calls_of_methods_that_are_not_named_go_as_they_are() {
    let peer = Peer::start([Act::Answer(vec![], ended(14, None))]).await;
    let mut bank = bank(over_hyper(), peer.address);
    let failed = bank.unary(pay(), REFUND).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    let seen = peer.seen();
    assert_eq!(seen.len(), 1);
    let ours = |name: &&http::HeaderName| name.as_str().starts_with("idempotency-");
    assert!(!seen[0].keys().any(|name| ours(&name)));
    assert!(!seen[0].contains_key("grpc-timeout"));
    // Streams too.
    let (server, _) = paying(layer()).await;
    let mut bank = crate::safe::bank(over_hyper(), server);
    let mut receipts = bank.watch(pay()).await.unwrap().into_inner();
    assert_eq!(receipts.message().await.unwrap().unwrap().number, 1);
}

// H5
#[tokio::test]
async fn a_call_in_progress_elsewhere_is_waited_for_at_the_cost_of_time_only() {
    let busy = || Act::Only([said("in-progress", 1), ended(10, Some("20"))].concat());
    let script = [executed(1), busy(), busy(), busy(), busy(), executed(1)];
    let peer = Peer::start(script).await;
    let mut bank = bank(over_hyper(), peer.address);
    bank.transfer(pay()).await.unwrap();
    bank.transfer(pay()).await.unwrap();
    // More than the three attempts that a call has.
    assert_eq!(peer.seen().len(), 6);
}

#[tokio::test]
async fn a_doubt_and_a_refusal_are_not_retried() {
    let refusals = [
        ("in-doubt", 2, Some(Outcome::InDoubt)),
        ("in-doubt", 13, Some(Outcome::InDoubt)),
        ("mismatch", 3, None),
        ("stale", 9, None),
        ("not-executed", 3, None),
    ];
    for (status, code, outcome) in refusals {
        let refused = Act::Only([said(status, 1), ended(code, Some("-1"))].concat());
        let peer = Peer::start([executed(1), refused]).await;
        let mut bank = bank(over_hyper(), peer.address);
        bank.transfer(pay()).await.unwrap();
        let failed = bank.transfer(pay()).await.unwrap_err();
        assert_eq!(peer.seen().len(), 2, "{status}");
        match outcome {
            Some(outcome) => assert_eq!(call_error(&failed).outcome, outcome),
            None => assert_eq!(i32::from(code), failed.code() as i32, "{status}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_has_another_store_now_gets_calls_that_met_none_and_no_others() {
    let misdirected = || Act::Only([said("not-executed", 2), ended(9, Some("-1"))].concat());
    // The store was replaced between two calls: the second one was never executed there.
    let peer = Peer::start([executed(1), misdirected(), executed(2)]).await;
    let mut bank = bank(over_hyper(), peer.address);
    bank.transfer(pay()).await.unwrap();
    bank.transfer(pay()).await.unwrap();
    let store = |byte| {
        let id = StoreId::from_bytes([byte; 16]);
        format!("\"{id}\"")
    };
    let named: Vec<_> = peer
        .seen()
        .iter()
        .map(|it| it.get("idempotency-store").cloned())
        .collect();
    assert_eq!(named[1].as_ref().unwrap(), &store(1));
    assert_eq!(named[2].as_ref().unwrap(), &store(2));
    // It was replaced between two attempts: what the first one did is not known.
    peer.then([Act::Close, misdirected()]);
    let lost = bank.transfer(pay()).await.unwrap_err();
    assert_eq!(call_error(&lost).outcome, Outcome::Unknown);
}

#[tokio::test]
async fn a_key_that_may_have_been_sent_before_goes_only_to_a_peer_that_dedupes() {
    let (server, ledger) = paying(layer()).await;
    let mut bank = bank(over_hyper(), server);
    let key = || IdempotencyKey::parse("order-4711").unwrap();
    let with = |ticket: Ticket| {
        let mut request = pay();
        request.extensions_mut().insert(ticket);
        request
    };
    let unsent = bank.transfer(with(Ticket::new(key()))).await.unwrap_err();
    assert_eq!(call_error(&unsent).outcome, Outcome::Unknown);
    assert_eq!(ledger.effects(), 0);
    let new = Ticket::never_sent(key());
    bank.transfer(with(new)).await.unwrap();
    // Now the peer is known.
    let again = bank.transfer(with(Ticket::new(key()))).await.unwrap();
    assert_eq!(kit::said(again.metadata()), "replayed");
    assert_eq!(ledger.effects(), 1);
}

// P18
#[tokio::test]
async fn a_call_that_is_dropped_is_executed_once_and_resumed_with_its_key() {
    let ledger = Ledger::default();
    let counted = ledger.clone();
    let handler = move |_| {
        let number = counted.apply();
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let text = String::new();
            Ok(Response::new(Receipt { number, text }))
        }
    };
    let server = serve(layer(), handler).await;
    let mut bank = bank(over_hyper(), server);
    bank.transfer(pay()).await.unwrap();
    let keyed = || {
        let mut request = pay();
        let ticket = Ticket::new(IdempotencyKey::parse("k").unwrap());
        request.extensions_mut().insert(ticket);
        request
    };
    {
        let mut dropped = Box::pin(bank.transfer(keyed()));
        while ledger.effects() < 2 {
            assert!((&mut dropped).now_or_never().is_none());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let resumed = bank.transfer(keyed()).await.unwrap();
    assert_eq!(resumed.get_ref().number, 2);
    assert_eq!(ledger.effects(), 2);
}

// P13
#[tokio::test]
async fn a_handler_whose_caller_retries_makes_one_attempt_itself() {
    let not_able = || Act::Answer(said("not-executed", 1), ended(14, Some("1")));
    for (attempt, expected) in [(Some("1"), 1), (None, 3)] {
        let peer = Peer::start(std::iter::repeat_with(not_able).take(3)).await;
        let behind = peer.address;
        let handler = move |_| async move {
            // What comes of it is the handler's own answer.
            bank(over_hyper(), behind).transfer(pay()).await
        };
        let server = serve(layer(), handler).await;
        let mut request = kit::raw(server, "k");
        if let Some(attempt) = attempt {
            let attempt = http::HeaderValue::from_static(attempt);
            request.headers_mut().insert("idempotency-attempt", attempt);
        }
        let failed = kit::send(request).await;
        assert_eq!(peer.seen().len(), expected);
        // What was not executed there may have been preceded by an effect here.
        assert_eq!(failed.said(), "in-doubt");
    }
}

// H4
#[tokio::test]
async fn a_server_that_answers_without_the_layer_is_trusted_no_more_whatever_its_code() {
    let mut wrong = Vec::new();
    for code in 0..=16_u8 {
        let peer = Peer::start([executed(1)]).await;
        let mut bank = bank(over_hyper(), peer.address);
        bank.transfer(pay()).await.unwrap();
        let in_between = matches!(code, 1 | 4 | 8 | 14);
        let bare = match code {
            0 => Act::Answer(Vec::new(), ended(0, None)),
            code => Act::Only(ended(code, Some("-1"))),
        };
        // What is deployed anew executes the next call, whose answer is lost.
        peer.then([bare, Act::Close]);
        let _ = bank.transfer(pay()).await;
        let _ = bank.transfer(pay()).await;
        let retried = peer.seen().len() > 3;
        if retried != in_between {
            wrong.push(code);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
