//! Which peers a call is repeated to.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onlyonce_middleware::client::{Last, Outcome, Stopped, Ticket};
use onlyonce_middleware::http::client::{Deadline, Hyper, TransportError, stack};
use onlyonce_middleware::http::{Body, ServingStore};
use onlyonce_storage::{IdempotencyKey, StoreId, Timestamp};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use tower::limit::ConcurrencyLimit;
use tower::service_fn;

use crate::peer::{Fault, Peer, Seen, answer, clients, connector, over_hyper, quick, text};

// H4
#[tokio::test]
async fn a_call_whose_answer_was_lost_is_not_repeated_to_a_peer_that_does_not_dedupe() {
    for (name, client) in clients() {
        let peer = Peer::plain().await;
        peer.misbehave([Fault::CloseDone]);
        let error = client.send(peer.post("a")).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{name}");
        assert_eq!(error.stopped, Stopped::PeerNotKnownToDedupe, "{name}");
        assert_eq!(peer.effects().len(), 1, "{name}");
        // It was asked, and said nothing: so the call has no date, which would be of another clock.
        assert_eq!(peer.questions(), 1, "{name}");
        let seen = &peer.seen()[0];
        assert_eq!(seen.header("idempotency-first-sent"), None);
        assert_eq!(seen.header("idempotency-store"), None);
    }
}

#[tokio::test]
async fn a_call_whose_answer_was_lost_is_answered_from_the_record_of_a_peer_that_dedupes() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        peer.misbehave([Fault::CloseDone]);
        let response = client.send(peer.post("a")).await.unwrap();
        assert_eq!(response.headers()["idempotency-status"], "replayed");
        assert_eq!(text(response).await, "done");
        assert_eq!(peer.effects().len(), 1, "{name}");
        let seen = peer.seen();
        assert_eq!(seen.len(), 2, "{name}");
        for header in [
            "idempotency-key",
            "idempotency-first-sent",
            "idempotency-store",
        ] {
            assert!(seen[0].header(header).is_some(), "{name}: {header}");
            assert_eq!(seen[0].header(header), seen[1].header(header), "{name}");
        }
        let date: u64 = seen[0]
            .header("idempotency-first-sent")
            .unwrap()
            .parse()
            .unwrap();
        assert!((1_763_740_800_000..1_763_740_810_000).contains(&date));
        assert_eq!(seen[0].header("idempotency-attempt"), Some("1"));
        assert_eq!(seen[1].header("idempotency-attempt"), Some("2"));
        let left: u64 = seen[0]
            .header("idempotency-deadline-ms")
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=8_000).contains(&left), "{name}: {left}");
    }
}

#[tokio::test]
async fn a_route_is_asked_once_and_each_route_by_itself() {
    let client = quick(over_hyper()).build();
    let peer = Peer::deduping(1).await;
    let calls = (0..8).map(|_| client.send(peer.post("a")));
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(peer.questions(), 1);
    let other = http::Request::post(peer.url("/other")).body("a").unwrap();
    client.send(other).await.unwrap();
    assert_eq!(peer.questions(), 2);
}

#[tokio::test]
async fn a_peer_that_leaves_the_question_open_is_called_all_the_same_and_known_by_its_answer() {
    let client = quick(over_hyper()).build();
    let peer = Peer::silent_about_itself(1).await;
    client.send(peer.post("a")).await.unwrap();
    assert_eq!(peer.seen()[0].header("idempotency-store"), None);
    peer.misbehave([Fault::CloseDone]);
    client.send(peer.post("b")).await.unwrap();
    assert_eq!(peer.effects(), [b"a", b"b"]);
    assert_eq!(peer.questions(), 1);
}

#[tokio::test]
async fn a_key_that_may_have_been_sent_before_goes_only_to_a_peer_that_dedupes() {
    let key = IdempotencyKey::parse("invoice-7").unwrap();
    let by_header = |peer: &Peer| {
        let mut request = peer.post("a");
        let value = "\"invoice-7\"".parse().unwrap();
        request.headers_mut().insert("idempotency-key", value);
        request
    };
    let by_extension = |peer: &Peer, ticket: Ticket| {
        let mut request = peer.post("a");
        request.extensions_mut().insert(ticket);
        request
    };
    for (name, client) in clients() {
        let (plain, deduping) = (Peer::plain().await, Peer::deduping(1).await);
        for request in [by_header(&plain), by_extension(&plain, key.clone().into())] {
            let error = client.send(request).await.unwrap_err();
            assert_eq!(error.outcome, Outcome::Unknown, "{name}");
            assert!(error.to_string().contains("not known to dedupe"), "{error}");
        }
        assert!(plain.seen().is_empty(), "{name}");
        for _ in 0..2 {
            client.send(by_header(&deduping)).await.unwrap();
        }
        let again = by_extension(&deduping, key.clone().into());
        client.send(again).await.unwrap();
        assert_eq!(deduping.effects().len(), 1, "{name}");
        // Whoever knows that it was not sent says so.
        let fresh = by_extension(&plain, Ticket::never_sent(key.clone()));
        client.send(fresh).await.unwrap();
        assert_eq!(
            plain.seen()[0].header("idempotency-key"),
            Some("\"invoice-7\"")
        );
    }
}

#[tokio::test]
async fn a_header_that_is_no_key_is_an_error_and_nothing_is_sent_under_another() {
    let (_, client) = clients().into_iter().next().unwrap();
    let peer = Peer::deduping(1).await;
    let mut request = peer.post("a");
    request
        .headers_mut()
        .insert("idempotency-key", "two words".parse().unwrap());
    let error = client.send(request).await.unwrap_err();
    assert_eq!(error.stopped, Stopped::Final);
    assert!(matches!(error.last, Last::Error(error) if error.is_final()));
    assert_eq!((peer.seen().len(), peer.questions()), (0, 0));
}

#[tokio::test]
async fn a_question_without_an_answer_leaves_the_attempt_time_to_be_made() {
    for timeout in [
        over_hyper().with_attempt_timeout(Duration::from_millis(600)),
        over_hyper().with_call_timeout(Duration::from_millis(600)),
    ] {
        let client = timeout.build();
        let peer = Peer::silent_about_itself(1).await;
        client.send(peer.post("a")).await.unwrap();
        assert_eq!(peer.seen()[0].header("idempotency-attempt"), Some("1"));
    }
}

// H9
#[tokio::test]
async fn a_peer_is_asked_also_through_a_transport_that_has_one_place() {
    let transport = ConcurrencyLimit::new(Hyper::over(connector()), 1);
    let client = quick(stack(transport)).build();
    let peer = Peer::deduping(1).await;
    let calls = (0..4).map(|_| client.send(peer.post("a")));
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(peer.questions(), 1);
    let dated = |seen: &Seen| seen.header("idempotency-first-sent").is_some();
    assert!(peer.seen().iter().all(dated));
}

/// Passes connections on to one server after the other.
async fn balancer(servers: Vec<Peer>) -> (Peer, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut front = servers[0].clone();
    front.address = listener.local_addr().unwrap();
    let next = Arc::new(AtomicUsize::new(0));
    let turn = Arc::clone(&next);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let to = turn.fetch_add(1, Ordering::SeqCst) % servers.len();
            let mut far = TcpStream::connect(servers[to].address).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
        }
    });
    (front, next)
}

#[tokio::test]
async fn a_retry_that_a_balancer_gives_to_another_store_is_refused_and_the_outcome_is_unknown() {
    for (name, client) in clients() {
        let (one, two) = (Peer::deduping(1).await, Peer::deduping(2).await);
        let (front, _) = balancer(vec![one.clone(), two.clone()]).await;
        // The question and the first attempt go over one connection. It ends with the answer lost.
        one.misbehave([Fault::CloseDone]);
        let error = client.send(front.post("a")).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{name}: {error}");
        assert_eq!(error.stopped, Stopped::Final, "{name}");
        assert_eq!(error.ticket.store, Some(StoreId::from_bytes([1; 16])));
        assert_eq!((one.effects().len(), two.effects().len()), (1, 0), "{name}");
        assert_eq!(two.seen().len(), 1, "{name}");
        let Last::Response(response) = error.last else {
            panic!("it was answered");
        };
        assert_eq!(response.status(), 421);
    }
}

#[tokio::test]
async fn a_store_that_was_replaced_costs_an_attempt_and_the_call_is_made_by_the_new_one() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        client.send(peer.post("a")).await.unwrap();
        peer.replace_store(2);
        client.send(peer.post("b")).await.unwrap();
        assert_eq!(peer.effects(), [b"a", b"b"], "{name}");
        assert_eq!(peer.seen().len(), 3, "{name}");
    }
}

#[tokio::test]
async fn a_store_that_is_replaced_while_a_call_is_unanswered_does_not_execute_it_again() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        peer.misbehave([Fault::Silent]);
        let call = tokio::spawn(client.send(peer.post("a")));
        while peer.effects().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        peer.replace_store(2);
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{name}");
        assert_eq!(peer.effects().len(), 1, "{name}");
    }
}

// H4
#[tokio::test]
async fn a_421_of_a_handler_that_executed_is_no_word_that_the_store_was_replaced() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        let lines = format!("idempotency-status: executed\r\n{}", peer.store_line());
        // Its body never comes.
        let said = answer(421, &lines, "done").replace("length: 4", "length: 9");
        peer.misbehave([Fault::Say(said)]);
        let call = tokio::spawn(client.send(peer.post("a")));
        while peer.seen().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        peer.replace_store(2);
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{name}");
        // Whoever goes on with it must not have it executed by the second store.
        assert_eq!(error.ticket.store, Some(StoreId::from_bytes([1; 16])));
        assert_eq!(peer.effects().len(), 0, "{name}");
    }
}

#[tokio::test]
async fn a_peer_of_which_it_is_assumed_is_sent_the_call_again() {
    let client = quick(over_hyper()).assume_dedupe().build();
    let peer = Peer::plain().await;
    peer.misbehave([Fault::CloseUndone]);
    client.send(peer.post("a")).await.unwrap();
    let seen = peer.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(
        seen[0].header("idempotency-key"),
        seen[1].header("idempotency-key")
    );
}

#[tokio::test]
async fn all_attempts_of_a_call_say_the_same_date_or_none() {
    let client = quick(over_hyper()).without_asking_peers().build();
    let peer = Peer::deduping(1).await;
    let busy = |peer: &Peer| {
        let lines = "idempotency-status: not-executed\r\nretry-after-ms: 1\r\n".to_owned();
        Fault::Say(answer(503, &(lines + &peer.store_line()), ""))
    };
    // The first attempt goes out before anything is known, the second when the clock is.
    peer.misbehave([busy(&peer)]);
    client.send(peer.post("a")).await.unwrap();
    peer.misbehave([busy(&peer)]);
    client.send(peer.post("b")).await.unwrap();
    let seen = peer.seen();
    let dates = seen.iter().map(|it| it.header("idempotency-first-sent"));
    let dates: Vec<_> = dates.collect();
    assert_eq!(dates[..2], [None, None]);
    assert!(dates[2].is_some());
    assert_eq!(dates[2], dates[3]);
    assert!(seen[1].header("idempotency-store").is_some());
}

#[tokio::test]
async fn a_call_ends_at_its_own_deadline_and_the_server_is_told_of_it() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        peer.misbehave([Fault::Silent]);
        let mut request = peer.post("a");
        let began = Instant::now();
        let deadline = Deadline(began + Duration::from_millis(300));
        request.extensions_mut().insert(deadline);
        let error = client.send(request).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{name}");
        assert_eq!(error.stopped, Stopped::Deadline, "{name}");
        assert!(began.elapsed() < Duration::from_secs(2), "{name}");
        // What the caller needs to come back to it.
        assert_eq!(error.ticket.store, Some(StoreId::from_bytes([1; 16])));
        assert!(error.ticket.first_sent.is_some(), "{name}");
        let left = peer.seen()[0]
            .header("idempotency-deadline-ms")
            .unwrap()
            .to_owned();
        assert!(left.parse::<u64>().unwrap() <= 300, "{name}: {left}");

        // With its ticket the call is the same one.
        let mut again = peer.post("a");
        again.extensions_mut().insert(error.ticket);
        let response = client.send(again).await.unwrap();
        assert_eq!(response.headers()["idempotency-status"], "replayed");
        let seen = peer.seen();
        for header in [
            "idempotency-key",
            "idempotency-first-sent",
            "idempotency-store",
        ] {
            assert_eq!(seen[0].header(header), seen[1].header(header), "{name}");
        }
    }
}

/// The clock goes on by so much; nothing waits for that.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

// H4
#[tokio::test]
async fn a_peer_that_dedupes_no_more_is_asked_before_it_gets_a_call_again() {
    for (name, client) in clients() {
        let peer = Peer::deduping(1).await;
        client.send(peer.post("a")).await.unwrap();
        pass(Duration::from_secs(60)).await;
        peer.stop_deduping();
        peer.misbehave([Fault::CloseDone]);
        let error = client.send(peer.post("b")).await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{name}");
        assert_eq!(peer.effects(), [b"a", b"b"], "{name}");
        let resumed = client.send(with_ticket(&peer, error.ticket)).await;
        assert_eq!(resumed.unwrap_err().outcome, Outcome::Unknown, "{name}");
        assert_eq!(peer.effects(), [b"a", b"b"], "{name}");
    }
}

fn with_ticket(peer: &Peer, ticket: Ticket) -> http::Request<onlyonce_middleware::http::Body> {
    let mut request = peer.post("b");
    request.extensions_mut().insert(ticket);
    request
}

// H4
#[tokio::test]
async fn a_peer_that_is_known_by_its_answers_alone_gets_a_call_again_after_a_while_too() {
    for (name, client) in clients() {
        let peer = Peer::silent_about_itself(1).await;
        client.send(peer.post("a")).await.unwrap();
        pass(Duration::from_secs(60)).await;
        peer.misbehave([Fault::CloseDone]);
        client.send(peer.post("b")).await.unwrap();
        assert_eq!(peer.effects(), [b"a", b"b"], "{name}");
        assert_eq!(peer.questions(), 1, "{name}");
    }
    // As where none is asked.
    let client = quick(over_hyper()).without_asking_peers().build();
    let peer = Peer::deduping(1).await;
    client.send(peer.post("a")).await.unwrap();
    pass(Duration::from_secs(60)).await;
    peer.misbehave([Fault::CloseDone]);
    client.send(peer.post("b")).await.unwrap();
    assert_eq!((peer.effects().len(), peer.questions()), (2, 0));
}

// A9
#[tokio::test(start_paused = true)]
async fn many_calls_that_may_have_been_executed_ask_a_peer_one_question_that_it_leaves_open() {
    let questions = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&questions);
    let transport = service_fn(move |request: http::Request<Body>| {
        let question = request.method() == http::Method::OPTIONS;
        let number = counted.fetch_add(usize::from(question), Ordering::SeqCst);
        async move {
            if question && number > 0 {
                std::future::pending::<()>().await;
            }
            let store = ServingStore {
                id: StoreId::from_bytes([1; 16]),
                now: Some(Timestamp::from_millis(1_763_740_800_000)),
            };
            let response = http::Response::builder()
                .header("idempotency-store", store.header_value())
                .header("idempotency-status", "executed");
            Ok::<_, TransportError>(response.body(Body::default()).unwrap())
        }
    });
    let client = stack(transport).with_attempts_max(NonZeroU32::MIN).build();
    let pay = || {
        let request = http::Request::post("http://bank.example/pay");
        request.body(Body::default()).unwrap()
    };
    client.send(pay()).await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    let began = Instant::now();
    let calls: Vec<_> = (0..20)
        .map(|number| {
            let mut again = pay();
            let key = IdempotencyKey::parse(&format!("k{number}")).unwrap();
            again.extensions_mut().insert(Ticket::new(key));
            tokio::spawn(client.send(again))
        })
        .collect();
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown);
    }
    assert_eq!(questions.load(Ordering::SeqCst), 2);
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "one after the other"
    );
    // It is asked again by whoever comes later.
    tokio::time::advance(Duration::from_millis(1)).await;
    let mut again = pay();
    let key = IdempotencyKey::parse("later").unwrap();
    again.extensions_mut().insert(Ticket::new(key));
    client.send(again).await.unwrap_err();
    assert_eq!(questions.load(Ordering::SeqCst), 3);
}

// H4
#[tokio::test(start_paused = true)]
async fn a_question_that_a_short_deadline_cut_off_does_not_make_a_peer_one_that_leaves_them_open() {
    let (effects, deployed_anew) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (counted, anew) = (Arc::clone(&effects), Arc::clone(&deployed_anew));
    let transport = service_fn(move |request: http::Request<Body>| {
        let question = request.method() == http::Method::OPTIONS;
        let (counted, anew) = (Arc::clone(&counted), anew.load(Ordering::SeqCst) == 1);
        async move {
            // As far away as that: half a second there and back.
            tokio::time::sleep(Duration::from_millis(250)).await;
            let response = http::Response::builder();
            if question && anew {
                return Ok(response.status(405).body(Body::default()).unwrap());
            }
            if !question && anew {
                counted.fetch_add(1, Ordering::SeqCst);
                return Err(TransportError::unknown("the answer was lost"));
            }
            tokio::time::sleep(Duration::from_millis(250 * u64::from(question))).await;
            let store = ServingStore {
                id: StoreId::from_bytes([1; 16]),
                now: Some(Timestamp::from_millis(1_763_740_800_000)),
            };
            let response = response
                .header("idempotency-store", store.header_value())
                .header("idempotency-status", "executed");
            Ok::<_, TransportError>(response.body(Body::default()).unwrap())
        }
    });
    let client = stack(transport).build();
    let pay = || {
        let request = http::Request::post("http://bank.example/pay");
        request.body(Body::default()).unwrap()
    };
    let mut hasty = pay();
    let deadline = Deadline(Instant::now() + Duration::from_millis(600));
    hasty.extensions_mut().insert(deadline);
    client.send(hasty).await.unwrap();
    // It told its store in the answer. Then it is deployed anew, without the layer.
    tokio::time::advance(Duration::from_secs(60)).await;
    deployed_anew.store(1, Ordering::SeqCst);
    let error = client.send(pay()).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::Unknown);
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}
