//! Some hundred payments at once, over a network that fails in every way at random.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use onlyonce_chaos::ledger::{Ending, History, Operation, Verdict, check};
use onlyonce_chaos::proxy::{Direction, Fault, FaultKind, Plan, Rule};

use super::bank::{Bank, Books, Folder, booked};
use super::teller::{BOTH, Patience, client, ending, fresh, network, pay, post, text};

/// Many attempts, over connections that are used again.
const MANY: Patience = Patience {
    attempts: 12,
    attempt_timeout: Duration::from_millis(600),
    call_timeout: Duration::from_secs(25),
    keeps_connections: true,
};

fn storm() -> Plan {
    let somewhere = |direction, fault| {
        Rule::new(direction, fault)
            .after_bytes_within(0..=5_000)
            .probability(0.3)
    };
    Plan::none()
        .rule(somewhere(Direction::ToClient, Fault::DropRest))
        .rule(somewhere(Direction::ToServer, Fault::DropRest))
        .rule(somewhere(Direction::ToClient, Fault::Close))
        .rule(somewhere(Direction::ToServer, Fault::Close))
        .rule(somewhere(Direction::ToClient, Fault::Reset))
        .rule(somewhere(Direction::ToServer, Fault::Reset))
        .rule(somewhere(
            Direction::ToClient,
            Fault::Slice { bytes_max: 7 },
        ))
}

// P26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_payment_of_hundreds_is_made_twice_and_all_are_answered_in_the_end() {
    let seed = seed();
    let (folder, books) = (Folder::new(), Books::default());
    let bank = Bank::open(folder.open().await, &books);
    let mut history = History::new();
    for over in BOTH {
        let network = network(bank.addr, seed, storm()).await;
        let (stormy, calm) = (client(over, MANY), client(over, MANY));
        let (stormy, addr, there) = (&stormy, network.addr(), bank.addr);
        let paid = stream::iter(0..200).map(|number| async move {
            let (key, order) = (format!("{over:?}-{number}"), format!("order {number}"));
            let first = pay(stormy, addr, fresh(&key), &order).await;
            (key, order, first)
        });
        let paid: Vec<_> = paid.buffer_unordered(16).collect().await;
        let stats = network.stats();
        for kind in [FaultKind::Close, FaultKind::DropRest, FaultKind::Reset] {
            assert!(stats.fired(kind) > 0, "seed {seed}: {stats:?}");
        }
        for (key, order, first) in paid {
            let mut operation = Operation::new(key, order.clone()).attempts(1);
            operation = operation.ended(ending(&first));
            if let Err(error) = first {
                let resumed = pay(&calm, there, error.ticket, &order).await;
                assert!(
                    matches!(ending(&resumed), Ending::Answered(_)),
                    "{resumed:?}"
                );
                operation = operation.ended(ending(&resumed));
            }
            history.push(operation);
        }
    }
    let report = check(&history, &books.effects());
    println!("seed {seed}: {report}");
    assert_eq!(report.verdict(), Verdict::Valid, "seed {seed}: {report}");
    assert_eq!(report.figures().effects, 400, "seed {seed}: {report}");
}

// B1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_booking_of_hundreds_is_committed_twice_and_none_is_in_doubt() {
    let seed = seed();
    let (folder, books) = (Folder::new(), Books::default());
    let store = folder.open().await;
    let bank = Bank::open(Arc::clone(&store) as _, &books);
    let mut answers = Vec::new();
    for over in BOTH {
        let network = network(bank.addr, seed, storm()).await;
        let (stormy, calm) = (client(over, MANY), client(over, MANY));
        let (stormy, addr) = (&stormy, network.addr());
        let booked = stream::iter(0..150).map(|number| async move {
            let order = format!("{over:?} {number}");
            let key = format!("{over:?}-{number}");
            (post(stormy, addr, "book", fresh(&key), &order).await, order)
        });
        let booked: Vec<_> = booked.buffer_unordered(16).collect().await;
        for (first, order) in booked {
            assert_ne!(ending(&first), Ending::InDoubt, "seed {seed}: {first:?}");
            let answer = match first {
                Ok(answer) => answer,
                Err(error) => {
                    let again = post(&calm, bank.addr, "book", error.ticket, &order).await;
                    again.unwrap()
                }
            };
            answers.push(text(&answer));
        }
    }
    let mut rows = booked(&store).await;
    rows.sort();
    answers.sort();
    assert_eq!(rows, answers, "seed {seed}");
}

fn seed() -> u64 {
    // OK because only the faults are drawn from it.
    std::env::var("ONLYONCE_SEED").map_or(7, |seed| seed.parse().unwrap())
}
