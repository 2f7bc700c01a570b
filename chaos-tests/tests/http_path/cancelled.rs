//! Callers and connections that go away at any wait.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, State};
use axum::routing::post;
use onlyonce::http::{Body, DedupeLayer, Status};
use onlyonce::storage::{IdempotencyKey, MemoryStore, Scope};
use onlyonce_chaos::CancelAt;
use onlyonce_chaos::cancel::Ended;
use onlyonce_chaos::ledger::{Ending, History, Operation, Verdict, check};
use parking_lot::Mutex;
use tokio::task::yield_now;
use tower::{Layer, ServiceExt};

use super::bank::{Bank, Books, Folder};
use super::teller::{BOTH, FEW, client, ending, fresh, pay, text};

// B16
#[tokio::test]
async fn a_call_whose_future_is_dropped_at_any_wait_is_made_once_when_it_is_resumed() {
    let (folder, books) = (Folder::new(), Books::default());
    let bank = Bank::open(folder.open().await, &books);
    let mut history = History::new();
    let mut number = 0;
    for over in BOTH {
        let cancelled = CancelAt::sweep(async |cancel| {
            number += 1;
            let (key, order) = (format!("{over:?}-{number}"), format!("order {number}"));
            // A new one: it has to ask, and to connect.
            let client = client(over, FEW);
            let ended = cancel
                .run(pay(&client, bank.addr, fresh(&key), &order))
                .await;
            let ticket = fresh(&key).maybe_executed();
            let resumed = pay(&client, bank.addr, ticket, &order).await;
            let end = ending(&resumed);
            assert!(
                matches!(end, Ending::Answered(_)),
                "{cancel:?}: {resumed:?}"
            );
            history.push(Operation::new(key, order).attempts(2).ended(end));
            ended
        })
        .await;
        assert!(cancelled > 4, "{cancelled}");
    }
    let report = check(&history, &books.effects());
    assert_eq!(report.verdict(), Verdict::Valid, "{report}");
}

/// How often the handler of an order began, and ended.
#[derive(Clone, Debug, Default)]
struct Runs(Arc<Mutex<(u32, u32)>>);

async fn wait_and_pay(
    State(runs): State<Runs>,
    Extension(_): Extension<IdempotencyKey>,
    order: String,
) -> String {
    runs.0.lock().0 += 1;
    for _ in 0..3 {
        yield_now().await;
    }
    runs.0.lock().1 += 1;
    format!("paid {order}")
}

// B16, B17
#[tokio::test]
async fn an_execution_whose_connection_is_dropped_at_any_wait_goes_on_to_its_end() {
    let mut executed = 0;
    let cancelled = CancelAt::sweep(async |cancel| {
        let runs = Runs::default();
        let layer = DedupeLayer::new(Arc::new(MemoryStore::new()), Scope::global())
            .on_replay(|_, _| async { true });
        let executions = layer.executions();
        let router = Router::new()
            .route("/pay", post(wait_and_pay))
            .with_state(runs.clone());
        let service = layer.layer(router);
        let request = || {
            let order = Body::stream(Body::from("order"));
            let request = http::Request::post("/pay").header("idempotency-key", "k");
            request.body(order).unwrap()
        };
        let ended = cancel.run(service.clone().oneshot(request())).await;
        executions.idle().await;
        let (begun, done) = *runs.0.lock();
        assert!(begun <= 1 && begun == done, "{cancel:?}: {begun} {done}");
        let again = service.oneshot(request()).await.unwrap();
        let said = Status::of(again.headers()).unwrap();
        let expected = if begun == 1 {
            Status::Replayed
        } else {
            Status::Executed
        };
        assert_eq!(said, expected, "{cancel:?}");
        assert_eq!(text(&again), "paid order");
        executed += u32::from(begun == 1 && matches!(ended, Ended::Cancelled));
        ended
    })
    .await;
    assert!(cancelled >= 2 && executed >= 1, "{cancelled} {executed}");
}
