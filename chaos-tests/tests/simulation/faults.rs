//! Each fault of the simulation does something: what is seen of it would not be there without it.

use std::fmt::Display;

use onlyonce::chaos::sim::{SimExecutor, campaign, exhaust, plans};
use onlyonce_chaos::executor::Executor;
use onlyonce_chaos::fault::{Fault, Phase, Place, What, When};
use onlyonce_chaos::history::{Ending, Event, Happened, RunRecord};
use onlyonce_chaos::ledger::Verdict;
use onlyonce_chaos::scenario::Mode;

/// One call that this strikes at its first attempt: who asks again or comes back goes on with the
/// second one.
fn struck(place: Place, what: What, phase: Phase) -> RunRecord {
    let fault = Fault::new("it", place, what).when(When::phase(phase).call(1).attempt(1));
    let record = run(vec![fault], what);
    assert_eq!(record.fired["it"].struck, 1, "{what}");
    record
}

/// The same call, and nothing strikes.
fn calm() -> RunRecord {
    run(Vec::new(), "nothing")
}

fn run(faults: Vec<Fault>, what: impl Display) -> RunRecord {
    let scenario = exhaust::schedule(Mode::Claimed, 1, faults);
    let judged = campaign::judged(&scenario, SEED).unwrap();
    let report = &judged.report;
    // A single call may end in doubt.
    let is_valid = report.verdict() == Verdict::Valid;
    assert!(is_valid || report.is_only_unanswered(), "{what}: {report}");
    judged.run.record
}

/// How often attempts of a call, made while faults strike, did this.
fn count(record: &RunRecord, happened: impl Fn(&Event) -> bool) -> usize {
    record.events.iter().filter(|event| happened(event)).count()
}

/// How many attempts it took to get the first answer: who has it may ask for it again.
fn sent(record: &RunRecord) -> usize {
    let answered = |what: &Happened| {
        let ended = |ending: &Ending| matches!(ending, Ending::Answered(_));
        matches!(what, Happened::Ended { ending } if ended(ending))
    };
    let until = record.events.iter().position(|event| answered(&event.what));
    let until = &record.events[..until.expect("it is answered")];
    let sent = until.iter().filter(|event| event.what == Happened::Sent);
    sent.count()
}

fn lifecycle(record: &RunRecord, wanted: &str) -> usize {
    count(
        record,
        |event| matches!(&event.what, Happened::Lifecycle { event, .. } if event == wanted),
    )
}

#[test]
fn what_keeps_a_request_from_its_server_is_made_good_by_another_attempt() {
    for what in [
        What::Drop,
        What::Reset,
        What::Close,
        What::Corrupt,
        What::Truncate,
        What::Blackhole,
        What::Partition,
        LATE,
    ] {
        let record = struck(Place::Wire, what, Phase::RequestSent);
        let more = sent(&record) > sent(&calm());
        assert!(more, "{what}: one attempt was enough");
    }
}

#[test]
fn what_keeps_an_answer_from_its_client_is_made_good_by_a_replay() {
    for what in [
        What::Drop,
        What::Reset,
        What::Close,
        What::Corrupt,
        What::Truncate,
        What::Blackhole,
        What::Partition,
        LATE,
    ] {
        let record = struck(Place::Wire, what, Phase::ReplySent);
        let more = sent(&record) > sent(&calm());
        assert!(more, "{what}: the first answer was heard");
        let effects = count(&record, |event| {
            matches!(event.what, Happened::Effect { .. })
        });
        assert_eq!(effects, 1, "{what}");
    }
}

#[test]
fn a_server_that_is_killed_comes_back() {
    for phase in [
        Phase::RequestReceived,
        Phase::EffectDurable,
        Phase::ReplySent,
    ] {
        let crash = What::Crash { back_after_ms: 30 };
        let record = struck(Place::Server, crash, phase);
        let killed = lifecycle(&record, "killed");
        assert!(killed >= 1, "{phase}");
        let started = lifecycle(&calm(), "started");
        assert_eq!(lifecycle(&record, "started"), started + killed, "{phase}");
    }
}

#[test]
fn power_that_is_cut_takes_the_server_with_it() {
    for phase in [
        Phase::RequestReceived,
        Phase::EffectDurable,
        Phase::ReplySent,
    ] {
        let record = struck(Place::Disk, What::PowerCut, phase);
        // Power is also cut when everything is over.
        let cuts = lifecycle(&calm(), "power cut") + record.fired["it"].struck as usize;
        assert_eq!(lifecycle(&record, "power cut"), cuts, "{phase}");
    }
}

#[test]
fn a_disk_that_fails_ends_the_life_of_its_server() {
    let fails = Fault::new("it", Place::Disk, What::SyncFails)
        .when(When::phase(Phase::EffectDurable).call(2).attempt(1));
    let scenario = exhaust::schedule(Mode::Claimed, 1, vec![fails]);
    let judged = campaign::judged(&scenario, SEED).unwrap();
    // Its sync was that of the only call, which is in doubt.
    assert!(judged.report.is_only_unanswered(), "{judged}");
    assert_eq!(lifecycle(&judged.run.record, "killed"), 1);
}

#[test]
fn a_client_that_crashes_comes_back_with_its_calls() {
    for phase in [Phase::RequestSent, Phase::ReplyReceived] {
        let crash = What::Crash { back_after_ms: 30 };
        let record = struck(Place::Client, crash, phase);
        let invoked = count(&record, |event| {
            matches!(event.what, Happened::Invoked { .. })
        });
        assert!(invoked >= 2, "{phase}");
    }
}

#[test]
fn a_message_that_loses_a_packet_comes_with_a_retransmission() {
    let mut scenario = plans::only_the_wire(Mode::Claimed, 20);
    scenario.attempt_ms = 1_000;
    scenario.faults = vec![
        Fault::new("it", Place::Wire, What::PacketLoss)
            .when(When::phase(Phase::RequestSent).share(0.3)),
    ];
    let judged = campaign::judged(&scenario, SEED).unwrap();
    assert_eq!(judged.verdict(), Verdict::Valid, "{judged}");
    let record = judged.run.record;
    let (mut late, mut lost) = (0, 0);
    for struck in &record.events {
        if struck.call == 0 || !matches!(struck.what, Happened::Fault { .. }) {
            continue;
        }
        let received = record.events.iter().find(|event| {
            let same = (event.call, event.attempt) == (struck.call, struck.attempt);
            same && event.what == Happened::Received && event.at_us >= struck.at_us
        });
        match received {
            Some(received) => {
                let after_us = received.at_us - struck.at_us;
                assert!(after_us >= 200_000, "after {after_us} microseconds");
                late += 1;
            }
            None => lost += 1,
        }
    }
    assert!(late > lost, "{late} came late, {lost} not at all");
}

#[test]
fn a_connection_all_of_whose_packets_are_lost_breaks() {
    let record = struck(Place::Wire, What::PacketLoss, Phase::RequestSent);
    assert!(sent(&record) > sent(&calm()), "one attempt was enough");
}

#[test]
fn what_the_simulation_cannot_do_is_not_run_and_it_says_why() {
    let scenario = exhaust::schedule(Mode::Claimed, 1, Vec::new());
    let refused = |fault: Fault| {
        let refused = SimExecutor.can_fault(&scenario, &fault);
        refused.expect_err("it cannot").to_string()
    };
    let pause = What::Pause { for_ms: 10 };
    for place in [Place::Server, Place::Client] {
        let why = refused(Fault::new("it", place, pause));
        assert!(why.contains("none can stand still"), "{why}");
    }
    let mut late = Fault::new("it", Place::Wire, What::Truncate);
    late.when.after_bytes = Some(7);
    let why = refused(late);
    assert!(why.contains("whole messages"), "{why}");
    for phase in [
        Phase::RequestReceived,
        Phase::EffectDurable,
        Phase::ReplyReceived,
    ] {
        let never = Fault::new("it", Place::Wire, What::Drop).when(When::phase(phase));
        let why = refused(never);
        assert!(why.contains("when they are sent"), "{why}");
    }
}

/// Later than an attempt waits.
const LATE: What = What::Delay {
    min_ms: 200,
    max_ms: 200,
};

const SEED: u64 = 3;
