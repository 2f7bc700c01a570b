//! The server is killed in the middle, and comes back over what is on its disk.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use onlyonce::middleware::client::Outcome;
use onlyonce_chaos::ledger::{Ending, History, Operation, Verdict, check};
use onlyonce_chaos::proxy::Plan;

use super::bank::{Bank, Books, Folder, booked};
use super::teller::{Answer, BOTH, Failed, Patience, client, ending, fresh, network, post, text};

const PATIENT: Patience = Patience {
    attempts: 100,
    attempt_timeout: Duration::from_secs(5),
    call_timeout: Duration::from_secs(25),
    keeps_connections: true,
};

const CALLS: usize = 240;
const KILLS: usize = 6;

/// The key, the order, and what the call came to.
type Made = (String, String, Result<Answer, Failed>);

/// Makes calls while the server is killed and opened again.
async fn with_kills(route: &'static str, folder: &Folder, books: &Books) -> Vec<Made> {
    let first = folder.open().await;
    let mut bank = Bank::open(Arc::clone(&first) as _, books);
    drop(first);
    let network = network(bank.addr, 1, Plan::none()).await;
    let clients = BOTH.map(|over| client(over, PATIENT));
    let addr = network.addr();
    let calls = stream::iter(0..CALLS).map(move |number| {
        let client = clients[number % 2].clone();
        async move {
            // They come one after another, for as long as the server is killed.
            tokio::time::sleep(Duration::from_millis(number as u64 * 8)).await;
            let (key, order) = (format!("{route}-{number}"), format!("order {number}"));
            let made = post(&client, addr, route, fresh(&key), &order).await;
            (key, order, made)
        }
    });
    let calls = tokio::spawn(calls.buffer_unordered(CALLS).collect::<Vec<_>>());
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(300)).await;
        bank.kill().await;
        network.cut();
        bank = Bank::open(folder.open().await, books);
        network.set_upstream(bank.addr);
    }
    let made = calls.await.unwrap();
    bank.kill().await;
    made
}

// B1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payments_to_a_server_that_is_killed_are_answered_or_in_doubt_and_made_once_at_most() {
    let (folder, books) = (Folder::new(), Books::default());
    let made = with_kills("pay", &folder, &books).await;
    let bank = Bank::open(folder.open().await, &books);
    let asking = client(BOTH[0], PATIENT);
    let mut history = History::new();
    for (key, order, first) in made {
        let end = ending(&first);
        let mut operation = Operation::new(key, order.clone())
            .attempts(1)
            .ended(end.clone());
        if let Err(error) = first {
            let ticket = error.ticket;
            let again = post(&asking, bank.addr, "pay", ticket, &order).await;
            let then = ending(&again);
            let known = matches!(then, Ending::Answered(_) | Ending::InDoubt);
            assert!(known, "{again:?}");
            // A doubt stays one.
            assert!(
                end != Ending::InDoubt || then == Ending::InDoubt,
                "{again:?}"
            );
            operation = operation.ended(then);
        }
        history.push(operation);
    }
    let report = check(&history, &books.effects());
    println!("{report}");
    assert_eq!(report.verdict(), Verdict::Valid, "{report}");
    assert!(report.figures().answered as usize > CALLS / 2, "{report}");
}

// B1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bookings_by_a_server_that_is_killed_are_never_in_doubt_and_committed_once() {
    let (folder, books) = (Folder::new(), Books::default());
    let made = with_kills("book", &folder, &books).await;
    let store = folder.open().await;
    let bank = Bank::open(Arc::clone(&store) as _, &books);
    let asking = client(BOTH[0], PATIENT);
    let mut answers = Vec::new();
    for (_, order, first) in made {
        let answer = match first {
            Ok(answer) => answer,
            Err(error) => {
                assert_ne!(error.outcome, Outcome::InDoubt, "{error}");
                let again = post(&asking, bank.addr, "book", error.ticket, &order).await;
                again.unwrap()
            }
        };
        assert_eq!(answer.status(), 201, "{}", text(&answer));
        answers.push(text(&answer));
    }
    let mut rows = booked(&store).await;
    rows.sort();
    answers.sort();
    assert_eq!(rows, answers);
}
