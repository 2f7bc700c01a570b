//! What clients ask for: each workload is carried out, in both ways to keep the books.

use std::collections::BTreeSet;

use onlyonce::chaos::sim::{campaign, plans};
use onlyonce_chaos::history::{Ending, Event, Happened, RunRecord};
use onlyonce_chaos::ledger::Verdict;
use onlyonce_chaos::scenario::{Mode, Workload};

fn run(workload: Workload, mode: Mode) -> RunRecord {
    let mut scenario = plans::only_the_wire(mode, 40);
    scenario.workload = workload;
    let judged = campaign::judged(&scenario, SEED).unwrap();
    let name = workload.name();
    assert_eq!(judged.verdict(), Verdict::Valid, "{name}: {judged}");
    judged.run.record
}

fn answers(record: &RunRecord) -> Vec<(u64, String)> {
    let answer = |Event { call, what, .. }: &Event| match what {
        Happened::Ended {
            ending: Ending::Answered(answer) | Ending::Declined(answer),
        } => Some((*call, String::from_utf8_lossy(answer).into_owned())),
        _ => None,
    };
    record.events.iter().filter_map(answer).collect()
}

fn effects(record: &RunRecord) -> Vec<&Vec<(String, i64)>> {
    let legs = |event: &'_ Event| matches!(event.what, Happened::Effect { .. });
    let effects = record.events.iter().filter(|event| legs(event));
    effects
        .filter_map(|event| match &event.what {
            Happened::Effect { legs, .. } => Some(legs),
            _ => None,
        })
        .collect()
}

#[test]
fn a_refund_gives_back_what_its_charge_took_and_nothing_where_that_took_nothing() {
    for mode in [Mode::Claimed, Mode::Transactional] {
        let record = run(Workload::Refunds, mode);
        let given_back = effects(&record)
            .into_iter()
            .filter(|legs| legs[0].0 == "account-7")
            .count();
        assert!(given_back > 0, "nothing was given back");
        let declined = answers(&record);
        let declined = declined
            .iter()
            .filter(|(_, answer)| answer.contains("nothing to"));
        assert!(declined.count() > 0, "nothing was declined");
    }
}

#[test]
fn an_answer_of_a_mailbox_is_a_place_that_nobody_else_has() {
    for mode in [Mode::Claimed, Mode::Transactional] {
        let record = run(Workload::Mailbox, mode);
        let answered: BTreeSet<String> = answers(&record)
            .into_iter()
            .map(|(_, answer)| answer)
            .collect();
        assert!(answered.len() > 20);
        assert!(answered.iter().all(|answer| answer.starts_with("place ")));
        let lines: i64 = record.accounts.iter().flatten().map(|(_, held)| held).sum();
        assert_eq!(lines, effects(&record).len() as i64);
    }
}

#[test]
fn a_key_that_everybody_sends_has_one_effect_and_one_answer() {
    for mode in [Mode::Claimed, Mode::Transactional] {
        let record = run(Workload::HotKey, mode);
        assert_eq!(effects(&record).len(), 1);
        let answers = answers(&record);
        let callers: BTreeSet<u64> = answers.iter().map(|(call, _)| *call).collect();
        assert!(callers.len() > 30, "{} calls were answered", callers.len());
        assert!(answers.iter().all(|(_, answer)| *answer == answers[0].1));
    }
}

#[test]
fn a_server_that_is_restarted_again_and_again_loses_and_doubles_nothing() {
    for mode in [Mode::Claimed, Mode::Transactional] {
        let record = run(Workload::RollingRestarts, mode);
        let killed = |event: &&Event| matches!(&event.what, Happened::Lifecycle { who, event } if who == "server" && event == "killed");
        let killed = record.events.iter().filter(killed).count();
        assert_eq!(killed, 3, "as often as the workload says");
    }
}

#[test]
fn clients_of_an_outbox_go_down_without_any_fault_and_come_back() {
    let record = run(Workload::Outbox, Mode::Claimed);
    let killed = |event: &&Event| matches!(&event.what, Happened::Lifecycle { who, event } if who.starts_with("client") && event == "killed");
    assert!(record.events.iter().filter(killed).count() > 0);
}

#[test]
fn effects_that_are_seen_when_they_are_durable_stand_between_question_and_answer() {
    let record = run(Workload::Transfers, Mode::Transactional);
    let durable = record.events.iter().filter(|event| {
        matches!(
            event.what,
            Happened::Effect {
                seen: onlyonce_chaos::history::Seen::AtCommit,
                ..
            }
        )
    });
    let mut seen = 0;
    for effect in durable {
        let Happened::Effect { key, .. } = &effect.what else {
            continue;
        };
        // A twin may have been there first.
        let mut invocations = record.events.iter().filter(
            |event| matches!(&event.what, Happened::Invoked { key: invoked, .. } if invoked == key),
        );
        let invoked = invocations.next().unwrap();
        assert!(invoked.at_us <= effect.at_us);
        let callers: Vec<u64> = [invoked.call]
            .into_iter()
            .chain(invocations.map(|event| event.call))
            .collect();
        let answered = record.events.iter().find(|event| {
            let ending = matches!(
                &event.what,
                Happened::Ended {
                    ending: Ending::Answered(_)
                }
            );
            ending && callers.contains(&event.call)
        });
        if let Some(answered) = answered {
            assert!(effect.at_us <= answered.at_us);
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} effects were seen");
}

const SEED: u64 = 5;
