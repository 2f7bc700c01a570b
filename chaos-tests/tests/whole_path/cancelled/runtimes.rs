//! A server whose runtime ends at any step: its connections, its executions and whatever else it
//! runs are dropped where they wait, all at once.

use std::sync::Arc;

use onlyonce::rpc::CallFailure;
use onlyonce::storage::{Scope, ScopedKey, Store};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

use super::server::{name, pay};
use super::services::CutServer;
use super::settled;
use super::waiting::Waiting;
use crate::shop::{PAY, Receipt, Shop, Wish, client};
use crate::stores::Folder;

// B16, B17
#[test]
fn a_runtime_that_ends_at_any_step_leaves_an_answer_a_doubt_or_nothing() {
    let store: Arc<dyn Store> = Waiting::store();
    let ends = every_end(&store, |steps| steps + 1);
    // The waits of the store and of the handler alone are eight.
    assert!(ends.in_doubt >= 2 && ends.nothing >= 2, "{ends:?}");
}

// B16, B17
#[test]
fn a_runtime_that_ends_over_sled_leaves_an_answer_a_doubt_or_nothing() {
    let folder = Folder::new();
    let store: Arc<dyn Store> = runtime().block_on(folder.open());
    // Its thread takes thousands of steps of a runtime that has nothing else to do.
    let ends = every_end(&store, |steps| steps + 1 + steps / 16);
    assert!(ends.in_doubt >= 1 && ends.nothing >= 2, "{ends:?}");
}

/// How many runs ended how, before one was answered.
#[derive(Debug, Default)]
struct Ends {
    recorded: u64,
    in_doubt: u64,
    nothing: u64,
}

/// Makes a call on a runtime that ends after so many steps, for more and more of them, until the
/// call is answered before.
fn every_end(store: &Arc<dyn Store>, next: impl Fn(u64) -> u64) -> Ends {
    let (mut ends, mut steps, mut answered) = (Ends::default(), 0, 0);
    while answered < 3 {
        let runtime = runtime();
        let (shop, receipt) = runtime.block_on(call_for(Arc::clone(store), steps));
        drop(runtime);
        answered = if receipt.is_some() { answered + 1 } else { 0 };
        judge(store, steps, &shop, receipt, &mut ends);
        steps = next(steps);
    }
    println!("{ends:?}, {steps} steps");
    ends
}

/// One call, for so many steps; its answer, if it came.
async fn call_for(store: Arc<dyn Store>, steps: u64) -> (Shop, Option<Receipt>) {
    let server = CutServer::start(store).await;
    let client = client(server.serving.local_addr());
    let call = tokio::spawn(async move { pay(&client, steps, Wish::Pay).await.unwrap() });
    for _ in 0..steps {
        yield_now().await;
    }
    let receipt = match call.is_finished() {
        true => Some(call.await.unwrap()),
        false => None,
    };
    (server.shop.clone(), receipt)
}

/// The next server, over the same store.
fn judge(
    store: &Arc<dyn Store>,
    operation: u64,
    before: &Shop,
    receipt: Option<Receipt>,
    ends: &mut Ends,
) {
    let paid = before.payments().len();
    assert!(paid <= 1, "{operation}: paid {paid} times");
    let (after, again) = runtime().block_on(async {
        let scope = Scope::global().operation(PAY.name()).unwrap();
        settled(&**store, &ScopedKey::new(scope, name(operation))).await;
        let server = CutServer::start(Arc::clone(store)).await;
        let again = pay(&client(server.serving.local_addr()), operation, Wish::Pay).await;
        server.until_idle().await;
        (server.shop.clone(), again)
    });
    match again {
        Ok(again) => {
            let mut payments = before.payments();
            payments.extend(after.payments());
            assert_eq!(payments.len(), 1, "{operation}: {payments:?}");
            assert_eq!(payments[0].1, again, "{operation}");
            assert!(
                receipt.is_none_or(|receipt| receipt == again),
                "{operation}"
            );
            match paid {
                0 => ends.nothing += 1,
                _ => ends.recorded += 1,
            }
        }
        Err(CallFailure::InDoubt(_)) => {
            assert_eq!(receipt, None, "{operation}: answered, and then in doubt");
            assert_eq!(after.runs(), 0, "{operation}");
            ends.in_doubt += 1;
        }
        Err(other) => panic!("{operation}: {other:?}"),
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        // Sockets are looked at after every step, so that all that happens takes steps.
        .event_interval(1)
        .build()
        .unwrap()
}
