//! What servers do to typed calls: their words, their clocks, their services and their end.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use onlyonce::rpc::{CallFailure, Client, Incoming, Reply, Router, Server, Status};
use onlyonce::storage::{ManualClock, MemoryOptions, MemoryStore, Store as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tower::service_fn;

use super::{PAY, Payment, hasty_client, key, serve_behind, serve_on};

#[tokio::test]
async fn a_server_s_words_stay_on_their_line() {
    let service = tower::service_fn(|_: Incoming| async {
        let said = format!("a\u{1b}[2Jb\n{}", "c".repeat(100_000));
        Ok::<_, Infallible>(Reply::refusal(Status::UnknownMethod, said))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::builder().global_scope().build().unwrap();
    let serving = server.serve(listener, service).unwrap();
    let client = Client::new(serving.local_addr().to_string());
    let failed = client.call(&PAY, &Payment { cents: 5 }).await.unwrap_err();
    let text = failed.to_string();
    assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
    assert!(text.len() < 1_000, "{} bytes", text.len());
}

#[tokio::test]
async fn a_service_that_passes_on_what_another_server_replied_runs_once_for_its_key() {
    let answers = [
        Status::Attached,
        Status::Executed,
        Status::ExecutedUnrecorded,
        Status::Replayed,
        Status::Unprotected,
    ];
    let doubts = [
        Status::AnswerTooLarge,
        Status::DeadlineInProgress,
        Status::InDoubt,
        Status::InDoubtAnswered,
        Status::InProgress,
        Status::State,
    ];
    for status in answers.into_iter().chain(doubts) {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let service = service_fn(move |_: Incoming| {
            counted.fetch_add(1, Ordering::SeqCst);
            // A tagged answer, as `pay` gives it.
            async move { Ok::<_, Infallible>(Reply::new(status, vec![0, 7])) }
        });
        let routes = Router::new(())
            .method(&PAY, async |_, (), _| Ok(0))
            .into_routes();
        let serving = serve_behind(Arc::default(), routes, service).await;
        let client = Client::new(serving.local_addr().to_string());
        for _ in 0..2 {
            let paid = client.call_as(key("k"), &PAY, &Payment { cents: 5 }).await;
            if answers.contains(&status) {
                assert_eq!(paid.unwrap(), 7, "{status}");
            } else {
                assert!(
                    matches!(paid, Err(CallFailure::InDoubt(_))),
                    "{status}: {paid:?}"
                );
            }
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1, "{status}");
    }
}

#[tokio::test]
async fn a_server_whose_clock_is_set_back_refuses_a_connected_client_once_and_not_for_ever() {
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_options(
        MemoryOptions::new().clock(clock.clone()),
    ));
    let began = store.now();
    clock.advance(Duration::from_secs(3_600));
    let paid = Arc::default();
    let serving = serve_on(store, &paid).await;
    let client = Client::new(serving.local_addr().to_string());
    let payment = Payment { cents: 5 };
    assert_eq!(client.call(&PAY, &payment).await.unwrap(), 1);
    clock.set(began.plus(Duration::from_secs(60)));
    let refused = client.call(&PAY, &payment).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(client.call(&PAY, &payment).await.unwrap(), 2);
}

#[tokio::test]
async fn a_shutdown_waits_for_handlers_whose_callers_went_away_and_counts_those_it_leaves() {
    for (patience, paid_then, executing) in [
        (Duration::from_secs(20), 1, 0),
        (Duration::from_millis(10), 0, 1),
    ] {
        let paid: Arc<AtomicU32> = Arc::default();
        let gate = Arc::new(Notify::new());
        let routes = {
            let gate = Arc::clone(&gate);
            Router::new(Arc::clone(&paid)).method(&PAY, move |_, paid: Arc<AtomicU32>, _| {
                let gate = Arc::clone(&gate);
                async move {
                    gate.notified().await;
                    Ok(paid.fetch_add(1, Ordering::SeqCst) + 1)
                }
            })
        }
        .into_routes();
        let serving = serve_behind(Arc::default(), routes.clone(), routes).await;
        let client = hasty_client(&serving, Duration::from_millis(500));
        let gone = client.call(&PAY, &Payment { cents: 5 }).await;
        assert!(
            matches!(gone, Err(CallFailure::OutcomeUnknown(_))),
            "{gone:?}"
        );
        drop(client);
        let shutdown = tokio::spawn(serving.shutdown(patience));
        if executing == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(!shutdown.is_finished());
            gate.notify_one();
        }
        let report = shutdown.await.unwrap();
        assert_eq!((report.cut_off, report.executing), (0, executing));
        assert_eq!(paid.load(Ordering::SeqCst), paid_then);
    }
}
