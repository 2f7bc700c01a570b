//! What clients do besides making calls: they ask together, misuse keys, crash and come back.

use std::collections::{BTreeMap, BTreeSet};

use onlyonce::chaos::sim::{campaign, exhaust, plans};
use onlyonce_chaos::fault::{Fault, Phase, Place, What, When};
use onlyonce_chaos::history::{Ending, Event, Happened, RunRecord};
use onlyonce_chaos::ledger::Verdict;
use onlyonce_chaos::scenario::Mode;

/// Each call's key, and how often it was begun.
fn begun(record: &RunRecord) -> BTreeMap<u64, (String, u32)> {
    let mut begun: BTreeMap<u64, (String, u32)> = BTreeMap::new();
    for Event { call, what, .. } in &record.events {
        if let Happened::Invoked { key, .. } = what {
            begun.entry(*call).or_insert((key.clone(), 0)).1 += 1;
        }
    }
    begun
}

/// The calls that use a key which is another payload's.
fn misused(record: &RunRecord) -> BTreeSet<u64> {
    let mut first: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut misused = BTreeSet::new();
    for event in &record.events {
        if let Happened::Invoked { key, payload, .. } = &event.what
            && first.entry(key.clone()).or_insert_with(|| payload.clone()) != payload
        {
            misused.insert(event.call);
        }
    }
    misused
}

/// Found as seed 659 of the gate: a call that had used the key of another and came back after a crash
/// was left open.
#[test]
fn clients_that_crash_again_and_again_leave_no_call_open() {
    for seed in 1..=12 {
        let mut scenario = plans::crashing_clients(Mode::Claimed, 40);
        let crash = What::Crash { back_after_ms: 90 };
        scenario.faults = vec![
            Fault::new("clients crash", Place::Client, crash)
                .when(When::phase(Phase::ReplyReceived).share(0.2)),
        ];
        let judged = campaign::judged(&scenario, seed).unwrap();
        assert_eq!(judged.verdict(), Verdict::Valid, "seed {seed}: {judged}");
    }
}

#[test]
fn two_clients_ask_for_one_thing_at_the_same_time_and_it_happens_once() {
    let mut twins = 0;
    for seed in 1..=4 {
        let scenario = plans::only_the_wire(Mode::Claimed, 40);
        let judged = campaign::judged(&scenario, seed).unwrap();
        assert_eq!(judged.verdict(), Verdict::Valid, "seed {seed}: {judged}");
        let record = &judged.run.record;
        let keys: BTreeSet<String> = begun(record).into_values().map(|(key, _)| key).collect();
        twins += begun(record).len() - keys.len() - misused(record).len();
    }
    assert!(twins > 0, "no two clients asked for one thing");
}

/// A client that asked again began with attempt 1, and what had been lost was lost again.
#[test]
fn who_asks_again_goes_on_with_the_numbers_and_gets_an_answer_while_faults_strike() {
    let mut scenario = exhaust::schedule(Mode::Claimed, 10, Vec::new());
    // More than the layers make of one call.
    let first = When {
        first_attempts: Some(6),
        ..When::phase(Phase::RequestSent).call(1)
    };
    scenario.faults = vec![Fault::new("lost", Place::Wire, What::Drop).when(first)];
    let judged = campaign::judged(&scenario, 1).unwrap();
    assert_eq!(judged.verdict(), Verdict::Valid, "{judged}");
    let events = &judged.run.record.events;
    let of_call = |what: fn(&Happened) -> bool| {
        let events = events.iter().enumerate();
        events.filter(move |(_, event)| event.call == 1 && what(&event.what))
    };
    let sent = of_call(|what| *what == Happened::Sent);
    let sent: Vec<u32> = sent.map(|(_, event)| event.attempt).collect();
    let numbers: Vec<u32> = (1..).take(sent.len()).collect();
    assert_eq!(sent, numbers);
    let answered = |what: &Happened| {
        let ended = |ending: &Ending| matches!(ending, Ending::Answered(_) | Ending::Declined(_));
        matches!(what, Happened::Ended { ending } if ended(ending))
    };
    let (answered, _) = of_call(answered).next().unwrap();
    let peace = events
        .iter()
        .position(|event| event.what == Happened::FaultsEnded);
    assert!(answered < peace.unwrap(), "{sent:?}");
}

#[test]
fn a_client_that_crashes_goes_on_with_the_numbers_of_its_attempts() {
    let mut came_back = 0;
    for seed in 1..=4 {
        let mut scenario = plans::crashing_clients(Mode::Claimed, 40);
        let crash = What::Crash { back_after_ms: 90 };
        scenario.faults = vec![
            Fault::new("clients crash", Place::Client, crash)
                .when(When::phase(Phase::RequestSent).share(0.2)),
        ];
        let record = campaign::judged(&scenario, seed).unwrap().run.record;
        let mut sent: BTreeMap<u64, u32> = BTreeMap::new();
        for Event {
            call,
            attempt,
            what,
            ..
        } in &record.events
        {
            if *what == Happened::Sent {
                let before = sent.insert(*call, *attempt).unwrap_or(0);
                assert!(
                    *attempt > before,
                    "seed {seed}: call {call}, {before}, {attempt}"
                );
            }
        }
        came_back += begun(&record)
            .values()
            .filter(|(_, times)| *times > 1)
            .count();
    }
    assert!(came_back > 0, "nobody came back");
}
