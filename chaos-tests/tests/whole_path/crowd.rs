//! Many calls at once over a network that loses, cuts and delays, judged by the books.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use onlyonce::middleware::client::Ticket;
use onlyonce::rpc::{CallFailure, Client};
use onlyonce::storage::{IdempotencyKey, Store};
use onlyonce_chaos::Seed;
use onlyonce_chaos::ledger::{Effect, Effects, Ending, History, Operation, Verdict, check};
use onlyonce_chaos::proxy::{Direction, Fault, Plan, Rule};

use super::shop::{ClientOptions, Declined, PAY, Payment, Receipt, Shop, Wish, network, payment};
use super::stores::on_every_store;

on_every_store![
    // A1, H1
    two_hundred_calls_of_which_some_are_sent_twice_pay_once_each_over_a_lossy_network,
];

async fn two_hundred_calls_of_which_some_are_sent_twice_pay_once_each_over_a_lossy_network(
    store: Arc<dyn Store>,
) {
    let shop = Shop::new();
    let serving = shop.serve(store).await;
    let proxy = network(&serving, lossy()).await;
    let clients: Vec<_> = (0..16)
        .map(|_| ClientOptions::quick(4).client(proxy.addr()))
        .collect();
    let calls = (0..200).map(|operation| {
        let mine = usize::try_from(operation % 16).unwrap();
        let twin = (mine + 1) % 16;
        let client = &clients[mine];
        let twin = is_doubled(operation).then(|| &clients[twin]);
        async move {
            let sent = [Some(client), twin].into_iter().flatten();
            (
                operation,
                join_all(sent.map(|client| call(client, operation))).await,
            )
        }
    });
    let mut endings_by_operation: Vec<_> = stream::iter(calls).buffer_unordered(64).collect().await;
    assert!(
        proxy.stats().fired.values().sum::<u64>() > 20,
        "{:?}",
        proxy.stats()
    );

    // The network heals, and what was left open is resumed under its key.
    proxy.set_plan(Plan::none());
    proxy.cut();
    let healed = ClientOptions::attempts(10).client(proxy.addr());
    for (operation, endings) in &mut endings_by_operation {
        let known = |(ending, _): &(Ending, Option<Ticket>)| *ending != Ending::Unknown;
        if !endings.iter().any(known) {
            let ticket = endings[0].1.clone().unwrap();
            endings.push(resume(&healed, ticket, *operation).await);
        }
    }

    let mut history = History::new();
    for (operation, endings) in endings_by_operation {
        let mut told = Operation::new(operation, payload(&wanted(operation))).attempts(1);
        for (ending, _) in endings {
            if ending != Ending::Unknown {
                told = told.ended(ending);
            }
        }
        history.push(told);
    }
    let payments = shop.payments();
    let effects: Effects = payments
        .iter()
        .map(|(paid, receipt)| Effect::new(paid.operation, payload(paid), text(receipt)))
        .collect();
    let report = check(&history, &effects);
    assert_eq!(report.verdict(), Verdict::Valid, "{report}");
    let figures = report.figures();
    // Whoever was told "not executed" is believed, and not asked again.
    let ended = figures.answered + figures.declined + figures.refused;
    assert_eq!((figures.calls, ended), (200, 200), "{report}");
    assert!(figures.refused < 20, "{report}");
    assert_eq!(figures.effects, figures.answered, "{report}");
    assert_eq!(shop.runs(), figures.answered + figures.declined, "{report}");
}

/// A quarter is declined.
fn wanted(operation: u64) -> Payment {
    let wish = if operation % 4 == 3 {
        Wish::Decline
    } else {
        Wish::Pay
    };
    payment(operation, wish)
}

fn is_doubled(operation: u64) -> bool {
    Seed::new(42).draw(&[operation]).happens(0.3)
}

async fn call(client: &Client, operation: u64) -> (Ending, Option<Ticket>) {
    let key = IdempotencyKey::derived("whole path", &operation.to_be_bytes());
    let ticket = if is_doubled(operation) {
        Ticket::new(key)
    } else {
        Ticket::never_sent(key)
    };
    resume(client, ticket, operation).await
}

/// How it ended, and what it is resumed with.
async fn resume(client: &Client, ticket: Ticket, operation: u64) -> (Ending, Option<Ticket>) {
    let failure = match client.resume(ticket, &PAY, &wanted(operation)).await {
        Ok(receipt) => return (Ending::Answered(text(&receipt).into()), None),
        Err(CallFailure::Fault(Declined { run })) => {
            return (Ending::Declined(run.to_string().into()), None);
        }
        Err(failure) => failure,
    };
    let ending = match &failure {
        CallFailure::InDoubt(_) => Ending::InDoubt,
        CallFailure::NotExecuted(_) => Ending::Refused,
        CallFailure::OutcomeUnknown(_) => Ending::Unknown,
        other => panic!("{operation}: {other:?}"),
    };
    (ending, failure.ticket().cloned())
}

fn payload(payment: &Payment) -> String {
    format!("{payment:?}")
}

fn text(receipt: &Receipt) -> String {
    format!("entry {}", receipt.entry)
}

/// Offsets lie within what a connection carries in a dozen calls: a receipt is smaller than a payment.
fn lossy() -> Plan {
    let rule = |direction, fault, probability| {
        let somewhere: RangeInclusive<u64> = match direction {
            Direction::ToClient => 20..=400,
            Direction::ToServer => 20..=1_500,
        };
        Rule::new(direction, fault)
            .after_bytes_within(somewhere)
            .probability(probability)
    };
    let delay = Fault::Delay {
        base: Duration::ZERO,
        jitter: Duration::from_millis(3),
    };
    Plan::none()
        .rule(rule(Direction::ToClient, Fault::DropRest, 0.25))
        .rule(rule(Direction::ToServer, Fault::DropRest, 0.15))
        .rule(rule(Direction::ToClient, Fault::Reset, 0.3))
        .rule(rule(Direction::ToServer, Fault::Reset, 0.2))
        .rule(rule(Direction::ToClient, Fault::Close, 0.15))
        .rule(rule(Direction::ToServer, Fault::Blackhole, 0.05))
        .rule(rule(Direction::ToClient, delay, 0.3))
        .rule(rule(
            Direction::ToClient,
            Fault::Slice { bytes_max: 7 },
            0.3,
        ))
}
