use std::collections::BTreeSet;

use super::*;
use crate::scenario::{Scenario, Workload};
use crate::seed::Seed;

fn scenario(workload: Workload, calls: u64) -> Scenario {
    let text = format!(
        "name = \"w\"\nworkload = \"{}\"\ncalls = {calls}",
        workload.name()
    );
    Scenario::parse(&text).unwrap()
}

#[test]
fn a_plan_follows_from_the_seed_alone_and_every_payload_is_an_order() {
    for workload in Workload::ALL {
        let scenario = scenario(workload, 300);
        let plan = Plan::new(&scenario, Seed::new(3));
        assert_eq!(plan, Plan::new(&scenario, Seed::new(3)), "{workload:?}");
        if workload != Workload::HotKey {
            assert_ne!(
                plan.calls,
                Plan::new(&scenario, Seed::new(4)).calls,
                "{workload:?}"
            );
        }
        assert_eq!(plan.calls.len(), 300);
        for (ordinal, call) in (1..).zip(&plan.calls) {
            assert_eq!(call.call, ordinal);
            assert!((1..=4).contains(&call.client));
            let order = Order::parse(&call.payload).unwrap();
            assert_eq!(order.to_bytes(), call.payload);
            assert_eq!(
                order.reference, call.key,
                "the books say whose effect it is"
            );
        }
        let of_clients: usize = (1..=4).map(|client| plan.of_client(client).count()).sum();
        assert_eq!(of_clients, 300);
    }
}

#[test]
fn a_shorter_run_makes_the_same_first_calls() {
    let long = Plan::new(&scenario(Workload::Transfers, 300), Seed::new(3));
    let short = Plan::new(&scenario(Workload::Transfers, 100), Seed::new(3));
    assert_eq!(long.calls[..100], short.calls);
}

#[test]
fn transfers_have_twins_and_keys_that_are_used_for_something_else() {
    let plan = Plan::new(&scenario(Workload::Transfers, 2_000), Seed::new(1));
    let keys: BTreeSet<_> = plan.calls.iter().map(|call| &call.key).collect();
    let intents: BTreeSet<_> = plan
        .calls
        .iter()
        .map(|call| (&call.key, &call.payload))
        .collect();
    let twins = plan.calls.len() - intents.len();
    let poison = intents.len() - keys.len();
    assert!((50..150).contains(&twins), "{twins}");
    assert!((15..80).contains(&poison), "{poison}");
}

#[test]
fn all_callers_of_a_hot_key_ask_for_the_same() {
    let plan = Plan::new(&scenario(Workload::HotKey, 10_000), Seed::new(1));
    let asked: BTreeSet<_> = plan
        .calls
        .iter()
        .map(|call| (&call.key, &call.payload))
        .collect();
    assert_eq!(asked.len(), 1);
}

#[test]
fn the_naive_control_asks_for_nothing_twice() {
    for workload in Workload::ALL {
        let plan = Plan::new(&scenario(workload, 500).naive(), Seed::new(1));
        let keys: BTreeSet<_> = plan.calls.iter().map(|call| &call.key).collect();
        assert_eq!(keys.len(), 500, "{workload:?}");
    }
}

#[test]
fn clients_of_an_outbox_and_servers_of_a_rolling_restart_go_down_on_the_way() {
    let down = |workload| -> Vec<(u64, String)> {
        let plan = Plan::new(&scenario(workload, 100), Seed::new(1));
        plan.outages
            .into_iter()
            .map(|outage| (outage.after_calls, outage.who))
            .collect()
    };
    assert_eq!(
        down(Workload::Outbox),
        [(33, "client-1".into()), (66, "client-2".into())]
    );
    let servers = down(Workload::RollingRestarts);
    assert_eq!(servers[2], (75, "server-3".into()));
    assert!(down(Workload::Transfers).is_empty());
}

#[test]
fn books_do_whatever_they_are_told_as_often_as_they_are_told() {
    let mut books = Books::new([("a1".to_owned(), 100), ("a2".to_owned(), 0)].into());
    let mut apply = |text: &str| match books.apply(&Order::parse(text.as_bytes()).unwrap()) {
        Reply::Applied { answer, .. } => (true, String::from_utf8(answer).unwrap()),
        Reply::Declined { answer } => (false, String::from_utf8(answer).unwrap()),
    };
    let yes = |text: &str| (true, text.to_owned());
    assert_eq!(apply("k transfer a1 a2 30"), yes("a1 has 70"));
    assert_eq!(apply("k transfer a1 a2 30"), yes("a1 has 40"));
    assert!(!apply("k transfer a1 a2 41").0);
    assert!(!apply("k transfer a1 a2 18446744073709551615").0);
    assert_eq!(apply("c charge a1 10"), yes("a1 has 30"));
    assert_eq!(apply("r refund c"), yes("shop has 0"));
    assert!(!apply("r refund c").0);
    assert_eq!(apply("m append box1 x"), yes("x is line 1 of box1"));
    assert_eq!(apply("m append box1 x"), yes("x is line 2 of box1"));
    assert_eq!(books.accounts()["a1"], 40);
}

#[test]
fn what_an_order_says_is_what_it_did_to_the_accounts() {
    for workload in Workload::ALL {
        let plan = Plan::new(&scenario(workload, 500), Seed::new(9));
        let mut books = Books::new(plan.opening.clone());
        let mut sums = plan.opening.clone();
        let mut declined = 0;
        for call in &plan.calls {
            match books.apply(&Order::parse(&call.payload).unwrap()) {
                Reply::Applied { legs, .. } => {
                    for (account, amount) in legs {
                        *sums.entry(account).or_default() += amount;
                    }
                }
                Reply::Declined { .. } => declined += 1,
            }
        }
        assert_eq!(&sums, books.accounts(), "{workload:?}");
        let never = matches!(workload, Workload::Mailbox | Workload::HotKey);
        assert_eq!(declined == 0, never, "{workload:?}");
    }
}

#[test]
fn what_is_no_order_is_refused() {
    for payload in [
        "",
        "k",
        "k transfer a b",
        "k transfer a b x",
        "k transfer a b -1",
        "k pay a b 1",
        "k refund a b",
    ] {
        assert!(Order::parse(payload.as_bytes()).is_err(), "{payload}");
    }
    let error = Order::parse(b"\xff\n").unwrap_err();
    assert_eq!(error.to_string(), "no order: \\xff\\n");
}
