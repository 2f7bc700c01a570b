//! What stands between the layer and the handler refuses calls: the decoder of the message, an
//! interceptor. Nothing was executed then, and the layer knows it where handlers say when they begin.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use onlyonce_middleware::grpc::{Declaration, DedupeLayer, EnterError};
use onlyonce_storage::{MemoryOptions, MemoryStore, Scope, Store, StoreLimits};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::service::interceptor::{InterceptedService, InterceptorLayer};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::bank::{BankServer, Receipt, TRANSFER, Transfer};
use crate::kit::{Ledger, framed, paying, raw, send, serve};

/// Few doubts fit into a scope.
const DOUBTS_MAX: usize = 3;

fn narrow() -> DedupeLayer {
    let limits = StoreLimits::default().in_doubt_max(DOUBTS_MAX);
    let store = MemoryStore::with_options(MemoryOptions::new().limits(limits));
    DedupeLayer::new(Arc::new(store), Scope::global())
}

fn entered(request: &Request<Transfer>) -> Result<(), Status> {
    let run = request.extensions().get::<Declaration>().cloned();
    let entered = run.unwrap_or_default().enter();
    entered.map_err(|error| Status::aborted(error.to_string()))
}

/// A handler that enters, has an effect, and fails where it is asked for nothing.
fn entering(
    ledger: &Ledger,
) -> impl Fn(Request<Transfer>) -> std::future::Ready<Result<Response<Receipt>, Status>>
+ Clone
+ Send
+ Sync
+ 'static {
    let ledger = ledger.clone();
    move |request| {
        std::future::ready(entered(&request).and_then(|()| {
            let number = ledger.apply();
            match request.get_ref().cents {
                0 => Err(Status::internal("the books are lost")),
                _ => Ok(Response::new(Receipt {
                    number,
                    text: String::new(),
                })),
            }
        }))
    }
}

/// A request whose message is framed rightly and says nothing that can be decoded.
fn undecodable(server: std::net::SocketAddr, key: &str) -> http::Request<Bytes> {
    raw(server, key).map(|_| framed(&[0xff; 4]).into())
}

fn of_nothing(server: std::net::SocketAddr, key: &str) -> http::Request<Bytes> {
    let message = Transfer {
        to: "anna".to_owned(),
        cents: 0,
    };
    let message = prost::Message::encode_to_vec(&message);
    raw(server, key).map(|_| framed(&message).into())
}

// E4
#[tokio::test]
async fn messages_that_cannot_be_decoded_leave_no_doubt_where_handlers_say_when_they_begin() {
    let ledger = Ledger::default();
    let server = serve(narrow().protect_entered(TRANSFER), entering(&ledger)).await;
    for number in 0..3 * DOUBTS_MAX {
        let refused = send(undecodable(server, &format!("k{number}"))).await;
        assert_eq!(
            (refused.grpc_status(), refused.said()),
            (13, "not-executed")
        );
    }
    assert_eq!(ledger.effects(), 0);
    // The same keys, and the scope has room.
    for number in 0..3 * DOUBTS_MAX {
        let paid = send(raw(server, &format!("k{number}"))).await;
        assert_eq!((paid.grpc_status(), paid.said()), (0, "executed"));
    }
    assert_eq!(ledger.effects(), 9);
}

// E4
#[tokio::test]
async fn without_that_word_the_same_messages_are_in_doubt_and_fill_the_scope() {
    let (server, ledger) = paying(narrow().protect(TRANSFER)).await;
    for number in 0..DOUBTS_MAX {
        let doubtful = send(undecodable(server, &format!("k{number}"))).await;
        assert_eq!((doubtful.grpc_status(), doubtful.said()), (13, "in-doubt"));
    }
    let full = send(raw(server, "another")).await;
    assert_eq!((full.grpc_status(), full.said()), (8, "not-executed"));
    assert_eq!(ledger.effects(), 0);
}

// D1, D4
#[tokio::test]
async fn a_handler_that_entered_and_failed_is_in_doubt_as_ever() {
    let ledger = Ledger::default();
    let server = serve(narrow().protect_entered(TRANSFER), entering(&ledger)).await;
    for _ in 0..2 {
        let doubtful = send(of_nothing(server, "k")).await;
        assert_eq!((doubtful.grpc_status(), doubtful.said()), (13, "in-doubt"));
    }
    assert_eq!(ledger.effects(), 1);
}

fn authenticate(request: Request<()>) -> Result<Request<()>, Status> {
    match request.metadata().get("x-user") {
        Some(user) if user == "anna" => Ok(request),
        Some(_) => Err(Status::permission_denied("not you")),
        None => Err(Status::unauthenticated("who are you")),
    }
}

fn of_user(server: std::net::SocketAddr, user: Option<&'static str>) -> http::Request<Bytes> {
    let mut request = raw(server, "k");
    if let Some(user) = user {
        let user = HeaderValue::from_static(user);
        request.headers_mut().insert("x-user", user);
    }
    request
}

#[tokio::test]
async fn an_interceptor_inside_frees_the_key_where_handlers_say_when_they_begin() {
    let ledger = Ledger::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    // As generated servers have it: `BankServer::with_interceptor`.
    let bank = InterceptedService::new(BankServer::new(entering(&ledger)), authenticate);
    let router = Server::builder()
        .layer(narrow().protect_entered(TRANSFER))
        .add_service(bank);
    tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
    for (user, code) in [(None, 16), (Some("eve"), 7), (Some("eve"), 7)] {
        let refused = send(of_user(server, user)).await;
        assert_eq!(
            (refused.grpc_status(), refused.said()),
            (code, "not-executed")
        );
    }
    let paid = send(of_user(server, Some("anna"))).await;
    assert_eq!((paid.grpc_status(), paid.said()), (0, "executed"));
    assert_eq!(ledger.effects(), 1);
}

#[tokio::test]
async fn an_interceptor_outside_of_the_layer_refuses_before_anything_is_claimed() {
    let ledger = Ledger::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    // Earlier is further outside.
    let layers = ServiceBuilder::new()
        .layer(InterceptorLayer::new(authenticate))
        .layer(narrow().protect(TRANSFER))
        .into_inner();
    let bank = BankServer::new(crate::kit::counting(&ledger));
    let router = Server::builder().layer(layers).add_service(bank);
    tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
    for (user, code) in [(None, 16), (Some("eve"), 7), (None, 16), (None, 16)] {
        let refused = send(of_user(server, user)).await;
        // Nobody asked the layer, which says nothing.
        assert_eq!(refused.grpc_status(), code);
        assert_eq!(refused.line("idempotency-status"), None);
    }
    let paid = send(of_user(server, Some("anna"))).await;
    assert_eq!((paid.grpc_status(), paid.said()), (0, "executed"));
    // And it is asked again before an answer that is kept.
    let eve = send(of_user(server, Some("eve"))).await;
    assert_eq!(eve.grpc_status(), 7);
    assert_eq!(ledger.effects(), 1);
}

// D1
#[tokio::test]
async fn a_handler_that_comes_after_the_answer_does_not_begin() {
    let (late_run, handed_over) = oneshot::channel::<Declaration>();
    let late_run = Arc::new(parking_lot::Mutex::new(Some(late_run)));
    // Answers for a handler that still waits for its turn, as a buffer with a timeout does.
    let impatient = service_fn(
        move |request: http::Request<onlyonce_middleware::http::Body>| {
            let run = request.extensions().get::<Declaration>().cloned().unwrap();
            if let Some(late_run) = late_run.lock().take() {
                late_run.send(run).unwrap();
            }
            let answer = Status::deadline_exceeded("too slow").into_http::<tonic::body::Body>();
            std::future::ready(Ok::<_, std::convert::Infallible>(answer))
        },
    );
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bank = DedupeLayer::new(store, Scope::global())
        .protect_entered(TRANSFER)
        .layer(impatient);
    let request = raw(([127, 0, 0, 1], 1).into(), "k").map(onlyonce_middleware::http::Body::from);
    let told = bank.oneshot(request).await.unwrap();
    assert_eq!(told.headers()["idempotency-status"], "not-executed");
    let run = tokio::time::timeout(Duration::from_secs(5), handed_over);
    assert_eq!(
        run.await.unwrap().unwrap().enter(),
        Err(EnterError::Answered)
    );
}

// D1
#[tokio::test(start_paused = true)]
async fn a_handler_that_comes_after_its_run_failed_or_was_dropped_does_not_begin() {
    for fails in [true, false] {
        let (runs, mut late) = tokio::sync::mpsc::unbounded_channel();
        let impatient = service_fn(
            move |request: http::Request<onlyonce_middleware::http::Body>| {
                let run = request.extensions().get::<Declaration>().cloned().unwrap();
                runs.send(run).unwrap();
                async move {
                    if !fails {
                        // Until the run is dropped, with its lease.
                        std::future::pending::<()>().await;
                    }
                    Err::<http::Response<tonic::body::Body>, _>("too slow")
                }
            },
        );
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let bank = DedupeLayer::new(store, Scope::global())
            .protect_entered(TRANSFER)
            .layer(impatient);
        let request = raw(([127, 0, 0, 1], 1).into(), "k");
        let request = request.map(onlyonce_middleware::http::Body::from);
        let calling = tokio::spawn(bank.oneshot(request));
        if !fails {
            while late.is_empty() {
                tokio::task::yield_now().await;
            }
            // The process stands still for longer than the lease.
            tokio::time::advance(Duration::from_secs(3_600)).await;
        }
        let told = calling.await.unwrap().unwrap();
        assert_eq!(told.headers()["idempotency-status"], "in-doubt");
        // Whoever ends the doubt must not be overtaken by it.
        let run = late.recv().await.unwrap();
        assert_eq!(run.enter(), Err(EnterError::Answered), "{fails}");
    }
}

// D1
#[tokio::test]
async fn a_handler_that_the_layer_would_not_hear_does_not_begin() {
    let ledger = Ledger::default();
    let bank = BankServer::new(entering(&ledger));
    let forgetful = service_fn(move |mut request: http::Request<_>| {
        request.extensions_mut().remove::<Declaration>();
        bank.clone().oneshot(request)
    });
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let bank = DedupeLayer::new(store, Scope::global())
        .protect_entered(TRANSFER)
        .layer(forgetful);
    for _ in 0..2 {
        let request = raw(([127, 0, 0, 1], 1).into(), "k");
        let request = request.map(onlyonce_middleware::http::Body::from);
        let told = bank.clone().oneshot(request).await.unwrap();
        assert_eq!(told.headers()["idempotency-status"], "not-executed");
    }
    assert_eq!(ledger.effects(), 0);
}

#[tokio::test]
async fn a_handler_that_forgets_to_enter_is_believed_until_its_first_success() {
    let ledger = Ledger::default();
    let counted = ledger.clone();
    let forgetful = move |request: Request<Transfer>| {
        let number = counted.apply();
        let text = String::new();
        std::future::ready(match request.get_ref().cents {
            0 => Err(Status::internal("the books are lost")),
            _ => Ok(Response::new(Receipt { number, text })),
        })
    };
    let server = serve(narrow().protect_entered(TRANSFER), forgetful).await;
    assert_eq!(send(raw(server, "a")).await.said(), "executed");
    for _ in 0..2 {
        assert_eq!(send(of_nothing(server, "b")).await.said(), "in-doubt");
    }
    assert_eq!(send(undecodable(server, "c")).await.said(), "in-doubt");
    assert_eq!(ledger.effects(), 2);
}

// D1
#[tokio::test]
async fn a_handler_that_entered_within_a_layer_of_other_methods_is_heard_by_its_own() {
    let narrow = narrow();
    let others = [
        ("a", narrow.clone().protect("/bank.Bank/Refund")),
        ("b", narrow.clone().protect_entered("/bank.Bank/Refund")),
    ];
    for (key, inner) in others {
        let ledger = Ledger::default();
        let bank = BankServer::new(entering(&ledger));
        let bank = narrow
            .clone()
            .protect_entered(TRANSFER)
            .layer(inner.layer(bank));
        for _ in 0..2 {
            let request = of_nothing(([127, 0, 0, 1], 1).into(), key);
            let request = request.map(onlyonce_middleware::http::Body::from);
            let told = bank.clone().oneshot(request).await.unwrap();
            assert_eq!(told.headers()["idempotency-status"], "in-doubt");
        }
        assert_eq!(ledger.effects(), 1);
        // What it has not entered is free as ever.
        let request = undecodable(([127, 0, 0, 1], 1).into(), "undecodable");
        let request = request.map(onlyonce_middleware::http::Body::from);
        let told = bank.oneshot(request).await.unwrap();
        assert_eq!(told.headers()["idempotency-status"], "not-executed");
    }
}
